// Gradients of whole tiny models against central differences in fp64, for every option of the specs.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/philox.h"
#include "base/strings.h"
#include "nn/language_model.h"
#include "program/executor.h"
#include "program/passes.h"
#include "tests/catch.h"

namespace megatron {
namespace {

constexpr int64_t kS = 5, kB = 2, kHidden = 8, kVocab = 11, kPadded = 12;

ModelSpec base_spec() {
  ModelSpec spec;
  spec.hidden_size = kHidden;
  spec.vocab_size = kVocab;
  spec.padded_vocab_size = kPadded;
  spec.seq_length = kS;
  spec.max_positions = kS + 2;
  spec.tied = false;
  spec.dtype = DType::kF64;
  LayerSpec layer;
  layer.norm.kind = NormSpec::Kind::kRmsNorm;
  layer.attention.heads = 4;
  layer.attention.groups = 2;
  layer.attention.head_dim = 4;
  layer.attention.softmax_scale = 0.5;
  layer.attention.rope.emplace().head_dim = 4;
  layer.mlp.ffn_hidden_size = 6;
  layer.mlp.activation = ActivationKind::kSilu;
  layer.mlp.gated = true;
  spec.layers = {layer, layer};
  spec.final_norm = layer.norm;
  return spec;
}

ModelSpec gpt2_spec() {
  ModelSpec spec = base_spec();
  spec.tied = true;
  spec.learned_positions = true;
  spec.final_norm.kind = NormSpec::Kind::kLayerNorm;
  for (LayerSpec& layer : spec.layers) {
    layer.norm.kind = NormSpec::Kind::kLayerNorm;
    layer.attention.groups = 4;
    layer.attention.qkv_bias = layer.attention.out_bias = true;
    layer.attention.rope.reset();
    layer.mlp = {6, ActivationKind::kGeluTanh, false, true};
  }
  return spec;
}

/// One model with random weights and one micro-batch, loss and gradients on request.
class Bench {
 public:
  explicit Bench(const ModelSpec& spec, bool attention_starts = false) : device_(make_cpu_device()), pool_(1) {
    Program traced;
    traced.name = "test";
    Trace trace(traced, true);
    trace_loss(trace, spec, ParallelContext(),
               {.micro_batch_size = kB, .training = true, .attention_starts = attention_starts});
    differentiate(traced);
    remove_dead_ops(traced);
    store_ = std::make_unique<Store>(*device_);
    Plan plan = pack(std::move(traced));
    auto arena = std::make_shared<Buffer>(*device_, plan.arena_bytes());
    Executor::Options options;
    options.pool = &pool_;
    executor_ = std::make_unique<Executor>(std::move(plan), *store_, arena, options);
    for (const ParameterInfo& p : program().parameters) randomise(p);
  }

  const Program& program() const { return executor_->plan().program; }
  Tensor parameter(const ParameterInfo& p) const { return store_->find(program().value(p.value).name); }
  Tensor gradient(const ParameterInfo& p) const { return store_->find(program().value(p.gradient).name); }

  double loss(bool backward = false) {
    write_inputs();
    device_->fill_zero(store_->find(kLossSum).data, 8);
    executor_->run(Phase::kForward);
    if (backward) executor_->run(Phase::kBackward);
    return *store_->find(kLossSum).as<double>();
  }

  void zero_gradients() {
    for (const ParameterInfo& p : program().parameters) device_->fill_zero(gradient(p).data, gradient(p).bytes());
  }

 private:
  void randomise(const ParameterInfo& info) {
    const Tensor t = parameter(info);
    const std::string& name = program().value(info.value).name;
    const int64_t valid = info.init.valid_rows < 0 ? t.numel() : info.init.valid_rows * (t.numel() / t.shape[0]);
    const bool scale = ends_with(name, "norm.weight");
    for (int64_t i = 0; i < valid; ++i) {
      const double noise = 0.4 * philox_normal(philox_key(5, hash_name(name)), static_cast<uint64_t>(i));
      t.as<double>()[i] = scale ? info.init.value + 0.5 * noise : noise;
    }
  }

