// Does a communicator do what it promises, on this machine? Run by the tests on every backend, and by
// `megatron bench comm --check` where it will be used.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "device/device.h"
#include "program/comm.h"

namespace megatron {

struct CommCheck {
  int64_t cases = 0;
  std::vector<std::string> failures;  ///< what was called and the first wrong element, as seen by this rank
};

/// Every operation, type and reduction, even and uneven blocks, none and many elements, in place where allowed, and
/// split, against values computed here (small whole numbers, so that every order of a sum is exact). A collective call;
/// `device` is that of the tensors.
CommCheck check_comm(Comm& comm, Device& device);

/// Collectives captured into a CUDA graph and replayed. Only in builds with CUDA; `device` is a GPU.
CommCheck check_comm_in_graph(Comm& comm, Device& device);

}  // namespace megatron
