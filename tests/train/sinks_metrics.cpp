// metrics.jsonl: what a line holds, torn tails, full disks.
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "base/strings.h"
#include "tests/catch.h"
#include "train/metrics.h"
#include "train/metrics_file.h"

namespace megatron {
namespace {

using Json = nlohmann::ordered_json;

/// A folder of its own for one test case.
struct Scratch {
  std::filesystem::path dir;
  explicit Scratch(const std::string& name)
      : dir(std::filesystem::temp_directory_path() / str_cat("megatron-", name, "-", ::getpid())) {
    std::filesystem::remove_all(dir);
    std::filesystem::create_directories(dir);
  }
  ~Scratch() { std::filesystem::remove_all(dir); }
  std::string file(const std::string& name) const { return (dir / name).string(); }
};

StepMetrics example() {
  StepMetrics m;
  m.iteration = 7;
  m.consumed_samples = 56;
  m.consumed_tokens = 7168;
  m.lm_loss = 0.1 + 0.2;
  m.losses = {{"load_balancing_loss", 1.0 / 3}};
  m.grad_norm = 0.412;
  m.learning_rate = 2.98e-4;
  m.weight_decay = 0.1;
  m.batch_size = 8;
  m.step_seconds = 0.5;
  set_rates(m, 1024, 3e12, 2, 1e13);
  m.peak_memory_bytes = int64_t{1} << 40;
  m.data_wait_fraction = 0.002;
  return m;
}

void append_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::app | std::ios::binary) << text;
}

/// A disk that takes `budget` bytes and then none until it gets more.
class FullDisk : public FileOps {
 public:
  int64_t budget = 0;
  int64_t write_at(int fd, std::span<const std::byte> bytes, int64_t offset) override {
    if (budget == 0) return -ENOSPC;
    const auto part = static_cast<size_t>(std::min<int64_t>(budget, std::ssize(bytes)));
    budget -= static_cast<int64_t>(part);
    return FileOps::write_at(fd, bytes.first(part), offset);
  }
};

/// Keeps the expected warnings off the console.
struct Quiet {
  Quiet() { set_log_level(LogLevel::kOff); }
  ~Quiet() { set_log_level(LogLevel::kInfo); }
};

}  // namespace

TEST_CASE("a metrics line has every field with its exact value, on one line") {
  const std::string line = to_json_line(example());
  CHECK(line.back() == '\n');
  CHECK(line.find('\n') == line.size() - 1);
  const Json json = Json::parse(line);
  std::string keys;
  for (const auto& [key, value] : json.items()) keys += key + " ";
  CHECK(keys ==
        "iteration consumed_samples consumed_tokens lm_loss load_balancing_loss grad_norm learning_rate weight_decay "
        "loss_scale batch_size step_seconds tokens_per_second tflops_per_gpu mfu peak_memory_bytes data_wait_fraction "
        "skipped skipped_iterations ");
  CHECK(json["iteration"] == 7);
  CHECK(json["consumed_tokens"] == 7168);
  CHECK(json["lm_loss"].get<double>() == 0.1 + 0.2);
  CHECK(line.find("\"lm_loss\": 0.30000000000000004,") != std::string::npos);
  CHECK(line.find("\"learning_rate\": 0.000298,") != std::string::npos);
  CHECK(json["load_balancing_loss"].get<double>() == 1.0 / 3);
  CHECK(json["tokens_per_second"] == 2048);
  CHECK(json["tflops_per_gpu"] == 3);
  CHECK(json["mfu"].get<double>() == 0.3);
  CHECK(json["peak_memory_bytes"] == 1099511627776);
  CHECK(json["skipped"] == false);
}

TEST_CASE("every finite double reads back with the same bits") {
  StepMetrics m = example();
  for (double value : {1e-310, -0.0, 1.0, 5e-324, 1.7976931348623157e308, 0.1, 2.0 / 3, 123456789.123456789, 1e22}) {
    m.lm_loss = value;
    const double back = Json::parse(to_json_line(m))["lm_loss"].get<double>();
    CHECK(std::bit_cast<uint64_t>(back + 0.0) == std::bit_cast<uint64_t>(value + 0.0));
  }
}