  template <typename T, typename F>
  void write(const char* name, F value) {
    if (!executor_->has_input(name)) return;
    const Tensor t = executor_->input(name);
    for (int64_t i = 0; i < t.numel(); ++i) t.as<T>()[i] = static_cast<T>(value(i));
  }

  void write_inputs() {
    const auto token = [](int64_t i, uint32_t salt) {
      return philox(9, static_cast<uint32_t>(i), salt, 0, 0).v[0] % kVocab;
    };
    write<int32_t>(inputs::kTokens, [&](int64_t i) { return token(i, 1); });
    write<int32_t>(inputs::kLabels, [&](int64_t i) { return token(i, 2); });
    write<float>(inputs::kWeights, [](int64_t i) { return i == 3 ? 0.0 : 1.0; });
    write<int32_t>(inputs::kPositions, [](int64_t i) { return i / kB; });
    write<int32_t>(inputs::kTokenIndex, [](int64_t i) { return i / kB; });
    write<int32_t>(inputs::kStarts, [](int64_t i) { return i % kB == 1 && i / kB >= 2 ? 2 : 0; });
    write<int64_t>(inputs::kSamples, [](int64_t i) { return 40 + i; });
    write<int64_t>(inputs::kStep, [](int64_t) { return 7; });
    write<double>(inputs::kSeed, [](int64_t) { return 0.25; });
  }

