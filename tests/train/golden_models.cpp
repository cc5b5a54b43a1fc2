// Whole models against the values that PyTorch gave in fp64 (tests/golden/model/README.md).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/file_io.h"
#include "checkpoint/safetensors.h"
#include "program/passes.h"
#include "tests/catch.h"
#include "tests/train/trainer_helpers.h"

namespace megatron::test {
namespace {

class GoldenFile {
 public:
  explicit GoldenFile(const std::string& name)
      : file_(std::string(MEGATRON_SOURCE_DIR) + "/tests/golden/model/" + name + ".safetensors"),
        header_(read_safetensors_header(file_)) {}

  template <typename T>
  std::vector<T> read(const std::string& name) const {
    for (const SafetensorsEntry& entry : header_.entries) {
      if (entry.name != name) continue;
      std::vector<T> values(static_cast<size_t>(entry.bytes) / sizeof(T));
      file_.read_at(entry.offset, std::as_writable_bytes(std::span(values)));
      return values;
    }
    FAIL("no tensor " << name);
    return {};
  }

  /// Names behind `prefix`.
  std::vector<std::string> names(const std::string& prefix) const {
    std::vector<std::string> found;
    for (const SafetensorsEntry& entry : header_.entries) {
      if (entry.name.starts_with(prefix)) found.push_back(entry.name.substr(prefix.size()));
    }
    return found;
  }

  static Settings settings(const std::string& name) {
    Settings s = {{"run.device", "cpu"},
                  {"run.cpu_threads", "1"},
                  {"model.make_vocab_size_divisible_by", "32"},  // every model gets rows of padding
                  {"data.mock_data", "true"},
                  {"data.tokenizer_type", "NullTokenizer"},
                  {"training.micro_batch_size", "2"},
                  {"training.train_iters", "5"},
                  {"optimizer.lr", "0.01"},
                  {"optimizer.lr_decay_style", "constant"},
                  {"optimizer.weight_decay", "0.1"},
                  {"optimizer.adam_beta1", "0.9"},
                  {"optimizer.adam_beta2", "0.95"},
                  {"optimizer.adam_eps", "1e-8"},
                  {"optimizer.clip_grad", "1.0"},
                  {"precision.params_dtype", "fp64"}};
    // The model section as it stands in the file, key by key.
    const std::string text = read_file(std::string(MEGATRON_SOURCE_DIR) + "/tests/golden/model/" + name + ".yaml");
    for (size_t at = text.find("model:\n") + 7; at < text.size();) {
      const size_t end = text.find('\n', at), colon = text.find(": ", at);
      s["model." + text.substr(at + 2, colon - at - 2)] = text.substr(colon + 2, end - colon - 2);
      at = end + 1;
    }
    return s;
  }

