// The smallest operations that exercise every declaration of an OpKind, in fp64: products, element-wise kernels, sums,
// a fused loss, one with two results, one with a workspace and some that touch state. The engine is tested with these
// alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "program/trace.h"
#include "tests/program/tiny_elementwise.h"

namespace megatron::tiny {

/// y = x W^T and its gradients. x [lead..., k], W [n, k].
struct Matmul final : OpKind {
  enum class Part { kForward, kData, kWeight };
  explicit Matmul(Part which = Part::kForward) : part(which) {}
  std::string name() const override {
    return part == Part::kForward ? "matmul" : part == Part::kData ? "matmul_dgrad" : "matmul_wgrad";
  }
  Signature signature(const Operands& o) const override {
    const std::string lead = letters(o[0]).substr(1);  // one letter per leading dimension
    const std::string text = part == Part::kForward ? lead + "k,nk->" + lead + "n"
                             : part == Part::kData  ? lead + "n,nk->" + lead + "k"
                                                    : lead + "n," + lead + "k->nk";
    Signature s = parse_signature(text, DType::kF64);
    s.linear = {{0}, {1}};
    return s;
  }
  bool accumulates(int) const override { return part != Part::kForward; }
  bool is_weight_gradient() const override { return part == Part::kWeight; }
  void run_cpu(const RunContext& c) const override {
    const Tensor &a = c.in(0), &b = c.in(1), &y = c.out(0);
    if (!y) return;
    const int64_t rows = a.numel() / std::max<int64_t>(1, a.shape.back());
    const int64_t n = part == Part::kForward ? b.shape[0] : a.shape.back(), k = b.shape.back();
    if (!c.adds(0))
      std::fill_n(y.as<double>(), y.numel(), 0.0);  // a kernel that clears first, and reads its operands many times
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < k; ++j) {
          if (part == Part::kForward)
            y.as<double>()[r * n + i] += a.as<double>()[r * k + j] * b.as<double>()[i * k + j];
          if (part == Part::kData) y.as<double>()[r * k + j] += a.as<double>()[r * n + i] * b.as<double>()[i * k + j];
          if (part == Part::kWeight) y.as<double>()[i * k + j] += a.as<double>()[r * n + i] * b.as<double>()[r * k + j];
        }
      }
    }
  }
  void backward(BackwardContext& b) const override {
    const Value g = b.gradient(0);
    if (b.wants(0)) b.set(0, b.trace().emit1(std::make_shared<Matmul>(Part::kData), {g, b.operand(1)}));
    if (b.wants(1)) b.set(1, b.trace().emit1(std::make_shared<Matmul>(Part::kWeight), {g, b.operand(0)}));
  }
  Part part;
};

/// A scalar gradient spread over the shape of x.
struct Spread final : OpKind {
  std::string name() const override { return "spread"; }
  Signature signature(const Operands& o) const override {
    Signature s{{"", letters(o[1])}, {{letters(o[1]), DType::kF64}}, "", {{0}}, {}};
    return s;
  }
  bool takes_strided(int) const override { return true; }
  bool gives_strided(int) const override { return true; }
  bool accumulates(int) const override { return true; }
  void run_cpu(const RunContext& c) const override {
    for_each_index(c.in(1).shape, [&](const Dims& i) { put(c, 0, i, *c.in(0).as<double>()); });
  }
};

/// The sum of all elements.
struct Sum final : OpKind {
  std::string name() const override { return "sum"; }
  Signature signature(const Operands& o) const override {
    return {{letters(o[0])}, {{"", DType::kF64}}, "", {{0}}, {}};
  }
  bool takes_strided(int) const override { return true; }
  void run_cpu(const RunContext& c) const override {
    double sum = 0;
    for_each_index(c.in(0).shape, [&](const Dims& i) { sum += at(c.in(0), i); });
    put(c, 0, {}, sum);
  }
  void backward(BackwardContext& b) const override {
    b.set(0, b.trace().emit1(std::make_shared<Spread>(), {b.gradient(0), b.operand(0)}));
  }
};

