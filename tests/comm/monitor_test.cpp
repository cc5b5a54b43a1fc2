// Ranks that watch each other: who is to blame, and who is told.
#include "comm/monitor.h"

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "base/error.h"
#include "base/strings.h"
#include "comm/thread_world.h"
#include "tests/catch.h"
#include "tests/program/rig.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

RankState state(int rank, double silent, double stood, bool waits) {
  return {str_cat("rank ", rank), silent, stood, waits, str_cat("place ", rank), false};
}

/// Three ranks with monitors; body(rank, recorder, monitor) runs on each. The culprits that the monitors named, by
/// rank.
std::vector<std::string> watch(double seconds, const std::function<void(int, FlightRecorder&, Monitor&)>& body) {
  std::vector<std::string> culprits(3);
  run_thread_ranks(3, [&](World& world) {
    const auto recorder = std::make_shared<FlightRecorder>();
    std::string& culprit = culprits[static_cast<size_t>(world.rank())];
    Monitor monitor(world, recorder, seconds, [&](const Verdict& verdict) { culprit = verdict.culprit; });
    recorder->set_phase("iteration 1");
    body(world.rank(), *recorder, monitor);
  });
  return culprits;
}

void sleep_ms(int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

/// Moves every 20 ms.
void work(FlightRecorder& recorder, int ms) {
  for (int i = 0; i < ms / 20; ++i) {
    recorder.set_phase("iteration");
    sleep_ms(20);
  }
}

}  // namespace

TEST_CASE("the rank to blame is the silent one, then the one outside of collectives, then none") {
  CHECK_FALSE(judge_standstill({state(0, 0, 9, true), state(1, 0.5, 3, false)}, 10, 5));
  const auto silent = judge_standstill({state(0, 0, 11, true), state(1, 9, 1, true), state(2, 0, 11, false)}, 10, 5);
  REQUIRE(silent);
  CHECK(silent->rank == 1);
  CHECK(silent->culprit == "rank 1");
  CHECK(contains(silent->text, "rank 1 has given no sign of life for 9.0s; it place 1"));
  CHECK(contains(silent->text, "\n  rank 2 place 2"));
  CHECK(contains(silent->text, "(last heard of 9.0s ago)"));
  const auto elsewhere =
      judge_standstill({state(0, 0, 11, true), state(1, 1, 10, false), state(2, 0, 11, true)}, 10, 5);
  REQUIRE(elsewhere);
  CHECK(elsewhere->culprit == "rank 1");
  CHECK(contains(elsewhere->text, "rank 1 has not moved for 10.0s: it place 1"));
  const auto crossed = judge_standstill({state(0, 0, 11, true), state(1, 0, 10, true)}, 10, 5);
  REQUIRE(crossed);
  CHECK(crossed->rank == -1);
  CHECK(contains(crossed->text, "the ranks wait for each other"));
  RankState left = state(1, 100, 100, false);
  left.has_left = true;
  CHECK_FALSE(judge_standstill({state(0, 0, 9, true), left}, 10, 5));
}

TEST_CASE("ranks that move, or have ended, are left in peace") {
  CHECK(watch(0.3, [](int, FlightRecorder& recorder, Monitor&) { work(recorder, 900); }) ==
        std::vector<std::string>(3));
  CHECK(watch(0.3, [](int rank, FlightRecorder& recorder, Monitor&) {
          if (rank > 0) work(recorder, 700);  // without rank 0
        }) == std::vector<std::string>(3));
  CHECK(watch(0.2, [](int, FlightRecorder&, Monitor& monitor) {
          monitor.set_seconds(5);
          sleep_ms(700);
        }) == std::vector<std::string>(3));
}

TEST_CASE("a rank that stands is named on every rank") {
  for (const int culprit : {0, 2}) {
    const auto named = watch(0.4, [&](int rank, FlightRecorder& recorder, Monitor&) {
      rank == culprit ? sleep_ms(1500) : work(recorder, 1500);
    });
    for (const std::string& name : named) CHECK(starts_with(name, str_cat("rank ", culprit, " (")));
  }
}

TEST_CASE("a rank that fails is named on the others") {
  for (const int culprit : {0, 1}) {
    const auto named = watch(30, [&](int rank, FlightRecorder&, Monitor& monitor) {
      if (rank == culprit) monitor.fail("bad data");
      sleep_ms(500);
    });
    for (int r = 0; r < 3; ++r) {
      const std::string& name = named[static_cast<size_t>(r)];
      CHECK((r == culprit ? name.empty() : starts_with(name, str_cat("rank ", culprit, " ("))));
    }
  }
}
