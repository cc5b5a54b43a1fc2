// Training of a small model on any mesh with the programs of a run (begin, train, update), read back as global tensors.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "base/philox.h"
#include "base/zigzag.h"
#include "nn/language_model.h"
#include "optim/update_program.h"
#include "parallel/overlap.h"
#include "program/passes.h"
#include "tests/parallel/mesh_run.h"
#include "train/model_state.h"

namespace megatron::testing {

struct TrainSetup {
  ModelSpec spec;
  int64_t micro_batch = 2;  ///< samples over all data-parallel ranks
  int micro_batches = 3;
  int steps = 1;
  bool attention_starts = false;
  int64_t pieces = 1;  ///< of the collectives of tensor-parallel regions
  OptimizerConfig optimizer;
  double learning_rate = 0.01;
  DataParallel data;
  /// Changes the forward and backward before it is packed (recomputation).
  std::function<void(Program&)> change = [](Program&) {};
  /// Changes the update before it is packed (faults).
  std::function<void(Program&)> change_update = [](Program&) {};
  /// Makes the training program in another way (faults).
  std::function<Program(const Mesh&)> trace;
  std::string cp_comm_type = "p2p";
  bool parts_in_order = false;  ///< a fault: context ranks get consecutive halves of sequences
};

struct TrainResult {
  Numbers losses, norms, coefficients;
  std::map<std::string, Numbers> first_gradients;  ///< of the first step, before the update
  std::map<std::string, Numbers> parameters;       ///< at the end
};

inline Program loss_program(const TrainSetup& setup, const Mesh& mesh, bool sequence_parallel) {
  if (setup.trace) return setup.trace(mesh);
  Program program;
  program.name = "train";
  program.mesh = mesh;
  Trace t(program, true);
  trace_loss(
      t, setup.spec,
      ParallelContext(mesh, sequence_parallel, setup.data).in_pieces(setup.pieces).with_context(setup.cp_comm_type),
      {.micro_batch_size = setup.micro_batch, .training = true, .attention_starts = setup.attention_starts});
  differentiate(program);
  setup.change(program);
  bucket_by_unit(program, setup.data, [](const std::string& scope) { return scope.substr(0, 16); });
  overlap_gradient_sums(program, setup.data);
  overlap_parameter_gathers(program, setup.data);
  remove_dead_ops(program);
  if (setup.pieces > 1) split_products(program);
  return program;
}

class MeshTrainer {
 public:
  MeshTrainer(const TrainSetup& setup, const AxisSizes& sizes, bool sequence_parallel)
      : setup_(setup), sequence_parallel_(sequence_parallel), run_(sizes) {
    run_.add("train", [&](const Mesh& mesh) { return loss_program(setup_, mesh, sequence_parallel); });
    const auto traced = [&](const Mesh& mesh) { return loss_program(setup_, mesh, sequence_parallel); };
    std::vector<std::string> names;
    const Program& train = run_.program("train");
    for (const ParameterInfo& p : train.parameters) names.push_back(train.value(p.value).name);
    Schedule schedule;
    schedule.lr = {setup_.learning_rate, 0};
    groups_ = make_param_groups(names, schedule, {});
    run_.add("begin", [&](const Mesh& mesh) { return make_begin_program(traced(mesh), {kLossSum}); });
    run_.add("update", [&](const Mesh& mesh) {
      Program update = make_update_program(traced(mesh), setup_.optimizer, groups_, {}, setup_.data);
      setup_.change_update(update);
      return update;
    });
    ThreadPool pool(1);
    for (size_t r = 0; r < run_.size(); ++r) initialize_parameters(run_.program("train", r), run_.store(r), 17, pool);
  }

  TrainResult run() {
    TrainResult result;
    for (int step = 0; step < setup_.steps; ++step) {
      const double divisor = total_weight(step);
      run_.run("begin", {Phase::kForward});
      for (int m = 0; m < setup_.micro_batches; ++m) {
        fill_batch(step, m, divisor);
        run_.run_micro_batch("train", m == 0, m + 1 == setup_.micro_batches);
      }
      // With overlap the backward has summed them already, into other names of their memory.
      if (step == 0 && !setup_.data.overlap_grad_reduce) result.first_gradients = tensors("gradient/");
      result.losses.push_back(run_.global("train", kLossSum)[0] / divisor);
      update(step, result);
    }
    if (setup_.data.overlap_param_gather) {
      run_.add("gather", [&](const Mesh& mesh) {
        return make_gather_program(loss_program(setup_, mesh, sequence_parallel_), setup_.data);
      });
      run_.run("gather", {Phase::kForward});
    }
    result.parameters = tensors("");
    return result;
  }

  MeshRun& mesh() { return run_; }

