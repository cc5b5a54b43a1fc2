// The text of `megatron plan`.
#include "train/plan_report.h"

#include <algorithm>
#include <set>

#include "base/strings.h"
#include "config/batch_schedule.h"
#include "config/stage_split.h"
#include "kernels/attention/attention.h"

namespace megatron {

std::string part_text(const StagePart& part) {
  std::vector<std::string> what;
  const int64_t last = part.first_layer + part.layers - 1;
  const char* const begin = part.begins_in_layer ? "f" : "";
  const char* const end = part.ends_in_layer ? "a" : "";
  if (part.embedding) what.push_back("embedding");
  if (part.layers == 1) what.push_back(str_cat(part.first_layer, begin, end));
  if (part.layers > 1) what.push_back(str_cat(part.first_layer, begin, "-", last, end));
  if (part.loss) what.push_back("loss");
  return join(what, " ");
}

namespace {

/// What data-parallel ranks divide among them.
std::string divided_text(const ParallelConfig& parallel, const Mesh& mesh) {
  const int dp = mesh.find("dp");
  const std::string& strategy = parallel.data_parallel_sharding_strategy;
  if (dp < 0 || strategy == "no_shard") return "";
  return str_cat(", optimizer state",
                 strategy == "optim"         ? ""
                 : strategy == "optim_grads" ? " and gradients"
                                             : ", gradients and weights",
                 " divided by ", mesh.axes[static_cast<size_t>(dp)].size);
}

std::string memory_line(const std::string& what, int64_t bytes, const std::string& note = "") {
  std::string line = "  " + what;
  line.resize(std::max<size_t>(line.size(), 26), ' ');
  std::string amount = format_bytes(static_cast<double>(bytes));
  if (amount.size() < 12) amount.insert(0, 12 - amount.size(), ' ');
  return line + amount + (note.empty() ? "" : "   " + note) + "\n";
}

/// Layers of each stage, slot sets of the own one, and the bubble.
std::string describe_pipeline(const Config& config, const TrainPrograms& programs) {
  const PipelineSchedule schedule = schedule_of(programs, programs.micro_batches, true);
  const int stages = schedule.shape.stages, chunks = schedule.shape.chunks;
  if (stages == 1) return "";
  const PipelineReport report = simulate(schedule, usual_times(schedule));
  const std::vector<StagePart> parts = split_stages(config.parallel, config.model.num_layers);
  std::vector<std::string> lists;
  for (int s = 0; s < stages; ++s) {
    std::vector<std::string> held;
    for (int c = 0; c < chunks; ++c) held.push_back(part_text(parts[static_cast<size_t>(c * stages + s)]));
    lists.push_back(join(held, ", "));
  }
  if (std::ssize(parts) > 16) lists = {lists[0] + " | ..."};
  std::vector<std::string> sets;
  for (const Plan& plan : programs.train) sets.push_back(std::to_string(plan.options.slot_sets));
  return str_cat("pipeline     ", config.parallel.pipeline_schedule, chunks > 1 ? " interleaved" : "", ", layers of ",
                 stages, " stages: ", join(lists, " | "), "; ", join(sets, " + "), " slot sets on this rank; bubble ",
                 static_cast<int>(report.bubble * 1000 + 0.5) / 10.0, " % of the work of even stages\n");
}

/// Which kernels do the attention, each said once.
std::string attention_text(const TrainPrograms& programs) {
  std::string text;
  std::set<std::string> said;
  for (const Plan& plan : programs.train) {
    if (plan.options.device != DeviceKind::kCuda) continue;
    for (const std::string& line : attention_decisions(plan.program)) {
      if (said.insert(line).second) text += "  " + line + "\n";
    }
  }
  return text;
}

}  // namespace

std::string describe_plan(const Config& config, const TrainPrograms& programs,
                          const std::vector<std::string>& decisions) {
  const ModelSpec& spec = programs.spec;
  const MemoryReport memory = memory_report(programs);
  const TrainingConfig& training = config.training;
  const auto parameters = static_cast<double>(parameter_count(spec));
  const int64_t tokens = training.global_batch_size * spec.seq_length;
  const double flops = flops_per_token(spec);
  const Mesh& mesh = programs.mesh;
  const int64_t together = training.micro_batch_size * data_parallel_size(mesh);  // samples that the ranks take at once
  std::string text;
  text += str_cat("model        ", config.model.family, ", ", spec.layers.size(), " layers, hidden ", spec.hidden_size,
                  ", ", format_count(parameters), " parameters (", static_cast<int64_t>(parameters), ")\n");
  text += str_cat("vocabulary   ", spec.vocab_size, " ids, padded to ", spec.padded_vocab_size, " rows\n");
  text += str_cat("step         ", training.global_batch_size, " x ", spec.seq_length, " = ", tokens, " tokens in ",
                  div_exact(training.global_batch_size, together), " micro-batches of ", training.micro_batch_size,
                  together > training.micro_batch_size ? " on each data-parallel rank" : "", "\n");
  if (!training.step_batch_size_schedule.empty()) {
    std::vector<std::string> sizes;
    for (const BatchSizeStep& step : batch_schedule(config)) {
      sizes.push_back(str_cat(step.batch_size, " from sample ", step.first_sample));
    }
    text += str_cat("batch sizes  ", join(sizes, ", "), "\n");
  }
  if (mesh.rank() > 0) {
    std::vector<std::string> axes;
    std::string stage;
    for (const MeshAxis& axis : mesh.axes) {
      axes.push_back(str_cat(axis.name, " ", axis.size));
      if (axis.name == "pp") stage = str_cat(" of stage ", axis.coordinate + 1);
    }
    text += str_cat("ranks        ", mesh.world_size(), ": ", join(axes, ", "),
                    config.parallel.sequence_parallel ? ", sequence parallel" : "", divided_text(config.parallel, mesh),
                    "; memory is that of one rank", stage, "\n");
  }
  text += describe_pipeline(config, programs);
  text += str_cat("precision    ", name_of(spec.dtype), " parameters and activations, ",
                  name_of(accumulation_dtype(spec.dtype)), " gradients and optimizer state\n");
  text += str_cat("FLOPs        ", format_count(flops), " per token, ",
                  format_count(flops * static_cast<double>(tokens)), " per step (forward and backward)\n");
  text += "memory\n";
  text += memory_line("parameters", memory.parameters);
  text += memory_line("fp32 master copy", memory.master);
  text += memory_line("gradients", memory.gradients);
  text += memory_line("optimizer state", memory.optimizer);
  text += memory_line("other state", memory.other_state);
  text +=
      memory_line("arena", memory.arena,
                  "of which " + format_bytes(static_cast<double>(memory.activations_saved)) + " kept for the backward");
  text += memory_line("total", memory.allocated(), str_cat(memory.allocated(), " bytes"));
  if (config.checkpoint.async_save) {
    const int64_t optimizer = config.checkpoint.save_optim ? memory.master + memory.optimizer : 0;
    text += memory_line("host memory", memory.parameters + optimizer,
                        "at most, for saves in the background (checkpoint.async_save)");
  }
  if (!decisions.empty()) text += "decisions\n";
  for (const std::string& decision : decisions) text += "  " + decision + "\n";
  text += attention_text(programs);
  return text;
}

}  // namespace megatron