TEST_CASE("a non-finite step is valid JSON that says what was not finite") {
  StepMetrics m = example();
  m.lm_loss = std::numeric_limits<double>::quiet_NaN();
  m.grad_norm = std::numeric_limits<double>::infinity();
  m.skipped = true;
  const Json json = Json::parse(to_json_line(m));
  CHECK(json["lm_loss"].is_null());
  CHECK(json["grad_norm"].is_null());
  CHECK(json["skipped"] == true);
  CHECK(json["non_finite"].dump() == R"({"lm_loss":"nan","grad_norm":"inf"})");
}

TEST_CASE("on the CPU mfu and unmeasured values are null; evaluations have their keys") {
  StepMetrics m = example();
  set_rates(m, 1024, 0, 1, std::nullopt);
  m.peak_memory_bytes.reset();
  m.evaluations = {{"valid", "", {{"lm_loss", 2.5}}}, {"test", "books", {{"lm_loss", 2.75}}}};
  const Json json = Json::parse(to_json_line(m));
  CHECK(json["mfu"].is_null());
  CHECK(json["tflops_per_gpu"].is_null());
  CHECK(json["peak_memory_bytes"].is_null());
  CHECK(json["valid_lm_loss"] == 2.5);
  CHECK(json["test_books_lm_loss"] == 2.75);

  StepMetrics before;
  before.trained = false;
  before.evaluations = {{"valid", "", {{"lm_loss", 9.0}}}};
  CHECK(to_json_line(before) ==
        "{\"iteration\": 0, \"consumed_samples\": 0, \"consumed_tokens\": 0, \"valid_lm_loss\": 9}\n");
}

TEST_CASE("metrics.jsonl is appended and a torn last line is cut off first") {
  const Quiet quiet;
  const Scratch scratch("jsonl");
  const std::string path = scratch.file("metrics.jsonl");
  { JsonLinesSink(path).write(example()); }
  append_text(path, "{\"iteration\": 8, \"consumed_sam");
  StepMetrics next = example();
  next.iteration = 8;
  { JsonLinesSink(path).write(next); }
  CHECK(read_file(path) == to_json_line(example()) + to_json_line(next));
}

TEST_CASE("a line is in the file as soon as write returns") {
  const Scratch scratch("flush");
  const std::string path = scratch.file("metrics.jsonl");
  JsonLinesSink sink(path);
  sink.write(example());
  CHECK(read_file(path) == to_json_line(example()));
}

TEST_CASE("torn lines of every kind are cut to the last line feed") {
  const Scratch scratch("torn");
  const std::string path = scratch.file("lines");
  CHECK(cut_torn_line(path) == 0);  // no such file
  const std::string big(200000, 'x');
  struct Case {
    std::string text, kept;
  };
  for (const Case& c :
       {Case{"", ""}, Case{"a\n", "a\n"}, Case{"half", ""}, Case{"a\nb\nhalf", "a\nb\n"}, Case{"a\n" + big, "a\n"},
        Case{big + "\n", big + "\n"}, Case{big, ""}, Case{"\n", "\n"}, Case{big + "\n" + big, big + "\n"}}) {
    std::filesystem::remove(path);
    append_text(path, c.text);
    CHECK(cut_torn_line(path) == std::ssize(c.text) - std::ssize(c.kept));
    CHECK(read_file(path) == c.kept);
  }
}

TEST_CASE("a full disk costs lines, never the run, and leaves no half lines") {
  const Quiet quiet;
  const Scratch scratch("full");
  const std::string path = scratch.file("records");
  FullDisk disk;
  AppendFile file(path, disk);
  disk.budget = 15;
  CHECK(file.append("first record\n"));
  CHECK_FALSE(file.append("a second and longer record\n"));  // two bytes fit, then none
  CHECK_FALSE(file.append("third\n"));
  CHECK(read_file(path) == "first record\n");
  CHECK(file.lost_records() == 2);
  disk.budget = 1000;
  CHECK(file.append("4th\n"));
  CHECK(read_file(path) == "first record\n4th\n");
}

TEST_CASE("a metrics file that cannot be opened is refused with its name") {
  const Scratch scratch("nofile");
  using Catch::Matchers::ContainsSubstring;
  CHECK_THROWS_WITH(JsonLinesSink(scratch.file("missing/metrics.jsonl")), ContainsSubstring("missing/metrics.jsonl"));
  CHECK_THROWS_AS(JsonLinesSink(scratch.file("missing/metrics.jsonl")), DataError);
}

}  // namespace megatron
