// Ranks as threads of one process: how parallel code is tested, and the communicator of a single rank.
#pragma once

#include <memory>
#include <vector>

#include "program/comm.h"

namespace megatron {

/// Communicators of `size` ranks that share memory; element r belongs to the thread of rank r. Sums run in rank order
/// on every rank, so results are deterministic and equal everywhere. Size 1 never waits.
std::vector<std::unique_ptr<Comm>> make_thread_comms(int size);

}  // namespace megatron
