// What tests of pipelines share: cases, gradients of the first step, and the comparison with one rank.
#pragma once

#include <algorithm>
#include <mutex>

#include "tests/catch.h"
#include "tests/parallel/mesh_run.h"
#include "tests/train/rank_run.h"

namespace megatron::test {

struct PipelineCase {
  std::string name;
  int ranks, stages;
  Settings settings;  ///< beside the number of stages
};

inline Settings with(Settings settings, const Settings& more) {
  for (const auto& [key, value] : more) settings[key] = value;
  return settings;
}

inline Settings on_pipeline(const Settings& settings, const PipelineCase& c) {
  return with(with(settings, c.settings), {{"parallel.pipeline_model_parallel_size", std::to_string(c.stages)}});
}

inline void check_cases(const Settings& changes, const std::vector<PipelineCase>& cases, int64_t iterations = 3) {
  const Settings settings = with(exact({{"model.num_layers", "4"}}), changes);
  const std::vector<double> one = train_ranks(settings, 1, iterations);
  for (const PipelineCase& c : cases) {
    INFO(c.name);
    CHECK(worst_difference(train_ranks(on_pipeline(settings, c), c.ranks, iterations), one) < 1e-10);
  }
}

inline const Settings kGpt2 = {{"model.position_embedding_type", "learned_absolute"},
                               {"model.normalization", "LayerNorm"},
                               {"model.swiglu", "false"},
                               {"model.add_bias_linear", "true"},
                               {"model.untie_embeddings_and_output_weights", "false"}};

using Tensors = std::map<std::string, std::vector<double>>;

/// The gradient as the backward leaves it: summed over dp where the programs of the rank do that themselves.
inline ValueId left_by_backward(const Program& held, const ParameterInfo& p) {
  for (const auto& [name, id] : held.by_name) {
    if (id != p.gradient && held.value(id).storage.root == p.gradient) return id;
  }
  return p.gradient;
}

/// Adds this rank's share of the gradients to the global ones.
inline void collect_gradients(RankRun& run, Tensors& all) {
  const Program& held = run.engine().train_program();
  for (const ParameterInfo& p : held.parameters) {
    const ValueInfo& info = held.value(left_by_backward(held, p));
    bool copy = false;  // of what another rank adds
    for (size_t a = 0; a < info.placement.size(); ++a) {
      copy = copy || (info.placement[a].replicated() && held.mesh.axes[a].coordinate > 0);
    }
    if (copy) continue;
    std::vector<double>& whole = all[held.value(p.value).name];
    whole.resize(static_cast<size_t>(info.shape.numel()));
    const double* memory = run.engine().store().find(held.value(p.gradient).name).as<double>() + info.storage.offset;
    testing::for_each_local(
        info, held.mesh, [&](int64_t local, int64_t global) { whole[static_cast<size_t>(global)] += memory[local]; });
  }
}

inline Tensors first_gradients(const Settings& settings, int ranks,
                               const std::function<void(int stage, std::vector<Batch>&)>& change = {},
                               const RankRun::Change& change_programs = {}) {
  std::mutex mutex;
  Tensors all;
  run_thread_ranks(ranks, [&](World& world) {
    RankRun run(settings, world, change_programs);
    run.accumulate_first([&](std::vector<Batch>& batches) {
      if (change) change(run.ranks().parallel().stage(), batches);
    });
    const std::lock_guard lock(mutex);
    collect_gradients(run, all);
  });
  return all;
}

/// max |a - b| over the whole model, relative to its largest gradient.
inline double difference_of(const Tensors& a, const Tensors& b) {
  double worst = 0, top = 0;
  if (a.size() != b.size()) return INFINITY;
  for (const auto& [name, numbers] : b) {
    const auto found = a.find(name);
    if (found == a.end()) return INFINITY;
    const size_t size = std::min(numbers.size(), found->second.size());  // padding rows depend on tp
    for (size_t i = 0; i < size; ++i) {
      if (!std::isfinite(found->second[i])) return INFINITY;
      worst = std::max(worst, std::abs(found->second[i] - numbers[i]));
      top = std::max(top, std::abs(numbers[i]));
    }
  }
  return worst / top;
}

}  // namespace megatron::test
