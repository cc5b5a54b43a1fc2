#include "train/memory_advice.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr size_t kLargestEntries = 3;

std::string size_text(int64_t bytes) {
  return format_bytes(static_cast<double>(bytes));
}

std::string padded(std::string text, size_t width) {
  text.resize(std::max(text.size(), width), ' ');
  return text;
}

/// The largest value or workspace of a plan that is not kept for the backward, as text; empty when there is none.
std::string largest_temporary(const Plan& plan, int64_t enough) {
  const std::set<ValueId> saved = saved_for_backward(plan);
  MemoryEntry largest;
  for (size_t v = 0; v < plan.slots.size(); ++v) {
    const ValueInfo& value = plan.program.value(static_cast<ValueId>(v));
    if (value.lifetime != Lifetime::kActivation || value.storage.root != static_cast<ValueId>(v)) continue;
    if (saved.count(static_cast<ValueId>(v)) > 0) continue;
    if (plan.slots[v].bytes > largest.bytes)
      largest = {plan.program.label(static_cast<ValueId>(v)), plan.slots[v].bytes};
  }
  for (size_t i = 0; i < plan.workspaces.size(); ++i) {
    if (plan.workspaces[i].bytes <= largest.bytes) continue;
    const Op& op = plan.program.op(static_cast<OpId>(i));
    largest = {str_cat("workspace of ", op.kind->name(), " in ", op.scope), plan.workspaces[i].bytes};
  }
  if (largest.bytes <= enough) return {};
  return str_cat(", the largest: ", largest.what, ", ", size_text(largest.bytes));
}

/// One thing to change.
struct Remedy {
  std::string setting;  ///< as for --set
  std::string remark;   ///< what else it changes
  int64_t needed = 0;   ///< bytes of the run with it
};

class Adviser {
 public:
  Adviser(const Config& config, const TrainPrograms& programs, const ParallelContext& parallel,
          const MemoryAdviceOptions& options)
      : config_(config), programs_(programs), parallel_(parallel), options_(options) {
    needed_ = memory_report(programs).allocated();
  }

  std::string text() {
    smaller_micro_batch();
    recomputation();
    distributed_optimizer();
    shorter_sequence();
    std::string text = str_cat(options_.device, ": the run needs ", size_text(needed_), " (", needed_, " bytes), ",
                               size_text(options_.free_bytes), " are free. The largest parts:\n");
    const std::vector<MemoryEntry> entries = memory_entries(programs_);
    for (size_t i = 0; i < std::min(kLargestEntries, entries.size()); ++i) {
      text += str_cat("  ", padded(size_text(entries[i].bytes), 12), entries[i].what, "\n");
    }
    text += "What to change (`megatron plan` shows the effect):\n";
    for (const Remedy& remedy : remedies_) {
      text +=
          str_cat("  ", remedy.setting, "  saves ", size_text(needed_ - remedy.needed), ", needs ",
                  size_text(remedy.needed), remedy.needed <= options_.free_bytes ? ": fits" : "", remedy.remark, "\n");
    }
    return text + "  or end other processes on the device, or take a device with more memory";
  }

 private:
  int64_t needed_with(const std::function<void(Config&)>& change) const {
    Config changed = config_;
    change(changed);
    return memory_report(make_train_programs(changed, programs_.spec.vocab_size, parallel_)).allocated();
  }
  void add(Remedy remedy) {
    if (remedy.needed < needed_) remedies_.push_back(std::move(remedy));
  }

  /// The largest half, quarter, ... that fits; else the smallest.
  void smaller_micro_batch() {
    std::optional<Remedy> best;
    int64_t size = config_.training.micro_batch_size;
    while (size % 2 == 0 && !(best && best->needed <= options_.free_bytes)) {
      size /= 2;
      const int64_t needed = needed_with([&](Config& c) { c.training.micro_batch_size = size; });
      best = Remedy{str_cat("training.micro_batch_size=", size), "", needed};
    }
    if (best) add(*best);
  }

