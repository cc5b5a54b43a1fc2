// The GPUs of this machine as the CUDA runtime sees them. Only in builds with CUDA (MEGATRON_HAVE_CUDA).
#pragma once

#include <string>
#include <vector>

#include "device/gpu_failure.h"

namespace megatron {

/// The CUDA software and the visible GPUs.
struct CudaFacts {
  int driver_version = 0, runtime_version = 0;
  std::string architectures;  ///< compute capabilities that this build has code for
  std::string failure;        ///< why no GPU is usable, with a remedy; empty when there are some
  std::vector<GpuFacts> gpus;
};

/// Asks without touching a GPU: memory is not filled in. Never throws.
CudaFacts cuda_facts();

/// Opens GPU `facts.index`, fills in its memory, and returns why it cannot be used; empty when it can.
std::string open_gpu(GpuFacts& facts);

/// Opens GPU `index` and makes it this thread's; DeviceError says why it cannot be used.
GpuFacts require_gpu(int index);

/// What the GPUs of one machine are to each other.
struct PeerLink {
  bool access = false;          ///< one can read and write the other's memory
  bool native_atomics = false;  ///< over the link: NVLink rather than PCIe
  int performance_rank = 0;     ///< 0 is the fastest kind of link
};
PeerLink peer_link(int from, int to);

}  // namespace megatron