  std::unique_ptr<Device> device_;
  ThreadPool pool_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Executor> executor_;
};

/// Largest difference from central differences over all parameters, relative to the largest gradient.
double gradient_error(const ModelSpec& spec, bool attention_starts = false) {
  Bench bench(spec, attention_starts);
  bench.zero_gradients();
  bench.loss(true);
  std::vector<std::vector<double>> gradients;  // copied: the fused loss adds to its weight's gradient in every forward
  for (const ParameterInfo& p : bench.program().parameters) {
    const double* data = bench.gradient(p).as<double>();
    gradients.emplace_back(data, data + bench.gradient(p).numel());
  }
  double largest = 0, difference = 0;
  std::string worst;
  size_t next = 0;
  constexpr double kStep = 1e-5, kSeed = 0.25;
  for (const ParameterInfo& p : bench.program().parameters) {
    const Tensor weights = bench.parameter(p);
    const std::vector<double>& gradient = gradients[next++];
    const std::string& name = bench.program().value(p.value).name;
    double here = 0;
    for (int64_t i = 0; i < weights.numel(); ++i) {
      double& w = weights.as<double>()[i];
      const double saved = w;
      w = saved + kStep;
      const double up = bench.loss();
      w = saved - kStep;
      const double down = bench.loss();
      w = saved;
      const double want = kSeed * (up - down) / (2 * kStep);
      here = std::max(here, std::abs(want));
      if (!(std::abs(gradient[static_cast<size_t>(i)] - want) <= difference)) {
        difference = std::abs(gradient[static_cast<size_t>(i)] - want);
        worst = name;
      }
    }
    INFO(name << " has no effect on the loss");
    CHECK(here > 0.0);
    largest = std::max(largest, here);
  }
  UNSCOPED_INFO("largest difference in " << worst);
  REQUIRE(largest > 0.01);
  return difference / largest;
}

template <typename Change>
ModelSpec with(ModelSpec spec, Change change) {
  for (LayerSpec& layer : spec.layers) change(layer);
  return spec;
}

}  // namespace

TEST_CASE("gradients: a LLaMA-style model, residual norms fused and not") {
  ModelSpec spec = base_spec();
  CHECK(gradient_error(spec) < 1e-6);
  spec.fuse_residual_norm = false;
  CHECK(gradient_error(spec) < 1e-6);
}

TEST_CASE("gradients: a GPT-2-style model, tied, learned positions, biases") {
  ModelSpec spec = gpt2_spec();
  CHECK(gradient_error(spec) < 1e-6);
  spec.fuse_residual_norm = false;
  CHECK(gradient_error(spec) < 1e-6);
}

TEST_CASE("gradients: dropout everywhere, keyed so that the loss is a function") {
  for (ModelSpec spec : {base_spec(), gpt2_spec()}) {
    spec.embedding_dropout = 0.2;
    for (LayerSpec& layer : spec.layers) {
      layer.hidden_dropout = 0.3;
      layer.attention.dropout = 0.25;
    }
    CHECK(gradient_error(spec) < 1e-6);
  }
}

TEST_CASE("gradients: positions by yarn, llama3 scaling, partial, interleaved, none") {
  const auto rope = [](auto change) {
    return with(base_spec(), [&](LayerSpec& layer) { change(*layer.attention.rope); });
  };
  CHECK(gradient_error(
            rope([](RopeSpec& r) { r.yarn.on = true, r.yarn.factor = 4, r.yarn.original_max_position = 16; })) < 1e-6);
  CHECK(gradient_error(rope([](RopeSpec& r) { r.llama3.on = true; })) < 1e-6);
  CHECK(gradient_error(rope([](RopeSpec& r) { r.percent = 0.5; })) < 1e-6);
  CHECK(gradient_error(rope([](RopeSpec& r) { r.interleaved = true; })) < 1e-6);
  CHECK(gradient_error(with(base_spec(), [](LayerSpec& layer) { layer.attention.rope.reset(); })) < 1e-6);
}

TEST_CASE("gradients: norms zero-centred, over queries and keys, in both kinds") {
  for (NormSpec::Kind kind : {NormSpec::Kind::kRmsNorm, NormSpec::Kind::kLayerNorm}) {
    ModelSpec spec = with(base_spec(), [&](LayerSpec& layer) {
      layer.norm = {kind, 1e-5, true};
      layer.attention.qk_norm = true;
    });
    spec.final_norm = spec.layers[0].norm;
    CHECK(gradient_error(spec) < 1e-6);
  }
}

TEST_CASE("gradients: QKV bias alone, one key head, as many as queries, windows, packed documents") {
  CHECK(gradient_error(with(base_spec(), [](LayerSpec& layer) { layer.attention.qkv_bias = true; })) < 1e-6);
  CHECK(gradient_error(with(base_spec(), [](LayerSpec& layer) { layer.attention.groups = 1; })) < 1e-6);
  CHECK(gradient_error(with(base_spec(), [](LayerSpec& layer) { layer.attention.groups = 4; })) < 1e-6);
  CHECK(gradient_error(with(base_spec(), [](LayerSpec& layer) {
          layer.attention.window_left = 2;
          layer.attention.window_right = 0;
        })) < 1e-6);
  CHECK(gradient_error(base_spec(), true) < 1e-6);
}

TEST_CASE("gradients: every activation, gated and not, with biases") {
  for (ActivationKind kind : kAllActivations) {
    for (bool gated : {false, true}) {
      CAPTURE(std::string(name_of(kind)), gated);
      CHECK(gradient_error(with(base_spec(), [&](LayerSpec& layer) { layer.mlp = {6, kind, gated, gated}; })) < 1e-6);
    }
  }
}

TEST_CASE("gradients: layers that differ") {
  ModelSpec spec = base_spec();
  LayerSpec& last = spec.layers[1];
  last.norm.kind = NormSpec::Kind::kLayerNorm;
  last.attention.heads = 6;
  last.attention.groups = 3;
  last.attention.head_dim = 2;
  last.attention.rope.reset();
  last.attention.qk_norm = true;
  last.attention.window_left = 1;
  last.mlp = {10, ActivationKind::kGeluErf, false, true};
  last.hidden_dropout = 0.5;
  CHECK(gradient_error(spec) < 1e-6);
  spec.tied = true;
  CHECK(gradient_error(spec) < 1e-6);
}

TEST_CASE("dropout is keyed: the same key draws the same mask, another seed another one") {
  ModelSpec spec = base_spec();
  spec.embedding_dropout = 0.5;
  Bench bench(spec);
  const double first = bench.loss();
  CHECK(bench.loss() == first);
  spec.seed = 99;
  CHECK(Bench(spec).loss() != first);
  spec.embedding_dropout = 0;
  CHECK(Bench(spec).loss() != first);
}

}  // namespace megatron
