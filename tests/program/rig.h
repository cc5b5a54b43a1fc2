// Runs tiny programs on the CPU: memory starts as NaN, parameters and inputs get numbers that depend only on their name
// and global index, so that every mesh starts from the same values.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "program/executor.h"
#include "program/passes.h"
#include "program/plan.h"
#include "tests/program/tiny_ops.h"

namespace megatron::tiny {

/// A number in (-1, 1) for element `i` of `name`.
inline double number(const std::string& name, int64_t i) {
  uint64_t h = 1469598103934665603ull;
  for (char c : name) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  h ^= static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15ull;
  h = (h ^ (h >> 31)) * 0xbf58476d1ce4e5b9ull;
  h = (h ^ (h >> 29)) * 0x94d049bb133111ebull;
  return static_cast<double>(h >> 11) / 4503599627370496.0 - 1.0;
}

inline int64_t flat(const Dims& index, const Dims& origin, const Dims& shape) {
  int64_t i = 0;
  for (int d = 0; d < shape.rank(); ++d) i = i * shape[d] + index[d] + origin[d];
  return i;
}

/// A message of whatever `body` throws; "" when it throws nothing.
template <typename Body>
std::string message_of(Body&& body) {
  try {
    body();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// Element `i` of a contiguous fp64 tensor.
inline std::vector<double> to_vector(const Tensor& t) {
  std::vector<double> values;
  for_each_index(t.shape, [&](const Dims& i) { values.push_back(at(t, i)); });
  return values;
}

inline bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

class Rig {
 public:
  explicit Rig(const Program& program, const PackOptions& options = {}, const std::map<std::string, Comm*>& comms = {})
      : device_(make_cpu_device()), store_(*device_), pool_(1) {
    Plan plan = pack(program, options);
    auto arena = std::make_shared<Buffer>(*device_, plan.arena_bytes());
    std::memset(static_cast<void*>(arena->data()), 0xff, static_cast<size_t>(arena->bytes()));
    executor_ = std::make_unique<Executor>(std::move(plan), store_, std::move(arena), Executor::Options{&pool_, comms});
    for (int s = 0; s < options.slot_sets; ++s) fill(s);
  }

  Executor& executor() { return *executor_; }
  const Program& program() const { return executor_->plan().program; }
  Store& store() { return store_; }

  void step(int slot_set = 0) {
    for (int phase = 0; phase < kPhases; ++phase) executor_->run(static_cast<Phase>(phase), slot_set);
  }

  /// Sum of seed * loss over the losses, which must be outputs "loss0", "loss1", ...
  double total_loss() {
    executor_->run(Phase::kForward);
    double total = 0;
    for (size_t i = 0; i < program().losses.size(); ++i) {
      const double seed = *executor_->input("seed" + std::to_string(i)).as<double>();
      total += seed * *executor_->output("loss" + std::to_string(i)).as<double>();
    }
    return total;
  }

  /// All gradients of parameters, by parameter; a parameter that no loss depends on has none.
  std::map<std::string, std::vector<double>> gradients() const {
    std::map<std::string, std::vector<double>> all;
    for (const auto& [name, tensor] : store_.tensors()) {
      if (name.rfind("gradient/", 0) == 0) all[name.substr(9)] = to_vector(tensor);
    }
    return all;
  }

 private:
  void fill(int slot_set) {
    for (const auto& [name, id] : program().by_name) {
      const ValueInfo& info = program().value(id);
      if (info.lifetime == Lifetime::kState || info.lifetime == Lifetime::kReceived) continue;
      const bool input = info.lifetime == Lifetime::kInput;
      const Tensor t = input ? executor_->input(name, slot_set) : store_.find(name);
      const Dims origin = local_box(info.shape, info.placement, program().mesh).origin;
      const std::string key = input && slot_set > 0 ? name + "/" + std::to_string(slot_set) : name;
      for_each_index(t.shape, [&](const Dims& i) { at(t, i) = number(key, flat(i, origin, info.shape)); });
    }
  }

  std::unique_ptr<Device> device_;
  Store store_;
  ThreadPool pool_;
  std::unique_ptr<Executor> executor_;
};

/// Declares `value` as loss number `index`, with its seed an input and its value an output.
inline void add_loss(Trace& t, Value value) {
  const std::string index = std::to_string(t.program().losses.size());
  const Value seed = t.input("seed" + index, DType::kF64, {}, t.replicated());
  t.loss(value, seed);
  t.output("loss" + index, value);
}

inline Value param(Trace& t, const std::string& name, const Dims& shape) {
  return t.parameter(name, DType::kF64, shape, t.replicated(), Init::constant(0));
}
inline Value param(Trace& t, const std::string& name, const Dims& shape, const Placement& placement) {
  return t.parameter(name, DType::kF64, shape, placement, Init::constant(0));
}

/// Relative difference between the derivative along a random direction of all parameters by central differences and by
/// the program's gradients. The program has one loss or more and its backward.
inline double directional_error(const Program& program) {
  Rig rig(program);
  rig.step();
  double slope = 0, norm = 1e-3;
  for (const auto& [name, gradient] : rig.gradients()) {
    for (size_t i = 0; i < gradient.size(); ++i) {
      const double term = gradient[i] * number("direction/" + name, static_cast<int64_t>(i));
      slope += term;
      norm += std::abs(term);
    }
  }
  const auto move = [&](double step) {
    for (const ParameterInfo& p : program.parameters) {
      const std::string& name = program.value(p.value).name;
      const Tensor values = rig.store().find(name);
      for (int64_t i = 0; i < values.numel(); ++i) values.as<double>()[i] += step * number("direction/" + name, i);
    }
  };
  const double h = 1e-5;
  move(h);
  const double up = rig.total_loss();
  move(-2 * h);
  const double down = rig.total_loss();
  return std::abs((up - down) / (2 * h) - slope) / norm;
}

}  // namespace megatron::tiny
