#include "train/programs.h"

#include <algorithm>
#include <set>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "config/batch_schedule.h"
#include "config/stage_split.h"
#include "nn/language_model.h"
#include "optim/update_program.h"
#include "parallel/gradient_buckets.h"
#include "parallel/mesh.h"
#include "parallel/overlap.h"
#include "parallel/rank_device.h"
#include "program/executor.h"
#include "program/passes.h"

namespace megatron {

int64_t kept_offset(const std::vector<Plan>& plans, size_t i) {
  int64_t offset = 0;
  for (const Plan& plan : plans) offset = std::max(offset, plan.transient_bytes);
  for (size_t before = 0; before < i; ++before) offset += plans[before].kept_bytes();
  return offset;
}

int64_t arena_bytes(const std::vector<Plan>& plans) {
  return kept_offset(plans, plans.size());
}

int64_t TrainPrograms::arena_bytes() const {
  return std::max({begin.arena_bytes(), megatron::arena_bytes(train), megatron::arena_bytes(eval), update.arena_bytes(),
                   gather.arena_bytes()});
}

std::vector<const Plan*> TrainPrograms::plans() const {
  std::vector<const Plan*> all = {&begin};
  for (const Plan& plan : train) all.push_back(&plan);
  for (const Plan& plan : eval) all.push_back(&plan);
  all.push_back(&update);
  all.push_back(&gather);
  return all;
}

namespace {

PipelineShape shape_of(const TrainPrograms& programs, int micro_batches, bool backward) {
  const int pp = programs.mesh.find("pp");
  const int stages = pp < 0 ? 1 : programs.mesh.axes[static_cast<size_t>(pp)].size;
  return {stages, narrow<int>(std::ssize(programs.train)), micro_batches, backward};
}

}  // namespace

PipelineSchedule schedule_of(const TrainPrograms& programs, int micro_batches, bool backward) {
  return make_schedule(programs.schedule, shape_of(programs, micro_batches, backward));
}

namespace {

/// Layer number of "decoder.layers.7.mlp", or -1.
int64_t layer_of(const std::string& scope) {
  static const std::string kPrefix = "decoder.layers.";
  if (!starts_with(scope, kPrefix)) return -1;
  return std::stoll(scope.substr(kPrefix.size()));
}

bool in_module(const std::string& scope, const std::string& module) {
  if (module == "core_attn") return ends_with(scope, ".core_attention");
  if (module == "layernorm") return ends_with(scope, "layernorm");
  if (module == "mlp") return ends_with(scope, ".mlp");
  throw UsageError("training.recompute_modules: '" + module +
                   "' is not a module of this model; use core_attn, layernorm or mlp");
}

/// Values of a layer that full recomputation drops: uniform keeps the input of every chunk of N layers, block
/// recomputes the first N layers only, each from its input.
bool dropped_by_full(const TrainingConfig& training, const Program& program, ValueId v, int64_t first_layer) {
  const int64_t layer = layer_of(program.op(program.value(v).producer).scope);
  if (layer < 0) return false;
  const int64_t place = layer - first_layer;
  const bool output = program.value(v).name == str_cat("decoder.layers.", layer, ".", kLayerOutput);
  const int64_t n = training.recompute_num_layers.value_or(1);
  if (training.recompute_method == "block") return place < n && !output;
  return !output || (place + 1) % n != 0;
}

/// `first_layer`: of the part of the model that the program is; layers are counted from it.
void apply_recompute(const TrainingConfig& training, const ParallelContext& parallel, Program& program,
                     int64_t first_layer) {
  const bool gathers = parallel.sequence_parallel(), configured = !training.recompute_granularity.empty();
  const bool weights = parallel.data().sharding == Sharding::kParameters && data_parallel_size(parallel.mesh()) > 1;
  if (!gathers && !weights && !configured) return;
  const bool full = training.recompute_granularity == "full";
  recompute(program, [&](const Program& p, ValueId v) {
    if ((gathers && is_gathered(p, v)) || (weights && is_gathered_weight(p, v))) return true;
    if (!configured) return false;
    if (full) return dropped_by_full(training, p, v, first_layer);
    const Op& producer = p.op(p.value(v).producer);
    return std::any_of(training.recompute_modules.begin(), training.recompute_modules.end(),
                       [&](const std::string& module) { return in_module(producer.scope, module); });
  });
}

/// A layer, or what stands beside the layers.
std::string unit_of(const std::string& scope) {
  const int64_t layer = layer_of(scope);
  return layer < 0 ? scope : str_cat("decoder.layers.", layer);
}

void apply_data_parallel(const DataParallel& data, Program& program) {
  bucket_by_unit(program, data, unit_of);
  overlap_gradient_sums(program, data);
  overlap_parameter_gathers(program, data);
}

/// Recomputation of whole layers or of norms starts from single values.
bool keeps_stream_values(const TrainingConfig& training) {
  if (training.recompute_granularity == "full") return true;
  const auto& modules = training.recompute_modules;
  return training.recompute_granularity == "selective" &&
         std::find(modules.begin(), modules.end(), "layernorm") != modules.end();
}

/// What the chunks of a rank hold, as one program without operations: parameters, gradients, and which sums of these
/// the chunks make themselves. Every stage has the sum of losses, which only the last one adds to.
Program held_by(const std::vector<Program>& chunks, DType dtype, const ParallelContext& parallel) {
  Program held;
  held.name = "held";
  held.mesh = parallel.mesh();
  Trace t(held);
  for (const Program& chunk : chunks) {
    for (const ParameterInfo& p : chunk.parameters) {
      const ValueInfo& v = chunk.value(p.value);
      MEGATRON_CHECK(p.gradient != kNone, "parameter " + v.name + " has no gradient: nothing depends on it");
      const ValueInfo& g = chunk.value(p.gradient);
      t.parameter(v.name, v.dtype, v.shape, v.placement, p.init);
      ParameterInfo& info = held.parameters.back();
      const Value gradient = t.state(g.name, g.dtype, g.shape, g.placement);
      declare_sums_of(t, chunk, p, gradient);
      info.gradient = gradient.id;
      info.sum_group = p.sum_group;
      info.owner = p.owner;
    }
  }
  Placement placement = parallel.tokens();
  for (AxisPlacement& p : placement) p = p.sharded() ? AxisPlacement::P() : AxisPlacement::R();
  t.state(kLossSum, accumulation_dtype(dtype), {}, placement);
  return held;
}

std::vector<ParamGroup> groups_of(const Config& config, const Program& train) {
  std::vector<std::string> names;
  for (const ParameterInfo& p : train.parameters) names.push_back(train.value(p.value).name);
  ParamGroupSettings settings;
  settings.apply_wd_to_qk_layernorm = config.optimizer.apply_wd_to_qk_layernorm;
  settings.decay_embeddings = !config.model.embedding_init_method_std.has_value();
  return make_param_groups(names, resolve_schedule(config.optimizer, config.training), settings);
}

}  // namespace

Program make_loss_program(const Config& config, const ModelSpec& spec, const ParallelContext& whole, bool training,
                          int chunk) {
  const ParallelContext parallel = whole.within_stage();
  Program program;
  program.name = str_cat(training ? "train" : "eval", chunk > 0 ? str_cat(".", chunk) : "");
  program.mesh = parallel.mesh();
  Trace t(program, training);
  LossProgramOptions options;
  options.micro_batch_size = samples_at_once(config, parallel.mesh());
  options.training = training;
  options.attention_starts = config.data.reset_attention_mask;
  if (whole.stages() > 1) {
    const std::vector<StagePart> parts = split_stages(config.parallel, config.model.num_layers);
    options.part = parts.at(static_cast<size_t>(chunk * whole.stages() + whole.stage()));
  }
  trace_loss(t, spec, parallel, options);
  if (training) {
    differentiate(program);
    apply_recompute(config.training, parallel, program, options.part ? options.part->first_layer : 0);
    apply_data_parallel(parallel.data(), program);
    if (config.parallel.pipeline_schedule == "zero-bubble") move_weight_gradients(program);
  } else {
    bucket_by_unit(program, parallel.data(), unit_of);
  }
  remove_dead_ops(program);
  split_products(program);
  return program;
}

TrainPrograms make_train_programs(const Config& config, int64_t vocab_size, const ParallelContext& parallel) {
  TrainPrograms programs;
  programs.spec = make_model_spec(config, vocab_size);
  programs.spec.fuse_residual_norm = !keeps_stream_values(config.training);
  programs.mesh = parallel.mesh();
  programs.schedule = parse_schedule(config.parallel.pipeline_schedule);
  const auto micro_batches = [&](int64_t samples) {
    return narrow<int>(micro_batches_of(config, parallel.mesh(), samples));
  };
  programs.micro_batches = micro_batches(config.training.global_batch_size);
  const int stages = parallel.stages();
  programs.eval_micro_batches = stages;
  const auto parts = std::ssize(split_stages(config.parallel, config.model.num_layers));
  std::vector<Program> train(static_cast<size_t>(parts / stages));
  programs.train.resize(train.size());
  for (size_t c = 0; c < train.size(); ++c) {
    train[c] = make_loss_program(config, programs.spec, parallel, true, static_cast<int>(c));
  }
  programs.held = stages == 1 ? train[0] : held_by(train, programs.spec.dtype, parallel.within_stage());
  programs.groups = groups_of(config, programs.held);
  PackOptions options;
  options.device = device_kind(config.run);
  programs.begin = pack(make_begin_program(programs.held, {kLossSum}), options);
  Program update = make_update_program(programs.held, config.optimizer, programs.groups, {kLossSum}, parallel.data(),
                                       stages > 1 ? "pp" : "");
  update.groups = parallel.groups_of_stages();
  programs.update = pack(std::move(update), options);
  programs.gather = pack(make_gather_program(programs.held, parallel.data()), options);
  const auto stage = static_cast<size_t>(parallel.stage());
  const auto slot_sets = [&](int count, bool backward) {
    return slot_sets_of(programs.schedule, shape_of(programs, count, backward))[stage];
  };
  const std::vector<int> evaluation = slot_sets(programs.eval_micro_batches, false);
  std::vector<int> training(train.size(), 1);
  for (const BatchSizeStep& size : batch_schedule(config)) {
    const std::vector<int> step = slot_sets(micro_batches(size.batch_size), true);
    for (size_t c = 0; c < train.size(); ++c) training[c] = std::max(training[c], step[c]);
  }
  options.own_slots = stages > 1;
  for (size_t c = 0; c < train.size(); ++c) {
    options.slot_sets = evaluation[c];
    programs.eval.push_back(
        pack(make_loss_program(config, programs.spec, parallel, false, static_cast<int>(c)), options));
    options.slot_sets = training[c];
    programs.train[c] = pack(std::move(train[c]), options);
  }
  return programs;
}

std::set<ValueId> saved_for_backward(const Plan& plan) {
  std::set<ValueId> made, saved;
  for (const Boundary& boundary : plan.program.received) made.insert(boundary.value);
  for (OpId id : plan.program.list(Phase::kForward)) {
    for (ValueId v : plan.program.op(id).results) made.insert(plan.program.value(v).storage.root);
  }
  for (OpId id : plan.program.list(Phase::kBackward)) {
    for (ValueId v : plan.program.op(id).operands) {
      if (v == kNone) continue;
      const ValueId root = plan.program.value(v).storage.root;
      const Lifetime lifetime = plan.program.value(root).lifetime;
      const bool kept = lifetime == Lifetime::kActivation || lifetime == Lifetime::kReceived;
      if (made.count(root) > 0 && kept) saved.insert(root);
    }
  }
  return saved;
}

MemoryReport memory_report(const TrainPrograms& programs) {
  MemoryReport report;
  std::set<std::string> seen;
  for (const Plan* plan : programs.plans()) {
    for (const auto& [name, id] : plan->program.by_name) {
      const Lifetime lifetime = plan->program.value(id).lifetime;
      const bool comes = lifetime == Lifetime::kInput || lifetime == Lifetime::kReceived;
      if (comes || plan->program.is_alias(id) || !seen.insert(name).second) continue;
      const int64_t bytes = persistent_bytes(plan->program, id);
      if (lifetime == Lifetime::kParameter) {
        report.parameters += bytes;
      } else if (starts_with(name, gradient_name(""))) {
        report.gradients += bytes;
      } else if (starts_with(name, optimizer_state::master(""))) {
        report.master += bytes;
      } else if (optimizer_state::is_optimizer_state(name)) {
        report.optimizer += bytes;
      } else {
        report.other_state += bytes;
      }
    }
  }
  report.arena = programs.arena_bytes();
  for (const Plan& plan : programs.train) {
    for (ValueId v : saved_for_backward(plan)) {
      report.activations_saved += plan.options.slot_sets * plan.slots[static_cast<size_t>(v)].bytes;
    }
  }
  return report;
}

}  // namespace megatron
