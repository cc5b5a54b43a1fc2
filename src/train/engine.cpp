#include "train/engine.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "kernels/linear/gemm_cpu.h"
#include "kernels/linear/gemm_cuda.h"
#include "nn/language_model.h"
#include "optim/update_program.h"
#include "parallel/rank_device.h"
#include "program/passes.h"
#include "tensor/host_copy.h"
#include "train/memory_advice.h"

namespace megatron {

namespace {

/// Stages one number in the input's own type.
void stage_scalar(Executor& executor, const std::string& name, double value) {
  const DType dtype = executor.input(name).dtype;
  if (dtype == DType::kI64) {
    const auto whole = static_cast<int64_t>(value);
    return executor.stage(name, &whole, sizeof whole);
  }
  dispatch_floating("stage_scalar", dtype, [&](auto tag) {
    using T = decltype(tag);
    const T stored = static_cast<T>(value);
    executor.stage(name, &stored, sizeof stored);
  });
}

/// The number that `tensor` would be with its data at `data`.
double scalar_at(const Tensor& tensor, const std::byte* data) {
  return dispatch_floating("scalar_at", tensor.dtype, [&](auto tag) {
    using T = decltype(tag);
    T value;
    std::memcpy(&value, data, sizeof value);
    return static_cast<double>(value);
  });
}

template <typename T>
void stage_array(Executor& executor, const char* name, const std::vector<T>& values) {
  if (!executor.has_input(name)) return;
  executor.stage(name, values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
}

/// The arena, once it is known that everything fits.
std::shared_ptr<Buffer> reserve(const Config& config, const TrainPrograms& programs, RankContext& ranks) {
  require_memory(config, programs, ranks.parallel(), ranks.device(), ranks.data_size());
  return std::make_shared<Buffer>(ranks.device(), programs.arena_bytes());
}

/// What was found, and on which samples.
std::string describe(const NonFinite& found, const Batch& batch) {
  std::string text = str_cat(found.bad, " in ", found.scope, ", phase ", found.phase, ", operation ", found.op,
                             ", value ", found.value, ", element ", found.index);
  if (found.sample_index >= 0) {
    return text + str_cat(", sample ", batch.sample_ids[static_cast<size_t>(found.sample_index)]);
  }
  std::vector<std::string> samples;
  for (int64_t id : batch.sample_ids) samples.push_back(std::to_string(id));
  return text + ", samples " + join(samples, ", ");
}

/// The finding of the rank that came upon one first: collectives carry bad values to others. Order -1: none.
std::string earliest(RankContext& ranks, int64_t order, const std::string& text) {
  if (ranks.size() == 1) return text;
  std::string best;
  int64_t first = -1;
  for (const std::string& one : ranks.world().gather(str_cat(order, " ", ranks.world().label(), ": ", text))) {
    const int64_t other = std::stoll(one);
    if (other < 0 || (first >= 0 && other >= first)) continue;
    first = other;
    best = one.substr(one.find(' ') + 1);
  }
  return best;
}

constexpr int64_t kResultStride = 8;  ///< of one scalar in a result slot

}  // namespace

TrainEngine::TrainEngine(const Config& config, TrainPrograms programs, std::shared_ptr<RankContext> ranks)
    : config_(config),
      ranks_(ranks ? std::move(ranks) : std::make_shared<RankContext>(config)),
      device_(ranks_->device()),
      free_at_start_(device_.free_bytes()),
      pool_(std::make_unique<ThreadPool>(cpu_threads(config.run, ranks_->world().info().local_size))),
      store_(std::make_unique<Store>(device_)),
      programs_(std::move(programs)),
      arena_(reserve(config, programs_, *ranks_)) {
  verify_blas();
  begin_ = std::make_unique<Executor>(programs_.begin, *store_, arena_, executor_options());
  train_ = make_chunks(programs_.train, arena_);
  eval_ = make_chunks(programs_.eval, arena_);
  update_ = std::make_unique<Executor>(programs_.update, *store_, arena_, executor_options());
  gather_ = std::make_unique<Executor>(programs_.gather, *store_, arena_, executor_options());
  for (ResultSlot& slot : results_) {
    slot.memory = Buffer(device_, 3 * kResultStride, Buffer::Place::kHost);
    slot.ready = device_.make_event();
  }
}

Executor::Options TrainEngine::executor_options() const {
  Executor::Options options;
  options.pool = pool_.get();
  options.comms = ranks_->comms();
  options.graphs = config_.training.cuda_graph_impl == "local";
  return options;
}

TrainEngine::Chunks TrainEngine::make_chunks(const std::vector<Plan>& plans,
                                             const std::shared_ptr<Buffer>& arena) const {
  Chunks chunks;
  std::vector<Executor*> executors;
  for (size_t c = 0; c < plans.size(); ++c) {
    Executor::Options options = executor_options();
    options.kept_offset = kept_offset(plans, c);
    // Inputs of two steps may be on their way, so that the host never waits for the device within a step.
    options.staged = static_cast<int>(std::clamp<int64_t>(2 * programs_.micro_batches, 4, 64));
    chunks.executors.push_back(std::make_unique<Executor>(plans[c], *store_, arena, options));
    executors.push_back(chunks.executors.back().get());
  }
  chunks.runner =
      std::make_unique<ChunkRunner>(executors, ChunkRunner::Links{ranks_->stages_forward(), ranks_->stages_backward()});
  return chunks;
}

const std::vector<Instruction>& TrainEngine::instructions(Chunks& chunks, size_t micro_batches, bool backward) const {
  const auto [found, fresh] = chunks.instructions.try_emplace(micro_batches);
  if (fresh) {
    const PipelineSchedule schedule = schedule_of(programs_, static_cast<int>(micro_batches), backward);
    found->second = schedule.stages[static_cast<size_t>(ranks_->parallel().stage())];
  }
  return found->second;
}

void TrainEngine::begin_step() {
  begin_->run(Phase::kForward);
}

void TrainEngine::write_batch(Executor& executor, const Batch& batch, double seed, int64_t step, int slot_set) {
  stage_array(executor, inputs::kTokens, batch.tokens);
  stage_array(executor, inputs::kLabels, batch.labels);
  stage_array(executor, inputs::kWeights, batch.loss_weights);
  stage_array(executor, inputs::kPositions, batch.position_ids);
  stage_array(executor, inputs::kStarts, batch.document_start);
  stage_array(executor, inputs::kSamples, batch.sample_ids);
  stage_array(executor, inputs::kTokenIndex, batch.token_index);
  if (executor.has_input(inputs::kSeed)) stage_scalar(executor, inputs::kSeed, seed);
  if (executor.has_input(inputs::kStep)) stage_scalar(executor, inputs::kStep, static_cast<double>(step));
  executor.upload(slot_set);
}

void TrainEngine::accumulate(const std::vector<Batch>& batches, const std::vector<double>& seeds, int64_t step) {
  const auto write = [&](Executor& chunk, int micro_batch, int slot_set) {
    const auto m = static_cast<size_t>(micro_batch);
    ranks_->at(str_cat("iteration ", step, ", micro-batch ", micro_batch));
    write_batch(chunk, batches[m], seeds[m], step, slot_set);
  };
  train_.runner->run(instructions(train_, batches.size(), true), write);
  parameters_complete_ = true;
}

void TrainEngine::complete_parameters() {
  if (!parameters_complete_) gather_->run(Phase::kForward);
  parameters_complete_ = true;
}

void TrainEngine::evaluate(const std::vector<Batch>& batches) {
  const auto write = [&](Executor& chunk, int micro_batch, int slot_set) {
    write_batch(chunk, batches[static_cast<size_t>(micro_batch)], 0.0, 0, slot_set);
  };
  eval_.runner->run(instructions(eval_, batches.size(), false), write);
}

double TrainEngine::loss_sum() const {
  const HostTensor host = to_host(device_, store_->find(kLossSum));
  return scalar_at(host.tensor, host.bytes.data());
}

void TrainEngine::write_update_inputs(const UpdateInputs& in) {
  stage_scalar(*update_, update_io::kWeightDecay, in.weight_decay);
  stage_scalar(*update_, update_io::kInverseScale, 1.0 / in.loss_scale);
  stage_scalar(*update_, update_io::kUpdateCount, static_cast<double>(in.update_count));
  for (size_t g = 0; g < programs_.groups.size(); ++g) {
    stage_scalar(*update_, update_io::learning_rate(programs_.groups[g]), in.learning_rates[g]);
  }
  update_->upload();
}

void TrainEngine::update(const UpdateInputs& in) {
  MEGATRON_CHECK(updates_ - results_taken_ < static_cast<int64_t>(kInFlight), "too many steps in flight");
  write_update_inputs(in);
  if (Event* const hold = std::exchange(hold_, nullptr)) device_.wait(*hold, 0);
  update_->run(Phase::kForward);
  parameters_complete_ = !ranks_->parallel().data().overlap_param_gather;
  ResultSlot& slot = results_[static_cast<size_t>(updates_++) % kInFlight];
  std::byte* target = slot.memory.data();
  for (const Tensor& t : {update_->output(update_io::total(kLossSum)), update_->output(update_io::kNorm),
                          update_->output(update_io::kSkip)}) {
    device_.enqueue_to_host(target, t.data, t.bytes());
    target += kResultStride;
  }
  device_.record(*slot.ready);
}

StepResult TrainEngine::take_result() {
  MEGATRON_CHECK(results_taken_ < updates_, "no step is in flight");
  ResultSlot& slot = results_[static_cast<size_t>(results_taken_++) % kInFlight];
  slot.ready->synchronize();
  const std::byte* data = slot.memory.data();
  return {scalar_at(store_->find(kLossSum), data), scalar_at(update_->output(update_io::kNorm), data + kResultStride),
          scalar_at(update_->output(update_io::kSkip), data + 2 * kResultStride) != 0};
}

void TrainEngine::resume_after_skip() {
  const Tensor halt = store_->find(update_io::kHalt);
  const double none = 0;
  write_tensor(device_, halt, &none, sizeof none);
}

int64_t TrainEngine::library_bytes() const {
  if (device_.kind() == DeviceKind::kCpu) return 0;
  return std::max<int64_t>(0, free_at_start_ - device_.free_bytes() - device_.allocated_bytes());
}

std::string TrainEngine::first_step_report() const {
  if (device_.kind() == DeviceKind::kCpu) return "";
  std::string text =
      str_cat("device memory: ", format_bytes(static_cast<double>(device_.allocated_bytes())),
              " allocated as planned, ", format_bytes(static_cast<double>(library_bytes())), " taken by libraries");
#ifdef MEGATRON_HAVE_CUDA
  const GemmChoiceReport products = gemm_choice_report();
  text += products.path.empty()
              ? "; products: cuBLASLt's first choice of algorithms (there is no folder to keep measured ones in; see "
                "MEGATRON_CACHE_DIR)"
              : str_cat("; products: ", products.loaded, " algorithms from ", products.path, ", ", products.measured,
                        " measured in ", format_duration(products.seconds));
#endif
  return text;
}

std::vector<OpTime> TrainEngine::time_operations(const Batch& batch) {
  constexpr int kRepeats = 5;
  MEGATRON_CHECK(ranks_->parallel().stages() == 1, "operations are timed without a pipeline");
  Executor& train = *train_.executors.front();
  write_batch(train, batch, 1.0 / std::max(1.0, batch.loss_weight_sum), 1);
  std::vector<OpTime> all = megatron::time_operations(*begin_, "begin", kRepeats);
  const auto add = [&](Executor& executor, const char* label) {
    const std::vector<OpTime> more = megatron::time_operations(executor, label, kRepeats);
    all.insert(all.end(), more.begin(), more.end());
  };
  add(train, "");
  UpdateInputs in;
  in.learning_rates.assign(programs_.groups.size(), 0.0);
  write_update_inputs(in);  // only now: all programs share one arena
  add(*update_, "update");
  std::sort(all.begin(), all.end(), [](const OpTime& a, const OpTime& b) { return a.seconds > b.seconds; });
  return all;
}

std::string TrainEngine::locate_non_finite(const Batch& batch, double seed, int64_t step) {
  PackOptions apart;
  apart.reuse = false;
  apart.device = device_.kind();
  const ParallelContext& parallel = ranks_->parallel();
  apart.own_slots = parallel.stages() > 1;
  std::vector<Plan> plans;
  std::vector<int> positions;
  for (size_t c = 0; c < programs_.train.size(); ++c) {
    const auto chunk = static_cast<int>(c);
    plans.push_back(pack(make_loss_program(config_, programs_.spec, parallel, true, chunk), apart));
    positions.push_back(chunk * parallel.stages() + parallel.stage());
  }
  auto arena = std::make_shared<Buffer>(device_, arena_bytes(plans));
  Chunks chunks = make_chunks(plans, arena);
  std::vector<Executor*> executors;
  for (const auto& executor : chunks.executors) executors.push_back(executor.get());
  const auto write = [&](Executor& chunk, int, int slot_set) { write_batch(chunk, batch, seed, step, slot_set); };
  const std::unique_ptr<NonFinite> found =
      find_non_finite(executors, positions, [&] { chunks.runner->run(instructions(chunks, 1, true), write); });
  return earliest(*ranks_, found ? found->order : -1, found ? describe(*found, batch) : "");
}

}  // namespace megatron
