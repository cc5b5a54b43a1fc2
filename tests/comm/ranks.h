// Runs one program per rank of a mesh, each rank a thread of this process.
#pragma once

#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "comm/thread_comm.h"
#include "tests/program/rig.h"

namespace megatron::tiny {

using AxisSizes = std::vector<std::pair<std::string, int>>;

/// All ranks of a mesh, first axis fastest; axes of size 1 are left out, as modules see it.
inline std::vector<Mesh> meshes_of(const AxisSizes& sizes) {
  int world = 1;
  for (const auto& [name, size] : sizes) world *= size;
  std::vector<Mesh> meshes;
  for (int rank = 0; rank < world; ++rank) {
    Mesh mesh;
    int rest = rank;
    for (const auto& [name, size] : sizes) {
      if (size > 1) mesh.axes.push_back({name, size, rest % size});
      rest /= size;
    }
    meshes.push_back(mesh);
  }
  return meshes;
}

/// Communicators of every rank by axis.
class Ranks {
 public:
  explicit Ranks(const AxisSizes& sizes) : meshes_(meshes_of(sizes)), comms_(meshes_.size()) {
    for (size_t axis = 0; axis < meshes_[0].axes.size(); ++axis) {
      std::map<std::vector<int>, std::vector<size_t>> groups;  // ranks that differ only along the axis
      for (size_t r = 0; r < meshes_.size(); ++r) {
        std::vector<int> key;
        for (size_t other = 0; other < meshes_[r].axes.size(); ++other) {
          key.push_back(other == axis ? 0 : meshes_[r].axes[other].coordinate);
        }
        groups[key].push_back(r);
      }
      for (const auto& [key, members] : groups) {
        auto group = make_thread_comms(static_cast<int>(members.size()));
        for (size_t i = 0; i < members.size(); ++i) {
          comms_[members[i]][meshes_[0].axes[axis].name] = group[i].get();
          owned_.push_back(std::move(group[i]));
        }
      }
    }
  }

  size_t size() const { return meshes_.size(); }
  const Mesh& mesh(size_t rank) const { return meshes_[rank]; }
  const std::map<std::string, Comm*>& comms(size_t rank) const { return comms_[rank]; }

  /// Builds all programs here (so that a refusal is thrown before anybody waits), then runs one step on every rank.
  std::vector<std::unique_ptr<Rig>> step(const std::function<Program(const Mesh&)>& build,
                                         const PackOptions& options = {}) const {
    std::vector<std::unique_ptr<Rig>> rigs;
    for (size_t r = 0; r < size(); ++r) rigs.push_back(std::make_unique<Rig>(build(mesh(r)), options, comms(r)));
    std::vector<std::thread> threads;
    std::vector<std::exception_ptr> errors(size());
    for (size_t r = 0; r < size(); ++r) {
      threads.emplace_back([&, r] {
        try {
          rigs[r]->step();
        } catch (...) {
          errors[r] = std::current_exception();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& error : errors) {
      if (error) std::rethrow_exception(error);
    }
    return rigs;
  }

 private:
  std::vector<Mesh> meshes_;
  std::vector<std::map<std::string, Comm*>> comms_;
  std::vector<std::unique_ptr<Comm>> owned_;
};

/// Puts a value together from what the ranks hold: shards at their place, partial ones summed, replicas compared.
inline std::vector<double> assemble(const std::vector<std::unique_ptr<Rig>>& rigs,
                                    const std::function<ValueId(const Program&)>& which,
                                    const std::function<Tensor(Rig&)>& tensor) {
  const ValueInfo info = rigs[0]->program().value(which(rigs[0]->program()));
  std::vector<double> whole(static_cast<size_t>(info.shape.numel()), 0.0);
  std::vector<bool> written(whole.size(), false);
  for (const auto& rig : rigs) {
    const ValueInfo& here = rig->program().value(which(rig->program()));
    const Mesh& mesh = rig->program().mesh;
    bool first_replica = true;
    for (size_t a = 0; a < mesh.axes.size(); ++a) {
      if (here.placement[a].replicated() && mesh.axes[a].coordinate > 0) first_replica = false;
    }
    const LocalBox box = local_box(here.shape, here.placement, mesh);
    const Tensor t = tensor(*rig);
    for_each_index(box.extent, [&](const Dims& i) {
      const auto at_whole = static_cast<size_t>(flat(i, box.origin, here.shape));
      if (first_replica) whole[at_whole] += at(t, i);
      written[at_whole] = true;
    });
  }
  for (bool w : written) {
    if (!w) throw std::runtime_error("the ranks do not cover the value");
  }
  return whole;
}

inline std::vector<double> assemble_output(const std::vector<std::unique_ptr<Rig>>& rigs, const std::string& name) {
  const auto which = [&](const Program& program) {
    for (const NamedValue& output : program.outputs) {
      if (output.name == name) return output.value;
    }
    throw std::runtime_error("no output " + name);
  };
  return assemble(rigs, which, [&](Rig& rig) { return rig.executor().output(name); });
}

inline std::vector<double> assemble_gradient(const std::vector<std::unique_ptr<Rig>>& rigs,
                                             const std::string& parameter) {
  const std::string name = gradient_name(parameter);
  return assemble(
      rigs, [&](const Program& program) { return program.by_name.at(name); },
      [&](Rig& rig) { return rig.store().find(name); });
}

inline double difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::isfinite(a[i]) ? std::abs(a[i] - b[i]) : 1e300);
  return worst;
}

}  // namespace megatron::tiny
