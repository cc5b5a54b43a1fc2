// Rules about ranks: which sizes and switches of section `parallel` go together, and with the batch. One entry per
// refusal: name, keys, condition and sentence; entries stand alone and in no particular order.
#include "base/strings.h"
#include "config/batch_schedule.h"
#include "config/rules.h"

namespace megatron::detail {
namespace {

using Answer = std::optional<std::string>;

Answer refuse_if(bool condition, const std::string& sentence) {
  return condition ? Answer(sentence) : std::nullopt;
}

const ParallelConfig& parallel(const RuleContext& c) {
  return c.config.parallel;
}

/// Ranks that hold one copy of the model.
int64_t model_ranks(const RuleContext& c) {
  const ParallelConfig& p = parallel(c);
  return p.tensor_model_parallel_size * p.pipeline_model_parallel_size * p.context_parallel_size;
}

/// The same for experts, on their own mesh over the same ranks.
int64_t expert_ranks(const RuleContext& c) {
  const ParallelConfig& p = parallel(c);
  return p.expert_tensor_parallel_size * p.expert_model_parallel_size * p.pipeline_model_parallel_size;
}

/// For sizes that only 1 works of.
std::string not_yet(const char* key, int64_t value) {
  return str_cat(key, " ", value, " is not supported yet; this version has tensor and data parallelism: set 1");
}

Answer batch_divides(const RuleContext& c) {
  const TrainingConfig& t = c.config.training;
  if (c.world_size % model_ranks(c) != 0) return {};  // world-divides says so
  const int64_t data_parallel = c.world_size / model_ranks(c);
  return refuse_if(t.global_batch_size % (t.micro_batch_size * data_parallel) != 0,
                   str_cat("global_batch_size ", t.global_batch_size, " is not divisible by micro_batch_size ",
                           t.micro_batch_size, " * data-parallel size ", data_parallel));
}

/// The sizes of a schedule that can be read: global_batch_size is the last of them.
Answer schedule_fits(const RuleContext& c) {
  const TrainingConfig& t = c.config.training;
  if (t.step_batch_size_schedule.empty()) return {};
  std::string problem;
  const auto schedule = parse_batch_schedule(t.step_batch_size_schedule, c.config.model.seq_length, &problem);
  if (!schedule) return "step_batch_size_schedule: " + problem;
  if (t.global_batch_size != schedule->back().batch_size) {
    return str_cat("global_batch_size ", t.global_batch_size, " is not the last size of step_batch_size_schedule, ",
                   schedule->back().batch_size, "; leave it out");
  }
  if (c.world_size % model_ranks(c) != 0) return {};
  const int64_t unit = t.micro_batch_size * (c.world_size / model_ranks(c));
  for (const BatchSizeStep& step : *schedule) {
    if (step.batch_size % unit == 0) continue;
    return str_cat("step_batch_size_schedule: ", step.batch_size, " is not divisible by micro_batch_size ",
                   t.micro_batch_size, " * data-parallel size ", c.world_size / model_ranks(c));
  }
  return {};
}

}  // namespace

void add_parallel_rules(std::vector<Rule>& table) {
  const std::string tp = "parallel.tensor_model_parallel_size", pp = "parallel.pipeline_model_parallel_size",
                    cp = "parallel.context_parallel_size", ep = "parallel.expert_model_parallel_size",
                    etp = "parallel.expert_tensor_parallel_size", sp = "parallel.sequence_parallel",
                    sharding = "parallel.data_parallel_sharding_strategy";
  const auto add = [&table](const char* name, std::vector<std::string> keys, Answer (*check)(const RuleContext&)) {
    table.push_back({name, std::move(keys), check});
  };

  // Sizes.
  add("world-divides", {tp, pp, cp}, [](const RuleContext& c) {
    return refuse_if(c.world_size % model_ranks(c) != 0,
                     str_cat("tensor * pipeline * context parallel size is ", model_ranks(c),
                             ", which does not divide the world size ", c.world_size));
  });
  add("expert-world-divides", {ep, etp, pp}, [](const RuleContext& c) {
    return refuse_if(c.world_size % expert_ranks(c) != 0,
                     str_cat("expert tensor * expert * pipeline parallel size is ", expert_ranks(c),
                             ", which does not divide the world size ", c.world_size));
  });
  add("batch-divides", {"training.global_batch_size", "training.micro_batch_size"}, batch_divides);
  add("batch-schedule",
      {"training.step_batch_size_schedule", "training.global_batch_size", "training.micro_batch_size",
       "model.seq_length"},
      schedule_fits);

  // What goes with what.
  add("sequence-parallel", {sp, tp}, [](const RuleContext& c) {
    return refuse_if(parallel(c).sequence_parallel && parallel(c).tensor_model_parallel_size == 1,
                     "sequence_parallel needs tensor_model_parallel_size above 1; leave it out");
  });

  // Not there yet.
  add("pipeline-parallel", {pp}, [](const RuleContext& c) {
    const int64_t size = parallel(c).pipeline_model_parallel_size;
    return refuse_if(size > 1, not_yet("pipeline_model_parallel_size", size));
  });
  add("context-parallel", {cp}, [](const RuleContext& c) {
    const int64_t size = parallel(c).context_parallel_size;
    return refuse_if(size > 1, not_yet("context_parallel_size", size));
  });
  add("expert-parallel", {ep}, [](const RuleContext& c) {
    const int64_t size = parallel(c).expert_model_parallel_size;
    return refuse_if(size > 1, not_yet("expert_model_parallel_size", size));
  });
  add("expert-tensor-parallel", {etp}, [](const RuleContext& c) {
    const int64_t size = parallel(c).expert_tensor_parallel_size;  // by default that of tensor parallelism
    return refuse_if(size > 1 && size != parallel(c).tensor_model_parallel_size,
                     not_yet("expert_tensor_parallel_size", size));
  });
  add("sharding", {sharding}, [](const RuleContext& c) {
    const std::string& strategy = parallel(c).data_parallel_sharding_strategy;
    return refuse_if(strategy != "no_shard", str_cat("data_parallel_sharding_strategy ", strategy,
                                                     " is not supported yet; this version has no_shard"));
  });
}

}  // namespace megatron::detail
