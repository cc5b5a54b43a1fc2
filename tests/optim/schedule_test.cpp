// Schedules against numbers that make_schedule_golden.py computed with 50 digits, and the rules around them.
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "base/error.h"
#include "base/strings.h"
#include "optim/lr_schedule.h"
#include "tests/catch.h"

namespace megatron {
namespace {

/// The two sections in one bag of keys, as the golden file has them.
struct Settings : OptimizerConfig, TrainingConfig {};

Schedule resolve(const Settings& s) {
  return resolve_schedule(s, s);
}

using Json = nlohmann::json;

template <typename T>
void read(const Json& json, const char* key, T& value, std::set<std::string>& used) {
  if (!json.contains(key)) return;
  used.insert(key);
  value = json.at(key).get<T>();
}

template <typename T>
void read(const Json& json, const char* key, std::optional<T>& value, std::set<std::string>& used) {
  if (!json.contains(key)) return;
  used.insert(key);
  value = json.at(key).get<T>();
}

Settings settings_from(const Json& json) {
  Settings s;
  std::set<std::string> used;
  read(json, "lr", s.lr, used);
  read(json, "min_lr", s.min_lr, used);
  read(json, "decoupled_lr", s.decoupled_lr, used);
  read(json, "decoupled_min_lr", s.decoupled_min_lr, used);
  read(json, "lr_decay_style", s.lr_decay_style, used);
  read(json, "lr_wsd_decay_style", s.lr_wsd_decay_style, used);
  read(json, "lr_decay_iters", s.lr_decay_iters, used);
  read(json, "lr_decay_samples", s.lr_decay_samples, used);
  read(json, "lr_wsd_decay_iters", s.lr_wsd_decay_iters, used);
  read(json, "lr_wsd_decay_samples", s.lr_wsd_decay_samples, used);
  read(json, "lr_warmup_fraction", s.lr_warmup_fraction, used);
  read(json, "lr_warmup_iters", s.lr_warmup_iters, used);
  read(json, "lr_warmup_samples", s.lr_warmup_samples, used);
  read(json, "lr_warmup_init", s.lr_warmup_init, used);
  read(json, "start_weight_decay", s.start_weight_decay, used);
  read(json, "end_weight_decay", s.end_weight_decay, used);
  read(json, "weight_decay_incr_style", s.weight_decay_incr_style, used);
  read(json, "train_iters", s.train_iters, used);
  read(json, "train_samples", s.train_samples, used);
  read(json, "global_batch_size", s.global_batch_size, used);
  REQUIRE(used.size() == json.size());
  return s;
}

Settings base_settings() {
  Settings s;
  s.lr = 1e-3;
  s.min_lr = 1e-4;
  s.lr_decay_style = "cosine";
  s.lr_warmup_iters = 10;
  s.weight_decay = 0.1;
  s.train_iters = 100;
  s.global_batch_size = 8;
  return s;
}

/// The message of the UsageError that resolving must throw.
std::string refusal(const Settings& s) {
  try {
    resolve(s);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("learning rate and weight decay equal the golden numbers in every style") {
  std::ifstream file(MEGATRON_SOURCE_DIR "/tests/optim/schedule_golden.json");
  const Json cases = Json::parse(file);
  REQUIRE(cases.size() == 44);
  int64_t points = 0;
  double worst = 0;
  for (const Json& golden : cases) {
    INFO(golden.at("name").get<std::string>());
    const Schedule schedule = resolve(settings_from(golden.at("settings")));
    const LrRange decoupled = schedule.decoupled.value_or(schedule.lr);
    CHECK(schedule.decoupled.has_value() == golden.at("settings").contains("decoupled_lr"));
    for (const Json& point : golden.at("points")) {
      const int64_t n = point.at(0).get<int64_t>();
      INFO("n = " << n);
      // An absolute bound in units of the peak: near the end of a decay the difference of two numbers decides.
      const auto error = [&](double value, int column, double peak) {
        return std::abs(value - point.at(static_cast<size_t>(column)).get<double>()) / peak;
      };
      const double errors[] = {error(learning_rate(schedule, n), 1, schedule.lr.max_lr),
                               error(learning_rate(schedule, n, decoupled), 2, decoupled.max_lr),
                               error(weight_decay(schedule, n), 3, schedule.end_wd)};
      for (double e : errors) {
        CHECK(e <= 4e-16);
        worst = std::max(worst, e);
      }
      ++points;
    }
  }
  CHECK(points > 600);
  INFO("worst error in units of the peak: " << worst);
  CHECK(worst > 0);  // decimal and binary arithmetic never agree everywhere: the comparison has compared
}

TEST_CASE("the schedule of a small run at its turning points") {
  const Schedule schedule = resolve(base_settings());
  CHECK(schedule.warmup_steps == 80.0);
  CHECK(schedule.decay_steps == 800);
  CHECK(schedule.wd_steps == 800);
  CHECK(learning_rate(schedule, 0) == 0.0);
  CHECK(learning_rate(schedule, 40) == 5e-4);
  CHECK(learning_rate(schedule, 80) == 1e-3);
  CHECK(learning_rate(schedule, 440) == Approx(5.5e-4).epsilon(1e-15));
  CHECK(learning_rate(schedule, 800) == 1e-4);
  CHECK(learning_rate(schedule, 100000) == 1e-4);
  CHECK(weight_decay(schedule, 0) == 0.1);
  CHECK_THROWS_AS(learning_rate(schedule, -1), InternalError);
}

TEST_CASE("a fractional warm-up length is kept") {
  Settings s = base_settings();
  s.lr_warmup_iters = 0;
  s.lr_warmup_fraction = 0.001;
  CHECK(resolve(s).warmup_steps == 0.8);
  CHECK(learning_rate(resolve(s), 0) == 0.0);
}

TEST_CASE("impossible schedules are refused with the key's name") {
  const auto with = [](const std::function<void(Settings&)>& change) {
    Settings s = base_settings();
    change(s);
    return refusal(s);
  };
  using Catch::Matchers::ContainsSubstring;
  CHECK(with([](auto&) {}) == "accepted");
  CHECK_THAT(with([](auto& s) { s.lr = -1.0; }), ContainsSubstring("optimizer.lr: must be"));
  CHECK_THAT(with([](auto& s) { s.lr = std::nan(""); }), ContainsSubstring("optimizer.lr: must be"));
  CHECK_THAT(with([](auto& s) { s.min_lr = 1.0; }),
             ContainsSubstring("optimizer.min_lr: is 1, above optimizer.lr = 0.001"));
  CHECK_THAT(with([](auto& s) { s.decoupled_min_lr = 1e-5; }), ContainsSubstring("optimizer.decoupled_min_lr"));
  CHECK_THAT(with([](auto& s) { s.decoupled_lr = 1e-5; }), ContainsSubstring("above optimizer.decoupled_lr"));
  CHECK_THAT(with([](auto& s) { s.lr_warmup_init = 1.0; }), ContainsSubstring("optimizer.lr_warmup_init"));
  CHECK_THAT(with([](auto& s) { s.lr_warmup_iters = 100; }), ContainsSubstring("shorter than the decay"));
  CHECK_THAT(with([](auto& s) { s.lr_warmup_iters = -1; }), ContainsSubstring("optimizer.lr_warmup_iters"));
  CHECK_THAT(with([](auto& s) { s.lr_warmup_fraction = 0.1; }), ContainsSubstring("not both"));
  CHECK_THAT(with([](auto& s) { s.lr_warmup_iters = 0, s.lr_warmup_fraction = 1.0; }),
             ContainsSubstring("must lie in [0, 1)"));
  CHECK_THAT(with([](auto& s) { s.lr_decay_samples = 5; }), ContainsSubstring("optimizer.lr_decay_samples"));
  CHECK_THAT(with([](auto& s) { s.lr_warmup_samples = 5; }), ContainsSubstring("use the _iters key"));
  CHECK_THAT(with([](auto& s) { s.lr_decay_iters = 0; }), ContainsSubstring("optimizer.lr_decay_iters"));
  CHECK_THAT(with([](auto& s) { s.train_iters.reset(); }),
             ContainsSubstring("exactly one of train_iters and train_samples"));
  CHECK_THAT(with([](auto& s) { s.train_samples = 5; }), ContainsSubstring("exactly one"));
  CHECK_THAT(with([](auto& s) { s.train_iters.reset(), s.train_samples = 800; }),
             ContainsSubstring("use the _samples key"));
  CHECK_THAT(with([](auto& s) { s.lr_decay_style = "cosin"; }), ContainsSubstring("did you mean \"cosine\"?"));
  CHECK_THAT(with([](auto& s) { s.lr_wsd_decay_style = "sqrt"; }), ContainsSubstring("optimizer.lr_wsd_decay_style"));
  CHECK_THAT(with([](auto& s) { s.lr_decay_style = "WSD"; }),
             ContainsSubstring("optimizer.lr_wsd_decay_iters: is required"));
  CHECK_THAT(with([](auto& s) { s.lr_decay_style = "WSD", s.lr_wsd_decay_iters = 101; }),
             ContainsSubstring("within the decay"));
  CHECK_THAT(with([](auto& s) { s.start_weight_decay = 0.0; }), ContainsSubstring("optimizer.start_weight_decay"));
  CHECK_THAT(with([](auto& s) { s.weight_decay_incr_style = "linear"; }), ContainsSubstring("needs both"));
  CHECK_THAT(
      with([](auto& s) { s.weight_decay_incr_style = "cosine", s.start_weight_decay = 0.2, s.end_weight_decay = 0.1; }),
      ContainsSubstring("0 <= start <= end"));
  CHECK_THAT(with([](auto& s) { s.weight_decay = -0.1; }), ContainsSubstring("optimizer.weight_decay"));
}

TEST_CASE("on resume the schedules must agree unless a switch decides") {
  const Schedule stored = resolve(base_settings());
  CHECK(schedule_differences(stored, stored).empty());
  Settings changed = base_settings();
  changed.lr = 2e-3;
  changed.train_iters = 200;
  changed.decoupled_lr = 5e-3;
  const Schedule configured = resolve(changed);
  std::vector<std::string> names;
  for (const auto& difference : schedule_differences(stored, configured)) names.push_back(difference.name);
  CHECK(join(names, " ") == "lr decoupled_lr decoupled_min_lr lr_decay_samples");

  CHECK(choose_schedule(stored, stored, false, false).lr.max_lr == 1e-3);
  CHECK(choose_schedule(stored, configured, true, false).lr.max_lr == 2e-3);
  CHECK(choose_schedule(stored, configured, false, true).lr.max_lr == 1e-3);
  CHECK_THROWS_AS(choose_schedule(stored, configured, true, true), UsageError);
  using Catch::Matchers::ContainsSubstring;
  CHECK_THROWS_WITH(choose_schedule(stored, configured, false, false),
                    ContainsSubstring("optimizer.lr: checkpoint 0.001, configuration 0.002") &&
                        ContainsSubstring("lr_decay_samples: checkpoint 800, configuration 1600") &&
                        ContainsSubstring("override_opt_param_scheduler: true") &&
                        ContainsSubstring("use_checkpoint_opt_param_scheduler: true"));
}

TEST_CASE("every single setting of the schedule is part of the comparison") {
  const auto differs = [](const std::function<void(Settings&)>& change) {
    Settings a = base_settings();
    a.lr_decay_style = "WSD";
    a.lr_wsd_decay_iters = 20;
    a.weight_decay_incr_style = "linear";
    a.start_weight_decay = 0.0;
    a.end_weight_decay = 0.1;
    a.lr_decay_iters = 90;
    Settings b = a;
    change(b);
    std::vector<std::string> names;
    for (const auto& d : schedule_differences(resolve(a), resolve(b))) names.push_back(d.name);
    return join(names, " ");
  };
  CHECK(differs([](auto& s) { s.lr = 1.1e-3; }) == "lr");
  CHECK(differs([](auto& s) { s.min_lr = 0; }) == "min_lr");
  CHECK(differs([](auto& s) { s.lr_warmup_init = 1e-5; }) == "lr_warmup_init");
  CHECK(differs([](auto& s) { s.lr_warmup_iters = 11; }) == "lr_warmup_samples");
  CHECK(differs([](auto& s) { s.lr_decay_style = "linear"; }) == "lr_decay_style");
  CHECK(differs([](auto& s) { s.lr_decay_iters = 91; }) == "lr_decay_samples");
  CHECK(differs([](auto& s) { s.lr_wsd_decay_style = "cosine"; }) == "lr_wsd_decay_style");
  CHECK(differs([](auto& s) { s.lr_wsd_decay_iters = 21; }) == "lr_wsd_decay_samples");
  CHECK(differs([](auto& s) { s.start_weight_decay = 0.01; }) == "start_weight_decay");
  CHECK(differs([](auto& s) { s.end_weight_decay = 0.2; }) == "end_weight_decay");
  CHECK(differs([](auto& s) { s.weight_decay_incr_style = "cosine"; }) == "weight_decay_incr_style");
  CHECK(differs([](auto& s) { s.train_iters = 120; }) == "weight_decay_incr_samples");
}

}  // namespace megatron
