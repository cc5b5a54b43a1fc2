// What is said when a run does not fit: the plan's largest entries, and remedies whose savings are those of real plans.
#include "train/memory_advice.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "base/strings.h"
#include "tests/catch.h"
#include "tests/train/trainer_helpers.h"

namespace megatron::test {
namespace {

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TrainPrograms programs_of(const Config& config) {
  return make_train_programs(config, 64, ParallelContext());
}

/// What a plan with these settings takes, computed apart from the advice.
int64_t needed(const Settings& settings) {
  return memory_report(programs_of(load_settings(settings).config)).allocated();
}

std::string line_with(const std::string& text, const std::string& part) {
  for (const std::string& line : split(text, '\n')) {
    if (has(line, part)) return line;
  }
  return "";
}

std::string saving(const Settings& base, const Settings& changed) {
  return str_cat("saves ", format_bytes(static_cast<double>(needed(base) - needed(changed))), ", needs ",
                 format_bytes(static_cast<double>(needed(changed))));
}

const Settings kBase =
    tiny({{"model.vocab_size", "64"}, {"training.micro_batch_size", "8"}, {"training.global_batch_size", "8"}});

Settings with(const Settings& changes) {
  Settings settings = kBase;
  for (const auto& [key, value] : changes) settings[key] = value;
  return settings;
}

/// A device that has no more than so many bytes.
class SmallDevice final : public Device {
 public:
  explicit SmallDevice(int64_t free) : free_(free) {}
  DeviceKind kind() const override { return DeviceKind::kCpu; }
  std::string description() const override { return "a small device"; }
  int64_t free_bytes() const override { return free_; }
  void copy_to_device(void*, const void*, int64_t) override {}
  void copy_to_host(void*, const void*, int64_t) override {}
  void copy_within(void*, const void*, int64_t, int) override {}
  void fill_zero(void*, int64_t) override {}

 protected:
  std::byte* allocate(int64_t) override { return nullptr; }
  void deallocate(std::byte*) noexcept override {}

 private:
  int64_t free_;
};

}  // namespace

TEST_CASE("memory advice: the entries are the plan, largest first") {
  for (const char* dtype : {"fp32", "bf16"}) {
    const TrainPrograms programs = programs_of(load_settings(with({{"precision.params_dtype", dtype}})).config);
    const std::vector<MemoryEntry> entries = memory_entries(programs);
    int64_t sum = 0;
    for (const MemoryEntry& entry : entries) sum += entry.bytes;
    CHECK(sum == memory_report(programs).allocated());
    CHECK(std::is_sorted(entries.begin(), entries.end(),
                         [](const MemoryEntry& a, const MemoryEntry& b) { return a.bytes > b.bytes; }));
    const auto named = [](const MemoryEntry& entry) { return has(entry.what, "master"); };
    CHECK((std::count_if(entries.begin(), entries.end(), named) == 1) == (std::string(dtype) == "bf16"));
  }
}

TEST_CASE("memory advice: three entries, and savings that planning again confirms") {
  const Config config = load_settings(kBase).config;
  const TrainPrograms programs = programs_of(config);
  const int64_t half = needed(with({{"training.micro_batch_size", "4"}}));
  const std::string text = memory_advice(config, programs, ParallelContext(), {"GPU X", half, 1});
  INFO(text);
  CHECK(has(text, "GPU X: the run needs"));
  const std::vector<MemoryEntry> entries = memory_entries(programs);
  for (size_t i = 0; i < 3; ++i) CHECK(has(text, entries[i].what + "\n"));
  CHECK_FALSE(has(text, "  " + entries[3].what + "\n"));

  const std::string batch = line_with(text, "  training.micro_batch_size=4");
  CHECK(has(batch, saving(kBase, with({{"training.micro_batch_size", "4"}}))));
  CHECK(has(batch, ": fits"));
  const std::string full = line_with(text, "training.recompute_granularity=full");
  CHECK(has(full, saving(kBase, with({{"training.recompute_granularity", "full"},
                                      {"training.recompute_method", "uniform"},
                                      {"training.recompute_num_layers", "1"}}))));
  CHECK(has(line_with(text, "recompute_granularity=selective"),
            saving(kBase, with({{"training.recompute_granularity", "selective"},
                                {"training.recompute_modules", "[mlp, layernorm]"}}))));
  CHECK(has(line_with(text, "model.seq_length="), ", needs "));
  CHECK_FALSE(has(text, "data_parallel_sharding_strategy"));
}

TEST_CASE("memory advice: the micro-batch is halved until it fits, or as far as it goes") {
  const Config config = load_settings(kBase).config;
  const TrainPrograms programs = programs_of(config);
  const int64_t two = needed(with({{"training.micro_batch_size", "2"}}));
  CHECK(has(memory_advice(config, programs, ParallelContext(), {"x", two, 1}), "training.micro_batch_size=2 "));
  const std::string none = memory_advice(config, programs, ParallelContext(), {"x", 1, 1});
  CHECK(has(none, "training.micro_batch_size=1 "));
  CHECK_FALSE(has(none, ": fits"));
}

TEST_CASE("memory advice: nothing is offered that is set already; ranks share the optimizer's state") {
  const Settings settings = with({{"training.micro_batch_size", "1"},
                                  {"training.recompute_granularity", "full"},
                                  {"training.recompute_method", "uniform"},
                                  {"training.recompute_num_layers", "1"},
                                  {"precision.params_dtype", "bf16"}});
  const Config config = load_settings(settings).config;
  const TrainPrograms programs = programs_of(config);
  const std::string text = memory_advice(config, programs, ParallelContext(), {"x", 1, 4});
  INFO(text);
  CHECK_FALSE(has(text, "recompute_granularity="));
  CHECK_FALSE(has(text, "micro_batch_size="));
  const MemoryReport report = memory_report(programs);
  const int64_t saved = (report.master + report.optimizer) * 3 / 4;
  CHECK(has(line_with(text, "data_parallel_sharding_strategy=optim"),
            "saves " + format_bytes(static_cast<double>(saved)) + ","));
}

TEST_CASE("memory advice: a run that fits is not stopped, one byte less is refused") {
  const Config config = load_settings(kBase).config;
  const TrainPrograms programs = programs_of(config);
  const int64_t bytes = memory_report(programs).allocated();
  CHECK_NOTHROW(require_memory(config, programs, ParallelContext(), SmallDevice(bytes)));
  try {
    require_memory(config, programs, ParallelContext(), SmallDevice(bytes - 1));
    FAIL("not refused");
  } catch (const DeviceError& error) {
    CHECK(has(error.what(), "a small device: the run needs"));
  }
  CHECK(make_cpu_device()->free_bytes() > (int64_t{16} << 20));
}

}  // namespace megatron::test
