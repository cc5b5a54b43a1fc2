// Schedules of all shapes run on paper, and faults planted in them are found.
#include "parallel/pipeline_schedule.h"

#include <algorithm>

#include "base/error.h"
#include "base/strings.h"
#include "tests/catch.h"
#include "tests/program/rig.h"

namespace megatron::testing {
namespace {

using Action = Instruction::Action;
constexpr ScheduleKind kKinds[] = {ScheduleKind::kGPipe, ScheduleKind::k1F1B, ScheduleKind::kZeroBubble};

/// "F0 F1 B0 B1": what a stage computes.
std::string runs_of(const PipelineSchedule& schedule, int stage) {
  std::vector<std::string> texts;
  for (const Instruction& i : schedule.stages[static_cast<size_t>(stage)]) {
    if (i.action != Action::kRun) continue;
    const std::string text = describe(i);
    texts.push_back(schedule.shape.chunks > 1 ? text : text.substr(0, text.find('.')));
  }
  return join(texts, " ");
}

std::string fault_of(const PipelineSchedule& schedule) {
  return tiny::message_of([&] { simulate(schedule, usual_times(schedule)); });
}

PipelineReport report_of(ScheduleKind kind, const PipelineShape& shape) {
  const PipelineSchedule schedule = make_schedule(kind, shape);
  return simulate(schedule, usual_times(schedule));
}

}  // namespace

TEST_CASE("schedules: 1F1B and interleaved 1F1B are the published ones") {
  const PipelineSchedule plain = make_schedule(ScheduleKind::k1F1B, {4, 1, 8});
  CHECK(runs_of(plain, 0) == "F0 F1 F2 F3 B0 F4 B1 F5 B2 F6 B3 F7 B4 B5 B6 B7");
  CHECK(runs_of(plain, 1) == "F0 F1 F2 B0 F3 B1 F4 B2 F5 B3 F6 B4 F7 B5 B6 B7");
  CHECK(runs_of(plain, 3) == "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 F6 B6 F7 B7");
  CHECK(plain.slot_sets == std::vector<std::vector<int>>{{4}, {4}, {3}, {2}});
  const PipelineSchedule two = make_schedule(ScheduleKind::k1F1B, {2, 2, 4});
  CHECK(runs_of(two, 0) == "F0.0 F1.0 F0.1 F1.1 F2.0 B0.1 F3.0 B1.1 F2.1 B0.0 F3.1 B1.0 B2.1 B3.1 B2.0 B3.0");
  CHECK(runs_of(two, 1) == "F0.0 F1.0 F0.1 B0.1 F1.1 B1.1 F2.0 B0.0 F3.0 B1.0 F2.1 B2.1 F3.1 B3.1 B2.0 B3.0");
  const PipelineSchedule four = make_schedule(ScheduleKind::k1F1B, {4, 2, 8});
  CHECK(starts_with(runs_of(four, 0), "F0.0 F1.0 F2.0 F3.0 F0.1 F1.1 F2.1 F3.1 F4.0 F5.0 F6.0 B0.1 F7.0 B1.1 F4.1 "));
  CHECK(ends_with(runs_of(four, 3), " F7.1 B7.1 B4.0 B5.0 B6.0 B7.0"));
  CHECK(runs_of(make_schedule(ScheduleKind::k1F1B, {1, 1, 3}), 0) == "F0 B0 F1 B1 F2 B2");
  CHECK(make_schedule(ScheduleKind::k1F1B, {1, 1, 3}).slot_sets[0][0] == 1);
  CHECK(runs_of(make_schedule(ScheduleKind::kGPipe, {2, 1, 3}), 1) == "F0 F1 F2 B0 B1 B2");
}

TEST_CASE("schedules: every shape up to 8 x 4 x 16 ends, in order, within its slot sets") {
  int checked = 0;
  for (const ScheduleKind kind : kKinds) {
    for (int stages = 1; stages <= 8; ++stages) {
      for (int chunks = 1; chunks <= (stages == 1 ? 1 : 4); ++chunks) {
        for (int m = 1; m <= 16; ++m) {
          for (const bool backward : {true, false}) {
            INFO(name_of(kind) << " " << stages << " x " << chunks << " x " << m << (backward ? "" : " forward"));
            const PipelineSchedule schedule = make_schedule(kind, {stages, chunks, m, backward});
            const PipelineReport report = simulate(schedule, usual_times(schedule));
            const double work = (backward ? 3.0 : 1.0) * chunks * m;
            REQUIRE(report.busy == work);
            REQUIRE(report.seconds >= work + (stages - 1));
            ++checked;
          }
        }
      }
    }
  }
  CHECK(checked == 3 * 2 * 16 * (1 + 7 * 4));
}

TEST_CASE("schedules: bubbles and micro-batches in flight are those of the papers") {
  for (int stages = 2; stages <= 8; ++stages) {
    for (int m : {stages, 2 * stages, 16}) {
      INFO(stages << " stages, " << m << " micro-batches");
      const double ideal = static_cast<double>(stages - 1) / m;
      if (m < stages) continue;
      const PipelineReport plain = report_of(ScheduleKind::k1F1B, {stages, 1, m});
      CHECK(plain.bubble == Approx(ideal));
      for (int s = 0; s < stages; ++s) {
        const int received = s > 0 ? 1 : 0;  // one more may be received already
        CHECK(plain.in_flight[static_cast<size_t>(s)] <= std::min(stages - s + received, m));
        CHECK(plain.in_flight[static_cast<size_t>(s)] >= std::min(stages - s, m));
      }
      CHECK(report_of(ScheduleKind::kGPipe, {stages, 1, m}).bubble == Approx(ideal));
      CHECK(report_of(ScheduleKind::kGPipe, {stages, 1, m}).in_flight[0] == m);
      if (m % stages == 0) {
        for (int chunks = 2; chunks <= 4; ++chunks) {
          CHECK(report_of(ScheduleKind::k1F1B, {stages, chunks, m}).bubble == Approx(ideal / chunks));
        }
      }
      // ZB-H1: a third of the bubble of 1F1B, in the memory of its first stage.
      const PipelineReport zero = report_of(ScheduleKind::kZeroBubble, {stages, 1, m});
      CHECK(zero.bubble <= Approx(ideal / 3));
      for (const int in_flight : zero.in_flight) CHECK(in_flight <= std::min(stages + 1, m));
    }
  }
}

TEST_CASE("schedules: transfers that take time cost a little, not a round of waiting for each") {
  for (const int stages : {2, 4, 8}) {
    const PipelineSchedule schedule = make_schedule(ScheduleKind::k1F1B, {stages, 1, 32});
    PhaseTimes times = usual_times(schedule);
    const double without = simulate(schedule, times).seconds;
    times.transfer = 0.01;
    CHECK(simulate(schedule, times).seconds < without + 0.01 * (3 * stages + 2 * 32));
    times.transfer = 0;
    times.stage_load.assign(static_cast<size_t>(stages), 0.9);
    times.stage_load.back() = 1.0;  // the slowest stage alone decides
    CHECK(simulate(schedule, times).seconds < 96 * 1.0 + 3 * stages);
  }
}

TEST_CASE("schedules: planted faults are named") {
  const PipelineSchedule right = make_schedule(ScheduleKind::k1F1B, {3, 2, 6});
  REQUIRE(fault_of(right).empty());
  const auto find = [](std::vector<Instruction>& list, Action action, Phase phase, int chunk, int m) {
    return std::find_if(list.begin(), list.end(), [&](const Instruction& i) {
      return i.action == action && i.phase == phase && i.chunk == chunk && i.micro_batch == m;
    });
  };
  SECTION("a backward before its gradient has come") {
    PipelineSchedule wrong = right;
    auto& list = wrong.stages[0];
    std::iter_swap(find(list, Action::kRun, Phase::kBackward, 1, 0),
                   find(list, Action::kReceive, Phase::kBackward, 1, 0));
    CHECK(tiny::contains(fault_of(wrong), "before its gradient was received"));
  }
  SECTION("two micro-batches swapped on one side of a transfer") {
    PipelineSchedule wrong = right;
    auto& list = wrong.stages[1];
    const auto a = find(list, Action::kReceive, Phase::kForward, 0, 1),
               b = find(list, Action::kReceive, Phase::kForward, 0, 2);
    std::swap(a->micro_batch, b->micro_batch);
    CHECK(tiny::contains(fault_of(wrong), "stage 1 does receive F2.0 from 0"));
  }
  SECTION("two stages that send to each other at the same time") {
    PipelineSchedule wrong;
    wrong.shape = {2, 1, 2};
    wrong.slot_sets = {{2}, {2}};
    wrong.stages = make_schedule(ScheduleKind::k1F1B, wrong.shape).stages;
    auto& list = wrong.stages[1];
    std::iter_swap(find(list, Action::kReceive, Phase::kForward, 0, 1),
                   find(list, Action::kSend, Phase::kBackward, 0, 0));
    REQUIRE(fault_of(wrong) != "");
    CHECK(tiny::contains(fault_of(wrong), "waits in send"));
  }
  SECTION("a transfer that is left out") {
    PipelineSchedule wrong = right;
    wrong.stages[2].erase(find(wrong.stages[2], Action::kSend, Phase::kBackward, 0, 3));
    CHECK(tiny::contains(fault_of(wrong), "stage 1 does receive B3.0 from 2"));
    wrong = right;
    wrong.stages[2].erase(find(wrong.stages[2], Action::kSend, Phase::kBackward, 0, 5));  // the last one
    CHECK(tiny::contains(fault_of(wrong), "stage 1 waits in receive B5.0 from 2"));
  }
  SECTION("a phase left out, and one done twice") {
    PipelineSchedule wrong = make_schedule(ScheduleKind::kZeroBubble, {2, 1, 4});
    const auto w = find(wrong.stages[0], Action::kRun, Phase::kWeightGradient, 0, 2);
    PipelineSchedule twice = wrong;
    twice.stages[0].push_back(*w);
    wrong.stages[0].erase(w);
    CHECK_FALSE(fault_of(wrong).empty());
    CHECK(tiny::contains(fault_of(twice), "a second time"));
  }
  SECTION("one slot set too few") {
    for (size_t s = 0; s < 3; ++s) {
      for (size_t c = 0; c < 2; ++c) {
        PipelineSchedule wrong = right;
        const int sets = wrong.slot_sets[s][c] =
            std::max(1, wrong.slot_sets[s][c] - (s + c > 0 ? 2 : 1));  // one is there for what is received early
        for (Instruction& i : wrong.stages[s]) {
          if (i.chunk == static_cast<int>(c)) i.slot_set = i.micro_batch % sets;
        }
        INFO("stage " << s << ", chunk " << c);
        CHECK(tiny::contains(fault_of(wrong), "slot set"));
      }
    }
  }
  SECTION("every pair of neighbours swapped either does no harm or is found") {
    int found = 0;
    for (size_t s = 0; s < 3; ++s) {
      for (size_t i = 0; i + 1 < right.stages[s].size(); ++i) {
        PipelineSchedule wrong = right;
        std::swap(wrong.stages[s][i], wrong.stages[s][i + 1]);
        found += fault_of(wrong).empty() ? 0 : 1;
      }
    }
    CHECK(found > 50);
  }
}

TEST_CASE("schedules: names") {
  for (const ScheduleKind kind : kKinds) CHECK(parse_schedule(name_of(kind)) == kind);
  CHECK_THROWS_AS(parse_schedule("1b1f"), UsageError);
  CHECK_FALSE(tiny::message_of([] { make_schedule(ScheduleKind::k1F1B, {1, 2, 3}); }).empty());
}

}  // namespace megatron::testing
