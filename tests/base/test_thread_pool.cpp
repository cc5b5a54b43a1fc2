#include <atomic>
#include <stdexcept>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "tests/catch.h"

using namespace megatron;

TEST_CASE("every index is visited exactly once, in blocks of the asked size") {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (int64_t count : {0, 1, 7, 64, 1000}) {
      for (int64_t grain : {1, 3, 64, 5000}) {
        std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
        std::atomic<bool> aligned{true};
        pool.parallel_for(count, grain, [&](int64_t begin, int64_t end) {
          if (begin % grain != 0 || (end - begin != grain && end != count)) aligned = false;
          for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
        });
        CHECK(aligned);
        for (const auto& visit : visits) REQUIRE(visit == 1);
      }
    }
  }
}

TEST_CASE("many short loops in a row neither hang nor lose work") {
  ThreadPool pool(4);
  std::atomic<int64_t> sum{0};
  for (int round = 0; round < 2000; ++round) {
    pool.parallel_for(16, 1, [&](int64_t begin, int64_t) { sum += begin; });
  }
  CHECK(sum == 2000 * 120);
}

TEST_CASE("an exception in a block is rethrown to the caller, and the pool still works") {
  for (int threads : {1, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 20; ++round) {
      CHECK_THROWS_AS(pool.parallel_for(100, 1,
                                        [](int64_t begin, int64_t) {
                                          if (begin == 37) throw DataError("block 37");
                                        }),
                      DataError);
      std::atomic<int> blocks{0};
      pool.parallel_for(10, 1, [&](int64_t, int64_t) { ++blocks; });
      CHECK(blocks == 10);
    }
  }
}

TEST_CASE("a pool needs a thread and a loop needs a grain") {
  CHECK_THROWS_AS(ThreadPool(0), InternalError);
  ThreadPool pool(2);
  CHECK_THROWS_AS(pool.parallel_for(1, 0, [](int64_t, int64_t) {}), InternalError);
}
