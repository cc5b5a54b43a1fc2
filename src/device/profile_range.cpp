#include "device/profile_range.h"

#ifdef MEGATRON_HAVE_CUDA
#include <cuda_profiler_api.h>
#include <nvtx3/nvToolsExt.h>
#endif

namespace megatron {

#ifdef MEGATRON_HAVE_CUDA

ProfileRange::ProfileRange(const char* name) {
  nvtxRangePushA(name);
}
ProfileRange::~ProfileRange() {
  nvtxRangePop();
}
bool profile_ranges_available() {
  return true;
}
// Both fail only without a driver, where there is nothing to record.
void start_profiler() {
  static_cast<void>(cudaProfilerStart());
}
void stop_profiler() {
  static_cast<void>(cudaProfilerStop());
}

#else

ProfileRange::ProfileRange(const char*) {}
ProfileRange::~ProfileRange() = default;
bool profile_ranges_available() {
  return false;
}
void start_profiler() {}
void stop_profiler() {}

#endif

}  // namespace megatron
