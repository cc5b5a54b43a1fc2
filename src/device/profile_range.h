// Named ranges for profilers (NVTX): Nsight Systems shows them above the kernels. Without a profiler a range costs a
// call and a test; in builds without CUDA it does nothing.
#pragma once

#include <string>

namespace megatron {

/// A range of this thread's time line, from construction to destruction; ranges nest. Names are those of modules and
/// phases ("decoder.layers.7.mlp", "forward").
class ProfileRange {
 public:
  explicit ProfileRange(const char* name);
  explicit ProfileRange(const std::string& name) : ProfileRange(name.c_str()) {}
  ~ProfileRange();
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;
};

/// True in builds whose ranges reach a profiler.
bool profile_ranges_available();

/// Starts and stops the recording of a profiler that waits for it (nsys profile --capture-range=cudaProfilerApi), as
/// profile.profile_step_start and profile_step_end ask. Nothing happens without a profiler.
void start_profiler();
void stop_profiler();

}  // namespace megatron
