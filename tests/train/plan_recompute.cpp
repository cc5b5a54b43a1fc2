// Recomputation changes memory and nothing else.
#include <map>
#include <string>
#include <vector>

#include "program/passes.h"
#include "tests/catch.h"
#include "tests/train/trainer_helpers.h"

namespace megatron::test {
namespace {

struct Outcome {
  std::vector<StepRecord> records;
  Weights state;
  MemoryReport memory;
};

/// Four layers, dropout on; the settings of `changes` on top.
Outcome train(const Settings& base, const Settings& changes) {
  Settings settings = base;
  settings.insert(changes.begin(), changes.end());
  EngineRun run(tiny(settings));
  Outcome outcome;
  outcome.records = run.steps(5);
  outcome.state = run.state();
  outcome.memory = memory_report(run.engine().programs());
  return outcome;
}

Settings full(const std::string& method, int layers) {
  return {{"training.recompute_granularity", "full"},
          {"training.recompute_method", method},
          {"training.recompute_num_layers", std::to_string(layers)}};
}

Settings selective(const std::string& modules) {
  return {{"training.recompute_granularity", "selective"}, {"training.recompute_modules", "[" + modules + "]"}};
}

void check_all(const Settings& base) {
  const Outcome plain = train(base, {});
  CHECK(plain.records.front().loss > 1.0);
  CHECK_FALSE(plain.records.front() == plain.records.back());
  const std::vector<Settings> choices = {full("uniform", 1),
                                         full("uniform", 2),
                                         full("uniform", 3),
                                         full("uniform", 4),
                                         full("block", 1),
                                         full("block", 4),
                                         selective("core_attn"),
                                         selective("layernorm"),
                                         selective("mlp"),
                                         selective("core_attn, mlp"),
                                         selective("core_attn, layernorm, mlp")};
  for (const Settings& choice : choices) {
    std::string name;
    for (const auto& [key, value] : choice) name += value + " ";
    CAPTURE(name);
    const Outcome again = train(base, choice);
    CHECK(again.records == plain.records);
    CHECK(difference(again.state, plain.state) == "");
    CHECK(again.memory.activations_saved < plain.memory.activations_saved);
    CHECK(again.memory.parameters == plain.memory.parameters);
  }
}

Settings shape(const std::string& dtype) {
  return {{"model.num_layers", "4"}, {"precision.params_dtype", dtype}, {"training.global_batch_size", "2"}};
}

Settings gpt2_shape(const std::string& dtype) {
  Settings s = shape(dtype);
  s.merge(Settings{{"model.normalization", "LayerNorm"},
                   {"model.position_embedding_type", "learned_absolute"},
                   {"model.swiglu", "false"},
                   {"model.add_bias_linear", "true"},
                   {"model.qk_layernorm", "true"},
                   {"model.untie_embeddings_and_output_weights", "false"}});
  return s;
}

}  // namespace

TEST_CASE("recompute is bitwise the same: LLaMA style, fp32") {
  check_all(shape("fp32"));
}
TEST_CASE("recompute is bitwise the same: LLaMA style, bf16") {
  check_all(shape("bf16"));
}
TEST_CASE("recompute is bitwise the same: GPT-2 style, fp32") {
  check_all(gpt2_shape("fp32"));
}
TEST_CASE("recompute is bitwise the same: GPT-2 style, bf16") {
  check_all(gpt2_shape("bf16"));
}
TEST_CASE("recompute is bitwise the same: no dropout, so that residual norms are fused") {
  for (const char* dtype : {"fp32", "bf16"}) {
    Settings s = shape(dtype);
    s["model.hidden_dropout"] = "0";
    s["model.attention_dropout"] = "0";
    check_all(s);
  }
}

TEST_CASE("recompute: uniform with longer chunks keeps less, block with fewer layers keeps more") {
  const Settings base = shape("fp32");
  const int64_t plain = train(base, {}).memory.activations_saved;
  const int64_t uniform1 = train(base, full("uniform", 1)).memory.activations_saved;
  const int64_t uniform2 = train(base, full("uniform", 2)).memory.activations_saved;
  const int64_t block1 = train(base, full("block", 1)).memory.activations_saved;
  const int64_t block3 = train(base, full("block", 3)).memory.activations_saved;
  CHECK(uniform2 < uniform1);
  CHECK(uniform1 < block3);
  CHECK(block3 < block1);
  CHECK(block1 < plain);
  // What uniform keeps of a layer is its input: [s, b, h] in fp32.
  CHECK(uniform1 - uniform2 == 2 * 12 * 2 * 16 * 4);
}

}  // namespace megatron::test
