#include "train/engine.h"

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "kernels/linear/gemm_cpu.h"
#include "nn/language_model.h"
#include "optim/update_program.h"
#include "parallel/rank_device.h"
#include "program/passes.h"
#include "tensor/host_copy.h"

namespace megatron {

namespace {

/// Writes one number in the tensor's own type.
void write_scalar(Device& device, const Tensor& target, double value) {
  if (target.dtype == DType::kI64) {
    const auto whole = static_cast<int64_t>(value);
    return write_tensor(device, target, &whole, sizeof whole);
  }
  dispatch_floating("write_scalar", target.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T stored = static_cast<T>(value);
    write_tensor(device, target, &stored, sizeof stored);
  });
}

double read_scalar(Device& device, const Tensor& source) {
  const HostTensor host = to_host(device, source);
  return dispatch_floating("read_scalar", source.dtype, [&](auto tag) {
    using T = decltype(tag);
    return static_cast<double>(*host.tensor.as<T>());
  });
}

template <typename T>
void write_array(Executor& executor, const char* name, const std::vector<T>& values) {
  if (!executor.has_input(name)) return;
  write_tensor(executor.device(), executor.input(name), values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
}

}  // namespace

TrainEngine::TrainEngine(const Config& config, TrainPrograms programs)
    : config_(config),
      device_(make_device(config.run)),
      pool_(std::make_unique<ThreadPool>(cpu_threads(config.run))),
      store_(std::make_unique<Store>(*device_)),
      programs_(std::move(programs)),
      arena_(std::make_shared<Buffer>(*device_, programs_.arena_bytes())) {
  verify_blas();
  Executor::Options options;
  options.pool = pool_.get();
  const auto make = [&](const Plan& plan) { return std::make_unique<Executor>(plan, *store_, arena_, options); };
  begin_ = make(programs_.begin);
  train_ = make(programs_.train);
  eval_ = make(programs_.eval);
  update_ = make(programs_.update);
}

void TrainEngine::begin_step() {
  begin_->run(Phase::kForward);
}

void TrainEngine::write_batch(Executor& executor, const Batch& batch, double seed, int64_t step) {
  write_array(executor, inputs::kTokens, batch.tokens);
  write_array(executor, inputs::kLabels, batch.labels);
  write_array(executor, inputs::kWeights, batch.loss_weights);
  write_array(executor, inputs::kPositions, batch.position_ids);
  write_array(executor, inputs::kStarts, batch.document_start);
  write_array(executor, inputs::kSamples, batch.sample_ids);
  if (executor.has_input(inputs::kTokenIndex)) {
    std::vector<int32_t> index(batch.tokens.size());
    for (size_t i = 0; i < index.size(); ++i)
      index[i] = static_cast<int32_t>(static_cast<int64_t>(i) / batch.micro_batch_size);
    write_array(executor, inputs::kTokenIndex, index);
  }
  write_scalar(*device_, executor.input(inputs::kSeed), seed);
  if (executor.has_input(inputs::kStep))
    write_scalar(*device_, executor.input(inputs::kStep), static_cast<double>(step));
}

void TrainEngine::accumulate(const Batch& batch, double seed, int64_t step) {
  write_batch(*train_, batch, seed, step);
  train_->run(Phase::kForward);
  train_->run(Phase::kBackward);
}

void TrainEngine::evaluate(const Batch& batch) {
  write_batch(*eval_, batch, 0.0, 0);
  eval_->run(Phase::kForward);
}

double TrainEngine::loss_sum() const {
  return read_scalar(*device_, store_->find(kLossSum));
}

UpdateResult TrainEngine::update(const UpdateInputs& in) {
  write_scalar(*device_, update_->input(update_io::kWeightDecay), in.weight_decay);
  write_scalar(*device_, update_->input(update_io::kInverseScale), 1.0 / in.loss_scale);
  write_scalar(*device_, update_->input(update_io::kUpdateCount), static_cast<double>(in.update_count));
  for (size_t g = 0; g < programs_.groups.size(); ++g) {
    write_scalar(*device_, update_->input(update_io::learning_rate(programs_.groups[g])), in.learning_rates[g]);
  }
  update_->run(Phase::kForward);
  return {read_scalar(*device_, update_->output(update_io::kNorm)),
          read_scalar(*device_, update_->output(update_io::kSkip)) != 0};
}

std::string TrainEngine::locate_non_finite(const Batch& batch, double seed, int64_t step) {
  PackOptions apart;
  apart.reuse = false;
  apart.device = device_->kind();
  Plan plan = pack(make_loss_program(config_, programs_.spec, ParallelContext(), true), apart);
  auto arena = std::make_shared<Buffer>(*device_, plan.arena_bytes());
  Executor::Options options;
  options.pool = pool_.get();
  Executor executor(std::move(plan), *store_, arena, options);
  write_batch(executor, batch, seed, step);
  const std::unique_ptr<NonFinite> found = find_non_finite(executor);
  if (!found) return "";
  std::string text = str_cat(found->bad, " in ", found->scope, ", phase ", found->phase, ", operation ", found->op,
                             ", value ", found->value, ", element ", found->index);
  if (found->sample_index >= 0) {
    text += str_cat(", sample ", batch.sample_ids[static_cast<size_t>(found->sample_index)]);
  } else {
    std::vector<std::string> samples;
    for (int64_t id : batch.sample_ids) samples.push_back(std::to_string(id));
    text += ", samples " + join(samples, ", ");
  }
  return text;
}

}  // namespace megatron
