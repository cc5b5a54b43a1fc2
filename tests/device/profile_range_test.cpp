#include "device/profile_range.h"

#include <string>

#include "tests/catch.h"

using namespace megatron;

TEST_CASE("profile ranges nest and do nothing without a profiler") {
#ifdef MEGATRON_HAVE_CUDA
  CHECK(profile_ranges_available());
#else
  CHECK_FALSE(profile_ranges_available());
#endif
  start_profiler();
  for (int i = 0; i < 3; ++i) {
    const ProfileRange outer("forward");
    const ProfileRange inner(std::string("decoder.layers.") + std::to_string(i));
  }
  stop_profiler();
}