 private:
  /// Place in the sequence of row `row` of the global tensors, which hold the ranks' parts one after the other.
  int64_t place(int64_t row) const {
    const int64_t ranks = ParallelContext(run_.mesh(0), false).context_size();
    if (ranks == 1 || setup_.parts_in_order) return row;
    const int64_t rows = setup_.spec.seq_length / ranks;
    return zigzag_places(rows, row / rows, ranks).at(row % rows);
  }
  int64_t sample(int step, int micro, int64_t b) const {
    return (step * setup_.micro_batches + micro) * setup_.micro_batch + b;
  }
  uint32_t draw(int64_t sample, int64_t position, uint32_t salt) const {
    return philox(9, static_cast<uint32_t>(sample), static_cast<uint32_t>(position), salt, 0).v[0];
  }
  double weight(int64_t sample, int64_t position) const { return draw(sample, position, 3) % 4 == 0 ? 0.0 : 1.0; }

  double total_weight(int step) const {
    double sum = 0;
    for (int m = 0; m < setup_.micro_batches; ++m) {
      for (int64_t i = 0; i < setup_.spec.seq_length * setup_.micro_batch; ++i)
        sum += weight(sample(step, m, i % setup_.micro_batch), i / setup_.micro_batch);
    }
    return sum;
  }

  void fill_batch(int step, int micro, double divisor) {
    const int64_t B = setup_.micro_batch;
    const auto per_token = [&](const char* name, const std::function<double(int64_t, int64_t)>& value) {
      run_.fill("train", name, [&](int64_t i) { return value(sample(step, micro, i % B), place(i / B)); });
    };
    const auto token = [&](uint32_t salt) {
      return [this, salt](int64_t n, int64_t s) {
        return static_cast<double>(draw(n, s, salt) % static_cast<uint32_t>(setup_.spec.vocab_size));
      };
    };
    per_token(inputs::kTokens, token(1));
    per_token(inputs::kLabels, token(2));
    per_token(inputs::kWeights, [&](int64_t n, int64_t s) { return weight(n, s); });
    for (const char* name : {inputs::kPositions, inputs::kTokenIndex})
      per_token(name, [](int64_t, int64_t s) { return static_cast<double>(s); });
    per_token(inputs::kStarts, [](int64_t n, int64_t s) { return n % 2 == 1 && s >= 3 ? 3.0 : 0.0; });
    run_.fill("train", inputs::kSamples, [&](int64_t b) { return static_cast<double>(sample(step, micro, b)); });
    run_.fill("train", inputs::kStep, [&](int64_t) { return static_cast<double>(step); });
    run_.fill("train", inputs::kSeed, [&](int64_t) { return 1.0 / divisor; });
  }

  void update(int step, TrainResult& result) {
    const auto scalar = [&](const std::string& name, double value) {
      run_.fill("update", name, [&](int64_t) { return value; });
    };
    scalar(update_io::kWeightDecay, setup_.optimizer.weight_decay);
    scalar(update_io::kInverseScale, 1.0);
    scalar(update_io::kUpdateCount, step + 1);
    for (const ParamGroup& group : groups_) scalar(update_io::learning_rate(group), setup_.learning_rate);
    run_.run("update", {Phase::kForward});
    result.norms.push_back(run_.global("update", update_io::kNorm)[0]);
    result.coefficients.push_back(run_.global("update", update_io::kCoefficient)[0]);
  }

  std::map<std::string, Numbers> tensors(const std::string& prefix) {
    std::map<std::string, Numbers> all;
    const Program& train = run_.program("train");
    for (const ParameterInfo& p : train.parameters) {
      const std::string& name = train.value(p.value).name;
      all[name] = run_.global("train", prefix + name);
      // Padding rows depend on the mesh; they must be zero and are left out.
      if (p.init.valid_rows < 0) continue;
      const Dims& shape = train.value(p.value).shape;
      const auto valid = static_cast<size_t>(p.init.valid_rows * (shape.numel() / shape[0]));
      for (size_t i = valid; i < all[name].size(); ++i) {
        if (all[name][i] != 0) throw std::runtime_error("padding of " + name + " is not zero");
      }
      all[name].resize(valid);
    }
    return all;
  }

  TrainSetup setup_;
  bool sequence_parallel_;
  MeshRun run_;
  std::vector<ParamGroup> groups_;
};

inline TrainResult train_on(const TrainSetup& setup, const AxisSizes& sizes, bool sequence_parallel) {
  return MeshTrainer(setup, sizes, sequence_parallel).run();
}

/// max |a - b| over all tensors, relative to the largest element of all of b; infinite where they do not match.
inline double model_difference(const std::map<std::string, Numbers>& a, const std::map<std::string, Numbers>& b) {
  Numbers all_a, all_b;
  if (a.size() != b.size()) return INFINITY;
  for (const auto& [name, values] : b) {
    if (a.count(name) == 0 || a.at(name).size() != values.size()) return INFINITY;
    all_a.insert(all_a.end(), a.at(name).begin(), a.at(name).end());
    all_b.insert(all_b.end(), values.begin(), values.end());
  }
  return relative_difference(all_a, all_b);
}

}  // namespace megatron::testing
