// The global batch size by consumed samples.
#include "config/batch_schedule.h"

#include "config/load.h"
#include "example.h"
#include "tests/catch.h"

namespace megatron {

TEST_CASE("a schedule of batch sizes: thresholds are tokens, rounded down to samples") {
  std::string problem;
  const auto schedule = parse_batch_schedule(" 0:4  1K:8\t2M:16 ", 32, &problem);
  REQUIRE(schedule);
  REQUIRE(schedule->size() == 3);
  CHECK((*schedule)[1].first_sample == 31);  // 1000 / 32
  CHECK((*schedule)[2].first_sample == 62500);
  CHECK(batch_size_at(*schedule, 0) == 4);
  CHECK(batch_size_at(*schedule, 30) == 4);
  CHECK(batch_size_at(*schedule, 31) == 8);
  CHECK(batch_size_at(*schedule, 62500) == 16);
  CHECK(parse_batch_schedule("0:768 250B:1536 1T:3072", 2048, &problem)->at(1).first_sample == 122070312);
  for (const char* text : {"", "0", "0:", "0:0", "0:-4", "0:4 1.5K:8", "0:4 1k:8", "0:4,64:8", "0:4 9999999999T:8"}) {
    INFO(text);
    CHECK_FALSE(parse_batch_schedule(text, 32, &problem));
    CHECK_FALSE(problem.empty());
  }
}

TEST_CASE("steps of a schedule are those that taking them one by one counts") {
  for (const BatchSchedule& schedule :
       {BatchSchedule{{0, 8}}, BatchSchedule{{0, 4}, {10, 8}}, BatchSchedule{{0, 4}, {3, 6}, {5, 16}, {100, 32}},
        BatchSchedule{{0, 16}, {4, 16}, {8, 32}}}) {
    for (int64_t samples = 0; samples < 300; ++samples) {
      int64_t steps = 0, consumed = 0;
      while (consumed + batch_size_at(schedule, consumed) <= samples) {
        consumed += batch_size_at(schedule, consumed);
        ++steps;
      }
      INFO(samples << " samples");
      CHECK(steps_within(schedule, samples) == steps);
    }
  }
}

TEST_CASE("global_batch_size is the last of the schedule, and resolved.yaml reads back") {
  std::string text = test::kSound;
  const std::string key = "global_batch_size: 8";
  REQUIRE(text.find(key) != std::string::npos);
  text.replace(text.find(key), key.size(), "step_batch_size_schedule: 0:4 1K:16");
  const LoadedConfig loaded = load_config_text(text, "schedule");
  CHECK(loaded.config.training.global_batch_size == 16);
  CHECK(batch_schedule(loaded.config)[0].batch_size == 4);
  CHECK(load_config_text(to_yaml(loaded.config), "resolved.yaml").config == loaded.config);
}

}  // namespace megatron
