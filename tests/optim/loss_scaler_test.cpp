// The dynamic loss scale step by step, from tables worked out by hand from the rule.
#include <string>
#include <vector>

#include "base/error.h"
#include "optim/loss_scaler.h"
#include "tests/catch.h"

namespace megatron {
namespace {

struct Step {
  bool found_inf;
  double scale;
  int64_t growth;
  int64_t hysteresis;
};

PrecisionConfig fp16() {
  PrecisionConfig s;
  s.params_dtype = "fp16";
  return s;
}

PrecisionConfig small() {
  PrecisionConfig s = fp16();
  s.initial_loss_scale = 64;
  s.min_loss_scale = 8;
  s.loss_scale_window = 3;
  s.hysteresis = 2;
  return s;
}

void check_table(const LossScaler& scaler, LossScalerState state, const std::vector<Step>& table) {
  for (size_t i = 0; i < table.size(); ++i) {
    INFO("step " << i);
    state = next_state(scaler, state, table[i].found_inf);
    CHECK(state.scale == table[i].scale);
    CHECK(state.growth_tracker == table[i].growth);
    CHECK(state.hysteresis_tracker == table[i].hysteresis);
  }
}

}  // namespace

TEST_CASE("dynamic loss scale: growth after a clean window, one overflow tolerated") {
  const LossScaler scaler = make_loss_scaler(small());
  CHECK(scaler.kind == LossScaling::kDynamic);
  check_table(scaler, initial_state(scaler),
              {{false, 64, 1, 2},
               {false, 64, 2, 2},
               {false, 128, 0, 2},  // third clean step: growth
               {true, 128, 0, 1},   // first overflow is tolerated
               {false, 128, 1, 1},
               {false, 128, 2, 1},  // clean steps do not refill hysteresis
               {true, 64, 0, 0},    // second overflow, though not consecutive
               {true, 32, 0, -1},   // and every further one
               {false, 32, 1, -1},
               {false, 32, 2, -1},
               {false, 64, 0, 2},  // growth refills
               {true, 64, 0, 1}});
}

TEST_CASE("dynamic loss scale: an overflow restarts the window, the minimum holds") {
  PrecisionConfig settings = small();
  settings.hysteresis = 1;
  const LossScaler scaler = make_loss_scaler(settings);
  check_table(scaler, initial_state(scaler),
              {{false, 64, 1, 1},
               {false, 64, 2, 1},
               {true, 32, 0, 0},
               {false, 32, 1, 0},
               {false, 32, 2, 0},
               {true, 16, 0, -1},
               {true, 8, 0, -2},
               {true, 8, 0, -3},
               {true, 8, 0, -4}});
}

TEST_CASE("defaults of the dynamic loss scale") {
  const LossScaler scaler = make_loss_scaler(fp16());
  const LossScalerState state = initial_state(scaler);
  CHECK(state.scale == 4294967296.0);
  CHECK(state.hysteresis_tracker == 2);
  CHECK(scaler.window == 1000);
  CHECK(scaler.min_scale == 1.0);
}

TEST_CASE("a saved loss scaler goes on as if it had not stopped") {
  const LossScaler scaler = make_loss_scaler(small());
  LossScalerState straight = initial_state(scaler), resumed = straight;
  for (int i = 0; i < 200; ++i) {
    const bool found_inf = i % 7 == 3 || i % 11 == 5;
    straight = next_state(scaler, straight, found_inf);
    // Only the three numbers survive a restart.
    const LossScalerState saved{resumed.scale, resumed.growth_tracker, resumed.hysteresis_tracker};
    resumed = next_state(scaler, restored_state(make_loss_scaler(small()), saved), found_inf);
    REQUIRE(resumed.scale == straight.scale);
    REQUIRE(resumed.growth_tracker == straight.growth_tracker);
    REQUIRE(resumed.hysteresis_tracker == straight.hysteresis_tracker);
  }
  CHECK(straight.scale != 64);
}

TEST_CASE("restoring refuses damaged states and meets a shorter window") {
  const LossScaler scaler = make_loss_scaler(small());
  CHECK_THROWS_AS(restored_state(scaler, {0.0, 0, 2}), DataError);
  CHECK_THROWS_AS(restored_state(scaler, {1.0, -1, 2}), DataError);
  // 900 clean steps were counted under a window of 1000; the window is now 3.
  CHECK(next_state(scaler, restored_state(scaler, {16.0, 900, 2}), false).scale == 32.0);
}

TEST_CASE("constant scale and types without scaling never change") {
  PrecisionConfig settings = fp16();
  settings.loss_scale = 1024;
  const LossScaler constant = make_loss_scaler(settings);
  CHECK(constant.kind == LossScaling::kConstant);
  CHECK(next_state(constant, initial_state(constant), true).scale == 1024);
  CHECK(restored_state(constant, {77.0, 5, 1}).scale == 1024);
  const LossScaler none = make_loss_scaler({});
  CHECK(none.kind == LossScaling::kOff);
  CHECK(next_state(none, initial_state(none), true).scale == 1.0);
  settings.params_dtype = "bf16";
  CHECK_THROWS_AS(make_loss_scaler(settings), UsageError);
}

TEST_CASE("loss scale settings out of range are refused") {
  const auto refused = [](void (*change)(PrecisionConfig&)) {
    PrecisionConfig settings = small();
    change(settings);
    CHECK_THROWS_AS(make_loss_scaler(settings), UsageError);
  };
  refused([](PrecisionConfig& s) { s.loss_scale = 0.0; });
  refused([](PrecisionConfig& s) { s.min_loss_scale = 0.0; });
  refused([](PrecisionConfig& s) { s.initial_loss_scale = 4.0; });
  refused([](PrecisionConfig& s) { s.loss_scale_window = 0; });
  refused([](PrecisionConfig& s) { s.hysteresis = 0; });
}

}  // namespace megatron
