// Initial weights: their spread, what is scaled, and the padding rows of the vocabulary.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/train/trainer_helpers.h"
#include "train/model_state.h"

namespace megatron::test {
namespace {

std::vector<float> values(EngineRun& run, const std::string& name) {
  const Tensor t = run.engine().store().find(name);
  REQUIRE(t);
  return {t.as<float>(), t.as<float>() + t.numel()};
}

struct Moments {
  double mean = 0, deviation = 0, largest = 0;
};

Moments moments(const std::vector<float>& x, size_t count) {
  Moments m;
  double sum = 0, squares = 0;
  for (size_t i = 0; i < count; ++i) {
    sum += static_cast<double>(x[i]);
    squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    m.largest = std::max(m.largest, std::abs(static_cast<double>(x[i])));
  }
  const auto n = static_cast<double>(count);
  m.mean = sum / n;
  m.deviation = std::sqrt(squares / n - m.mean * m.mean);
  return m;
}

Settings wide(const Settings& changes = {}) {
  Settings s = tiny({{"model.num_layers", "8"},
                     {"model.hidden_size", "64"},
                     {"model.ffn_hidden_size", "128"},
                     {"model.init_method_std", "0.05"},
                     {"model.vocab_size", "200"},
                     {"model.make_vocab_size_divisible_by", "128"},
                     {"model.add_bias_linear", "true"},
                     {"model.normalization", "LayerNorm"}});
  for (const auto& [key, value] : changes) s[key] = value;
  return s;
}

void check_normal(EngineRun& run, const std::string& name, double deviation, size_t count = 0) {
  CAPTURE(name);
  const std::vector<float> x = values(run, name);
  const size_t n = count == 0 ? x.size() : count;
  const Moments m = moments(x, n);
  const double error = deviation / std::sqrt(static_cast<double>(n));
  CHECK(std::abs(m.mean) < 5 * error);
  CHECK(std::abs(m.deviation - deviation) < 5 * error);
}

}  // namespace

TEST_CASE("initialisation: N(0, std), output matrices by 1/sqrt(2 L), biases zero, scales one") {
  EngineRun run(wide());
  const double output = 0.05 / std::sqrt(2.0 * 8.0);
  for (const char* layer : {"decoder.layers.0.", "decoder.layers.7."}) {
    const std::string path = layer;
    check_normal(run, path + "self_attention.linear_qkv.weight", 0.05);
    check_normal(run, path + "self_attention.linear_proj.weight", output);
    check_normal(run, path + "mlp.linear_fc1.weight", 0.05);
    check_normal(run, path + "mlp.linear_fc2.weight", output);
    for (const char* bias : {"self_attention.linear_qkv.bias", "self_attention.linear_proj.bias", "mlp.linear_fc1.bias",
                             "mlp.linear_fc2.bias", "input_layernorm.bias", "pre_mlp_layernorm.bias"}) {
      for (float x : values(run, path + bias)) CHECK(x == 0.0f);
    }
    for (float x : values(run, path + "input_layernorm.weight")) CHECK(x == 1.0f);
  }
  check_normal(run, "embedding.word_embeddings.weight", 0.05, 200 * 64);
  check_normal(run, "output_layer.weight", 0.05, 200 * 64);
  // All layers together, for a sharper look at the factor.
  std::vector<float> outputs, inner;
  for (int i = 0; i < 8; ++i) {
    const std::string path = "decoder.layers." + std::to_string(i) + ".";
    for (const char* name : {"self_attention.linear_proj.weight", "mlp.linear_fc2.weight"}) {
      const std::vector<float> x = values(run, path + name);
      outputs.insert(outputs.end(), x.begin(), x.end());
    }
    const std::vector<float> x = values(run, path + "mlp.linear_fc1.weight");
    inner.insert(inner.end(), x.begin(), x.end());
  }
  CHECK(moments(outputs, outputs.size()).deviation == Approx(output).epsilon(0.012));
  CHECK(moments(inner, inner.size()).deviation == Approx(0.05).epsilon(0.012));
  // No two matrices share numbers.
  CHECK(values(run, "decoder.layers.0.mlp.linear_fc1.weight") != values(run, "decoder.layers.1.mlp.linear_fc1.weight"));
}

TEST_CASE("initialisation: embedding_init_method_std, zero-centred scales, Xavier, seeds, types") {
  EngineRun run(wide({{"model.embedding_init_method_std", "0.3"}, {"model.apply_layernorm_1p", "true"}}));
  check_normal(run, "embedding.word_embeddings.weight", 0.3, 200 * 64);
  for (float x : values(run, "decoder.final_layernorm.weight")) CHECK(x == 0.0f);

  Settings uniform = wide({{"model.init_method_xavier_uniform", "true"}});
  uniform.erase("model.init_method_std");
  EngineRun xavier(uniform);
  const std::vector<float> fc1 = values(xavier, "decoder.layers.3.mlp.linear_fc1.weight");  // [2, 128, 64]
  const double bound = std::sqrt(6.0 / (64.0 + 256.0));
  const Moments m = moments(fc1, fc1.size());
  CHECK(m.largest <= bound);
  CHECK(m.largest > 0.99 * bound);
  CHECK(m.deviation == Approx(bound / std::sqrt(3.0)).epsilon(0.02));

  EngineRun one(tiny()), same(tiny()), other(tiny({{"run.seed", "78"}}));
  CHECK(difference(one.state(), same.state()) == "");
  CHECK(difference(one.state(), other.state()) != "");
  // bf16 weights are the rounded fp32 ones, and their master copy is exact.
  EngineRun bf16(tiny({{"precision.params_dtype", "bf16"}}));
  const std::string name = "decoder.layers.0.mlp.linear_fc1.weight";
  const std::vector<float> exact = values(one, name);
  CHECK(values(bf16, "optimizer.state.fp32_param." + name) == exact);
  const Tensor rounded = bf16.engine().store().find(name);
  for (size_t i = 0; i < exact.size(); ++i) {
    REQUIRE(static_cast<float>(rounded.as<BFloat16>()[i]) == static_cast<float>(static_cast<BFloat16>(exact[i])));
  }
}

TEST_CASE("initialisation: padding rows of the vocabulary are zero and stay zero") {
  for (const char* tied : {"true", "false"}) {
    EngineRun run(wide({{"model.untie_embeddings_and_output_weights", tied}}));
    for (const char* name : {"embedding.word_embeddings.weight", "output_layer.weight"}) {
      if (!run.engine().store().find(name)) continue;
      const std::vector<float> before = values(run, name);
      REQUIRE(before.size() == 256 * 64);
      for (size_t i = 200 * 64; i < before.size(); ++i) REQUIRE(before[i] == 0.0f);
    }
    const std::vector<float> start = values(run, "embedding.word_embeddings.weight");
    run.steps(3);
    for (const char* name : {"embedding.word_embeddings.weight", "output_layer.weight"}) {
      if (!run.engine().store().find(name)) continue;
      for (const char* prefix : {"", "gradient/", "optimizer.state.exp_avg.", "optimizer.state.exp_avg_sq."}) {
        const std::vector<float> after = values(run, std::string(prefix) + name);
        for (size_t i = 200 * 64; i < after.size(); ++i) REQUIRE(after[i] == 0.0f);
      }
    }
    CHECK(values(run, "embedding.word_embeddings.weight") != start);
  }
}

TEST_CASE("a checkpoint holds the true vocabulary, whatever the padding") {
  EngineRun run(wide({{"model.untie_embeddings_and_output_weights", "true"}}));
  int found = 0;
  for (const TensorSource& s : checkpoint_tensors(run.engine().train_program(), run.engine().store(), true)) {
    if (s.record.name.find("word_embeddings") == std::string::npos &&
        s.record.name.find("output_layer") == std::string::npos)
      continue;
    ++found;
    CHECK(s.record.shape == std::vector<int64_t>{200, 64});
    CHECK(s.data.size() == 200 * 64 * sizeof(float));
  }
  CHECK(found == 6);  // two tables, each with two moments
}

TEST_CASE("the amount of padding does not change the mathematics") {
  EngineRun little(tiny({{"model.make_vocab_size_divisible_by", "1"}, {"precision.params_dtype", "fp64"}}));
  EngineRun much(tiny({{"model.make_vocab_size_divisible_by", "256"}, {"precision.params_dtype", "fp64"}}));
  for (int64_t i = 1; i <= 4; ++i) {
    const StepRecord a = little.step(i), b = much.step(i);
    CHECK(a.loss == Approx(b.loss).epsilon(1e-13));
    CHECK(a.grad_norm == Approx(b.grad_norm).epsilon(1e-12));
  }
}

}  // namespace megatron::test