 private:
  FileReader file_;
  SafetensorsHeader header_;
};

/// Values of a tensor of the run, without the padding rows of the vocabulary.
std::vector<double> values_of(EngineRun& run, const std::string& name, size_t count) {
  const Tensor tensor = run.engine().store().find(name);
  REQUIRE(tensor);
  REQUIRE(static_cast<size_t>(tensor.numel()) >= count);
  const double* data = tensor.as<double>();
  for (size_t i = count; i < static_cast<size_t>(tensor.numel()); ++i) REQUIRE(data[i] == 0.0);
  return {data, data + count};
}

Batch golden_batch(const GoldenFile& golden, int64_t B, int64_t S) {
  const auto tokens = golden.read<int32_t>("tokens"), labels = golden.read<int32_t>("labels");
  Batch batch;
  batch.seq_length = S;
  batch.micro_batch_size = B;
  for (int64_t s = 0; s < S; ++s) {
    for (int64_t b = 0; b < B; ++b) {
      batch.tokens.push_back(tokens[static_cast<size_t>(b * S + s)]);
      batch.labels.push_back(labels[static_cast<size_t>(b * S + s)]);
      batch.position_ids.push_back(static_cast<int32_t>(s));
      batch.loss_weights.push_back(1.0f);
    }
  }
  for (int64_t b = 0; b < B; ++b) batch.sample_ids.push_back(b);
  batch.loss_weight_sum = static_cast<double>(B * S);
  return batch;
}

/// Overwrites the true rows of every parameter; the padding keeps its zeros.
void set_weights(EngineRun& run, const GoldenFile& golden) {
  const Program& program = run.engine().train_program();
  const std::vector<std::string> names = golden.names("weights/");
  REQUIRE(names.size() == program.parameters.size());
  for (const std::string& name : names) {
    const auto weights = golden.read<double>("weights/" + name);
    values_of(run, name, weights.size());  // what lies beyond is zero
    std::memcpy(run.engine().store().find(name).data, weights.data(), weights.size() * sizeof(double));
  }
}

/// Largest difference over all tensors, relative to the largest value of all tensors.
struct Distance {
  double difference = 0, largest = 0;
  void add(const std::vector<double>& got, const std::vector<double>& want) {
    REQUIRE(got.size() == want.size());
    for (size_t i = 0; i < got.size(); ++i) {
      difference = std::max(difference, std::isfinite(got[i]) ? std::abs(got[i] - want[i]) : INFINITY);
      largest = std::max(largest, std::abs(want[i]));
    }
  }
  double relative() const { return difference / largest; }
};

Distance compare(EngineRun& run, const GoldenFile& golden, const std::string& prefix, const std::string& ours) {
  Distance distance;
  for (const std::string& name : golden.names(prefix)) {
    const auto want = golden.read<double>(prefix + name);
    distance.add(values_of(run, ours + name, want.size()), want);
  }
  return distance;
}

void check_model(const std::string& name) {
  const GoldenFile golden(name);
  EngineRun run(GoldenFile::settings(name));
  set_weights(run, golden);
  const Batch batch = golden_batch(golden, 2, 12);

  run.engine().begin_step();
  run.engine().accumulate({batch}, {1.0 / batch.loss_weight_sum}, 1);
  CHECK(run.engine().loss_sum() == Approx(golden.read<double>("loss_sum")[0]).epsilon(1e-12));
  const Distance gradients = compare(run, golden, "gradients/", gradient_name(""));
  INFO("gradients differ by " << gradients.difference << " of " << gradients.largest);
  CHECK(gradients.largest > 1e-3);
  CHECK(gradients.relative() < 1e-10);

  const auto losses = golden.read<double>("train/loss"), norms = golden.read<double>("train/grad_norm");
  for (int64_t i = 0; i < 5; ++i) {
    const StepRecord step = run.step_on({batch}, i + 1);
    CHECK(step.loss == Approx(losses[static_cast<size_t>(i)]).epsilon(1e-10));
    CHECK(step.grad_norm == Approx(norms[static_cast<size_t>(i)]).epsilon(1e-10));
    CHECK_FALSE(step.skipped);
  }
  const Distance final_weights = compare(run, golden, "final/", "");
  INFO("weights differ by " << final_weights.difference << " of " << final_weights.largest);
  CHECK(final_weights.relative() < 1e-9);
}

}  // namespace

TEST_CASE("golden gpt2: loss, gradients and five steps are those of PyTorch") {
  check_model("gpt2");
}
TEST_CASE("golden llama: loss, gradients and five steps are those of PyTorch") {
  check_model("llama");
}
TEST_CASE("golden qwen: loss, gradients and five steps are those of PyTorch") {
  check_model("qwen");
}
TEST_CASE("golden mixed: loss, gradients and five steps are those of PyTorch") {
  check_model("mixed");
}

TEST_CASE("golden: full recomputation gives the same gradients") {
  const GoldenFile golden("gpt2");
  Settings settings = GoldenFile::settings("gpt2");
  settings["training.recompute_granularity"] = "full";
  settings["training.recompute_method"] = "uniform";
  settings["training.recompute_num_layers"] = "2";
  EngineRun run(settings);
  set_weights(run, golden);
  run.engine().begin_step();
  run.engine().accumulate({golden_batch(golden, 2, 12)}, {1.0 / 24}, 1);
  CHECK(compare(run, golden, "gradients/", gradient_name("")).relative() < 1e-10);
}

}  // namespace megatron::test
