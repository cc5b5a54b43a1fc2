// Programs on all ranks of a mesh, each rank a thread of this process: filled from and read back as global tensors, so
// that a test says nothing about who holds what.
#pragma once

#include <cmath>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/thread_pool.h"
#include "program/executor.h"
#include "program/plan.h"
#include "tests/comm/ranks.h"

namespace megatron::testing {

using Numbers = std::vector<double>;
using tiny::AxisSizes;
using tiny::meshes_of;

/// Element i (flat) of a contiguous tensor of any type.
inline double get(const Tensor& t, int64_t i) {
  if (t.dtype == DType::kI32) return t.as<int32_t>()[i];
  if (t.dtype == DType::kI64) return static_cast<double>(t.as<int64_t>()[i]);
  return dispatch_floating("get", t.dtype, [&](auto tag) { return static_cast<double>(t.as<decltype(tag)>()[i]); });
}
inline void set(const Tensor& t, int64_t i, double value) {
  if (t.dtype == DType::kI32) {
    t.as<int32_t>()[i] = static_cast<int32_t>(value);
  } else if (t.dtype == DType::kI64) {
    t.as<int64_t>()[i] = static_cast<int64_t>(value);
  } else {
    dispatch_floating("set", t.dtype, [&](auto tag) {
      using T = decltype(tag);
      t.as<T>()[i] = static_cast<T>(value);
    });
  }
}

/// Calls body(local, global) with the flat indices of every element of a rank's part.
template <typename Body>
void for_each_local(const ValueInfo& info, const Mesh& mesh, const Body& body) {
  const LocalBox box = local_box(info.shape, info.placement, mesh);
  const Block range = flat_range(info.shape, info.placement, mesh);
  for (int64_t local = 0; local < range.size; ++local) {
    int64_t rest = range.begin + local, global = 0, stride = 1;
    for (int d = info.shape.rank() - 1; d >= 0; --d) {
      global += (box.origin[d] + rest % box.extent[d]) * stride;
      rest /= box.extent[d];
      stride *= info.shape[d];
    }
    body(local, global);
  }
}

/// Calls body(rank) on `size` threads; rethrows the first exception.
inline void on_ranks(size_t size, const std::function<void(size_t)>& body) {
  std::vector<std::thread> threads;
  std::vector<std::exception_ptr> errors(size);
  for (size_t r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      try {
        body(r);
      } catch (...) {
        errors[r] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

/// The ranks of a mesh with their memory and programs.
class MeshRun {
 public:
  explicit MeshRun(const AxisSizes& sizes) : ranks_(sizes), devices_(), pool_(1) {
    for (size_t r = 0; r < ranks_.size(); ++r) {
      devices_.push_back(make_cpu_device());
      stores_.push_back(std::make_unique<Store>(*devices_.back()));
    }
  }

  size_t size() const { return ranks_.size(); }
  Store& store(size_t rank) { return *stores_[rank]; }
  const Mesh& mesh(size_t rank) const { return ranks_.mesh(rank); }
  const std::map<std::string, Comm*>& comms(size_t rank) const { return ranks_.comms(rank); }
  Executor& executor(const std::string& program, size_t rank) { return *programs_.at(program)[rank]; }
  const Program& program(const std::string& name, size_t rank = 0) { return executor(name, rank).plan().program; }

  /// Builds the program for every rank; memory starts as NaN.
  void add(const std::string& name, const std::function<Program(const Mesh&)>& build) {
    for (size_t r = 0; r < size(); ++r) {
      Plan plan = pack(build(mesh(r)));
      auto arena = std::make_shared<Buffer>(*devices_[r], plan.arena_bytes());
      std::memset(static_cast<void*>(arena->data()), 0xff, static_cast<size_t>(arena->bytes()));
      Executor::Options options;
      options.pool = &pool_;
      options.comms = comms(r);
      programs_[name].push_back(std::make_unique<Executor>(std::move(plan), store(r), std::move(arena), options));
    }
  }

  void run(const std::string& name, const std::vector<Phase>& phases = {Phase::kForward, Phase::kBackward}) {
    on_ranks(size(), [&](size_t r) {
      for (Phase phase : phases) executor(name, r).run(phase);
    });
  }

  /// F and B; `first` and `last` say which micro-batch of its step it is.
  void run_micro_batch(const std::string& name, bool first, bool last) {
    on_ranks(size(), [&](size_t r) {
      executor(name, r).run(Phase::kForward, 0, first);
      executor(name, r).run(Phase::kBackward, 0, last);
    });
  }

  /// Sets element i of parameter, state or input `value` to number(i); nothing where the program has none of the name.
  void fill(const std::string& name, const std::string& value, const std::function<double(int64_t)>& number) {
    for (size_t r = 0; r < size(); ++r) {
      const Program& p = program(name, r);
      const auto found = p.by_name.find(value);
      if (found == p.by_name.end()) return;
      const ValueInfo& info = p.value(found->second);
      const Tensor t = info.lifetime == Lifetime::kInput ? executor(name, r).input(value) : store(r).find(value);
      for_each_local(info, mesh(r), [&](int64_t local, int64_t global) { set(t, local, number(global)); });
    }
  }

  /// The global tensor of a parameter, state or output: shards at their places, partial values summed, replicas
  /// compared bit by bit.
  Numbers global(const std::string& name, const std::string& value) {
    Numbers whole(static_cast<size_t>(info_of(name, value, 0).shape.numel()), std::nan(""));
    for (size_t r = 0; r < size(); ++r) {
      const ValueInfo& info = info_of(name, value, r);
      const Tensor t = info.lifetime == Lifetime::kActivation ? executor(name, r).output(value) : store(r).find(value);
      const bool adds = adds_to_sum(info.placement, mesh(r));
      for_each_local(info, mesh(r), [&](int64_t local, int64_t i) {
        double& at = whole[static_cast<size_t>(i)];
        const double number = get(t, local);
        if (std::isnan(at)) {
          at = number;
        } else if (adds) {
          at += number;
        } else if (!any_partial(info.placement) && !(at == number)) {
          throw std::runtime_error("replicas of " + value + " differ");
        }
      });
    }
    return whole;
  }

 private:
  const ValueInfo& info_of(const std::string& name, const std::string& value, size_t rank) {
    const Program& p = program(name, rank);
    for (const NamedValue& output : p.outputs) {
      if (output.name == value) return p.value(output.value);
    }
    return p.value(p.by_name.at(value));
  }
  static bool any_partial(const Placement& placement) {
    for (const AxisPlacement& p : placement) {
      if (p.partial()) return true;
    }
    return false;
  }
  /// The first replica of a partial value, and not the first part.
  static bool adds_to_sum(const Placement& placement, const Mesh& mesh) {
    for (size_t a = 0; a < placement.size(); ++a) {
      if (placement[a].replicated() && mesh.axes[a].coordinate > 0) return false;
    }
    return any_partial(placement);
  }

  tiny::Ranks ranks_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::vector<std::unique_ptr<Store>> stores_;
  ThreadPool pool_;  ///< of one thread: the ranks may share it
  std::map<std::string, std::vector<std::unique_ptr<Executor>>> programs_;
};

/// max |a - b| / max |b|; infinite where sizes differ or something is not finite.
inline double relative_difference(const Numbers& a, const Numbers& b) {
  if (a.size() != b.size()) return INFINITY;
  double worst = 0, top = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return INFINITY;
    worst = std::max(worst, std::abs(a[i] - b[i]));
    top = std::max(top, std::abs(b[i]));
  }
  return top > 0 ? worst / top : worst;
}

/// "tp2 dp2 sp"
inline std::string name_of(const AxisSizes& sizes, bool sequence_parallel) {
  std::string text;
  for (const auto& [axis, size] : sizes) text += axis + std::to_string(size) + " ";
  return text + (sequence_parallel ? "sp" : "");
}

}  // namespace megatron::testing