/// (sum x^2 / 2, seed * x): a loss that makes its gradient in the forward.
struct FusedLoss final : OpKind {
  std::string name() const override { return "fused_loss"; }
  Signature signature(const Operands& o) const override {
    return {{letters(o[0]), ""}, {{"", DType::kF64}, {letters(o[0]), DType::kF64}}, "", {}, {}};
  }
  bool takes_strided(int i) const override { return i == 0; }
  bool accumulates(int i) const override { return i == 1; }
  void run_cpu(const RunContext& c) const override {
    double sum = 0;
    for_each_index(c.in(0).shape, [&](const Dims& i) {
      sum += 0.5 * at(c.in(0), i) * at(c.in(0), i);
      put(c, 1, i, *c.in(1).as<double>() * at(c.in(0), i));
    });
    put(c, 0, {}, sum);
  }
  void backward(BackwardContext& b) const override { b.set(0, b.result(1)); }
};

/// y = 3 x, by way of a workspace that is overwritten with rubbish afterwards.
struct ViaWorkspace final : OpKind {
  std::string name() const override { return "via_workspace"; }
  Signature signature(const Operands& o) const override {
    return {{letters(o[0])}, {{letters(o[0]), DType::kF64}}, "", {{0}}, {}};
  }
  int64_t workspace(const RunContext& shapes, DeviceKind) const override { return shapes.in(0).bytes(); }
  bool accumulates(int) const override { return true; }
  void run_cpu(const RunContext& c) const override {
    auto* scratch = static_cast<double*>(c.workspace);
    const int64_t n = c.in(0).numel();
    for (int64_t i = 0; i < n; ++i) scratch[i] = 3 * c.in(0).as<double>()[i];
    for_each_index(c.in(0).shape,
                   [&](const Dims& index) { put(c, 0, index, scratch[&at(c.in(0), index) - c.in(0).as<double>()]); });
    std::fill_n(scratch, n, std::nan(""));
  }
  void backward(BackwardContext& b) const override {
    b.set(0, b.trace().emit1(std::make_shared<ViaWorkspace>(), {b.gradient(0)}));
  }
};

/// y = x (1 + state); with `counts` the state grows by one afterwards.
struct UseState final : OpKind {
  explicit UseState(bool updates_it) : counts(updates_it) {}
  std::string name() const override { return counts ? "count" : "use_state"; }
  Signature signature(const Operands& o) const override {
    return {{letters(o[0]), ""}, {{letters(o[0]), DType::kF64}}, "", {{0}}, {}};
  }
  std::vector<int> updates() const override { return counts ? std::vector<int>{1} : std::vector<int>{}; }
  void run_cpu(const RunContext& c) const override {
    for_each_index(c.in(0).shape, [&](const Dims& i) { put(c, 0, i, at(c.in(0), i) * (1 + *c.in(1).as<double>())); });
    if (counts) *c.in(1).as<double>() += 1;
  }
  void backward(BackwardContext& b) const override {
    b.set(0, b.trace().emit1(std::make_shared<Scale>(1.0), {b.gradient(0)}));
  }
  bool counts;
};

inline Value mul(Trace& t, Value a, Value b) {
  return t.emit1(std::make_shared<Mul>(), {a, b});
}
inline Value mul_pair(Trace& t, Value a, Value b) {
  return t.emit1(std::make_shared<MulPair>(false), {a, b});
}
inline Value scale(Trace& t, Value x, double factor) {
  return t.emit1(std::make_shared<Scale>(factor), {x});
}
inline Value tanh(Trace& t, Value x) {
  return t.emit1(std::make_shared<Tanh>(), {x});
}
inline Value matmul(Trace& t, Value x, Value w) {
  return t.emit1(std::make_shared<Matmul>(), {x, w});
}
inline Value sum(Trace& t, Value x) {
  return t.emit1(std::make_shared<Sum>(), {x});
}
inline Value via_workspace(Trace& t, Value x) {
  return t.emit1(std::make_shared<ViaWorkspace>(), {x});
}

}  // namespace megatron::tiny