  void recomputation() {
    const TrainingConfig& now = config_.training;
    const bool all = now.recompute_granularity == "full" && now.recompute_method == "uniform" &&
                     now.recompute_num_layers.value_or(1) == 1;
    if (all) return;
    const auto full = [](Config& c) {
      c.training.recompute_granularity = "full";
      c.training.recompute_method = "uniform";
      c.training.recompute_num_layers = 1;
    };
    if (now.recompute_granularity.empty()) {
      add({"training.recompute_granularity=selective training.recompute_modules=[mlp,layernorm]", "; a slower step",
           needed_with([](Config& c) {
             c.training.recompute_granularity = "selective";
             c.training.recompute_modules = {"mlp", "layernorm"};
           })});
    }
    add({"training.recompute_granularity=full training.recompute_method=uniform training.recompute_num_layers=1",
         "; a step slower by about a third", needed_with(full)});
    if (config_.training.micro_batch_size == 1) return;
    add({"full recomputation with training.micro_batch_size=1", "", needed_with([&](Config& c) {
           full(c);
           c.training.micro_batch_size = 1;
         })});
  }

  /// Master copy and optimizer state divide among the data-parallel ranks.
  void distributed_optimizer() {
    const int64_t ranks = options_.data_parallel_size;
    if (ranks < 2 || config_.parallel.data_parallel_sharding_strategy != "no_shard") return;
    const MemoryReport report = memory_report(programs_);
    const int64_t state = report.master + report.optimizer;
    add({"parallel.data_parallel_sharding_strategy=optim", str_cat("; over ", ranks, " data-parallel ranks"),
         needed_ - (state - state / ranks)});
  }

  void shorter_sequence() {
    const int64_t length = config_.model.seq_length / 2;
    if (length < 1 || config_.model.seq_length % 2 != 0) return;
    const int64_t context = config_.parallel.context_parallel_size;
    if (context > 1 && length % (2 * context) != 0) return;
    add({str_cat("model.seq_length=", length), "; another training task",
         needed_with([&](Config& c) { c.model.seq_length = length; })});
  }

  const Config& config_;
  const TrainPrograms& programs_;
  const ParallelContext& parallel_;
  const MemoryAdviceOptions& options_;
  int64_t needed_ = 0;
  std::vector<Remedy> remedies_;
};

}  // namespace

std::vector<MemoryEntry> memory_entries(const TrainPrograms& programs) {
  const MemoryReport report = memory_report(programs);
  // The arena serves all programs: what the training step does not keep is room for temporary values and the others.
  const int64_t temporary = report.arena - report.activations_saved;
  std::vector<MemoryEntry> entries = {
      {"parameters", report.parameters},
      {"fp32 master copy of the parameters", report.master},
      {"gradients", report.gradients},
      {"optimizer state", report.optimizer},
      {"other state", report.other_state},
      {"activations kept for the backward", report.activations_saved},
      {"temporary values" + largest_temporary(programs.train.front(), temporary / 4), temporary},
  };
  std::erase_if(entries, [](const MemoryEntry& entry) { return entry.bytes == 0; });
  std::stable_sort(entries.begin(), entries.end(),
                   [](const MemoryEntry& a, const MemoryEntry& b) { return a.bytes > b.bytes; });
  return entries;
}

std::string memory_advice(const Config& config, const TrainPrograms& programs, const ParallelContext& parallel,
                          const MemoryAdviceOptions& options) {
  return Adviser(config, programs, parallel, options).text();
}

void require_memory(const Config& config, const TrainPrograms& programs, const ParallelContext& parallel,
                    const Device& device, int64_t data_parallel_size) {
  const int64_t free_bytes = device.free_bytes();
  if (memory_report(programs).allocated() <= free_bytes) return;
  throw DeviceError(memory_advice(config, programs, parallel, {device.description(), free_bytes, data_parallel_size}));
}

}  // namespace megatron
