#include "inference/compare_models.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "base/philox.h"
#include "base/strings.h"
#include "inference/model.h"
#include "kernels/linear/gemm_cpu.h"
#include "nn/language_model.h"
#include "parallel/rank_device.h"
#include "program/passes.h"
#include "tensor/host_copy.h"

namespace megatron {
namespace {

/// A program of all logits with the outputs of its layers kept.
Program logits_program(const ModelSpec& spec, int64_t batch) {
  Program program;
  program.name = "logits";
  Trace t(program, false);
  trace_logits(t, spec, ParallelContext(), batch);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const std::string name = str_cat("decoder.layers.", i, ".", kLayerOutput);
    for (ValueId id = 0; id < std::ssize(program.values); ++id) {
      if (program.value(id).name == name) program.outputs.push_back({name, id});
    }
  }
  remove_dead_ops(program);
  return program;
}

void write_inputs(Executor& executor, const std::vector<std::vector<TokenId>>& tokens) {
  const size_t batch = tokens.size(), length = tokens[0].size();
  std::vector<int32_t> ids(batch * length), places(batch * length);
  for (size_t s = 0; s < length; ++s) {
    for (size_t b = 0; b < batch; ++b) {
      ids[s * batch + b] = tokens[b][s];
      places[s * batch + b] = static_cast<int32_t>(s);
    }
  }
  const auto bytes = static_cast<int64_t>(ids.size() * sizeof(int32_t));
  write_tensor(executor.device(), executor.input(inputs::kTokens), ids.data(), bytes);
  write_tensor(executor.device(), executor.input(inputs::kPositions), places.data(), bytes);
}

std::vector<float> values_of(const Tensor& tensor) {
  MEGATRON_CHECK(tensor.contiguous() && tensor.dtype == DType::kF32, "a dense fp32 value");
  return {tensor.as<float>(), tensor.as<float>() + tensor.numel()};
}

}  // namespace

Activations run_model(const ModelSource& source, const std::vector<std::vector<TokenId>>& tokens) {
  Config config = source.config();
  config.precision.params_dtype = "fp32";
  config.parallel.tensor_model_parallel_size = 1;
  const int64_t vocabulary = config.model.vocab_size ? *config.model.vocab_size : source.tokenizer()->vocab_size();
  ModelSpec spec = make_model_spec(config, vocabulary);
  spec.seq_length = static_cast<int64_t>(tokens[0].size());
  spec.fuse_residual_norm = false;  // keeps the output of each layer
  verify_blas();
  const std::unique_ptr<Device> device = make_cpu_device();
  Store store(*device);
  RunConfig run;
  ThreadPool pool(cpu_threads(run));
  PackOptions pack_options;
  pack_options.reuse = false;
  Plan plan = pack(logits_program(spec, std::ssize(tokens)), pack_options);
  load_parameters(source, plan.program, store);
  auto arena = std::make_shared<Buffer>(*device, plan.arena_bytes());
  Executor::Options options;
  options.pool = &pool;
  Executor executor(std::move(plan), store, arena, options);
  write_inputs(executor, tokens);
  executor.run(Phase::kForward);
  Activations values;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const std::string name = str_cat("decoder.layers.", i, ".", kLayerOutput);
    values.emplace_back(name, values_of(executor.output(name)));
  }
  const std::vector<float> padded = values_of(executor.output("logits"));
  std::vector<float> logits;
  const auto row = static_cast<size_t>(spec.padded_vocab_size), true_row = static_cast<size_t>(vocabulary);
  for (size_t i = 0; i < padded.size(); i += row) logits.insert(logits.end(), &padded[i], &padded[i] + true_row);
  values.emplace_back("logits", std::move(logits));
  return values;
}

std::vector<std::vector<TokenId>> probe_tokens(int64_t vocab_size, int64_t length) {
  std::vector<std::vector<TokenId>> tokens(2);
  const uint64_t key = philox_key(1, hash_name("probe_tokens"));
  for (size_t b = 0; b < tokens.size(); ++b) {
    for (int64_t s = 0; s < length; ++s) {
      const double u = philox_uniform(key, b * static_cast<size_t>(length) + static_cast<size_t>(s));
      tokens[b].push_back(static_cast<TokenId>(
          std::min<double>(u * static_cast<double>(vocab_size), static_cast<double>(vocab_size - 1))));
    }
  }
  return tokens;
}

ModelComparison compare_activations(const Activations& a, const Activations& b, double bound) {
  ModelComparison result;
  if (a.size() != b.size())
    throw DataError(str_cat("the models have ", a.size() - 1, " and ", b.size() - 1, " layers"));
  for (size_t i = 0; i < a.size(); ++i) {
    const auto& [name, left] = a[i];
    const std::vector<float>& right = b[i].second;
    if (left.size() != right.size()) throw DataError(str_cat("the models have ", name, " of different sizes"));
    double largest = 0, difference = 0;
    for (size_t k = 0; k < left.size(); ++k) {
      const double d = std::abs(static_cast<double>(left[k]) - static_cast<double>(right[k]));
      difference = std::isnan(d) ? INFINITY : std::max(difference, d);
      largest = std::max(largest, std::abs(static_cast<double>(left[k])));
    }
    const double error = difference == 0 ? 0 : difference / std::max(largest, 1e-30);
    result.largest_error = std::max(result.largest_error, error);
    result.logits_error = error;  // of the last one in the end
    if (error > bound && result.first_difference.empty()) result.first_difference = name;
  }
  return result;
}

}  // namespace megatron
