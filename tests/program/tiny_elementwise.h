// The smallest element-wise operations, in fp64, with every freedom that such a kernel can declare.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "program/trace.h"

namespace megatron::tiny {

inline std::string letters(const ValueInfo* v) {
  return {"abcdefgh", static_cast<size_t>(v->shape.rank())};
}

/// Calls body(index) for every index of a shape.
template <typename Body>
void for_each_index(const Dims& shape, Body&& body) {
  Dims index = shape;
  for (int d = 0; d < shape.rank(); ++d) index[d] = 0;
  for (int64_t n = shape.numel(); n > 0; --n) {
    body(index);
    for (int d = shape.rank() - 1; d >= 0 && ++index[d] == shape[d]; --d) index[d] = 0;
  }
}

inline double& at(const Tensor& t, const Dims& index) {
  int64_t offset = 0;
  for (int d = 0; d < t.shape.rank(); ++d) offset += index[d] * t.strides[d];
  return t.as<double>()[offset];
}

/// Stores y = f, or y += f where the operation accumulates. Nothing for a result that nobody reads.
inline void put(const RunContext& c, int i, const Dims& index, double f) {
  if (!c.out(i)) return;
  double& y = at(c.out(i), index);
  y = c.adds(i) ? y + f : f;
}

/// y = f(x0, x1, ...) element by element; every freedom that an element-wise kernel can have.
class Elementwise : public OpKind {
 public:
  Elementwise(std::string name, std::vector<std::vector<int>> linear)
      : name_(std::move(name)), linear_(std::move(linear)) {}
  std::string name() const override { return name_; }
  Signature signature(const Operands& operands) const override {
    Signature s{std::vector<std::string>(operands.size(), letters(operands[0])),
                {{letters(operands[0]), DType::kF64}},
                "",
                linear_,
                {}};
    return s;
  }
  bool takes_strided(int) const override { return true; }
  bool gives_strided(int) const override { return true; }
  bool accumulates(int) const override { return true; }
  int overwrites(int) const override { return 0; }
  virtual double f(const std::vector<double>& x) const = 0;
  void run_cpu(const RunContext& c) const override {
    for_each_index(c.in(0).shape, [&](const Dims& index) {
      std::vector<double> x;
      for (const Tensor& t : c.operands) x.push_back(at(t, index));
      put(c, 0, index, f(x));
    });
  }

 private:
  std::string name_;
  std::vector<std::vector<int>> linear_;
};

struct Mul final : Elementwise {
  Mul() : Elementwise("mul", {{0}, {1}}) {}
  double f(const std::vector<double>& x) const override { return x[0] * x[1]; }
  void backward(BackwardContext& b) const override {
    const Value g = b.gradient(0);
    if (b.wants(0)) b.set(0, b.trace().emit1(std::make_shared<Mul>(), {g, b.operand(1)}));
    if (b.wants(1)) b.set(1, b.trace().emit1(std::make_shared<Mul>(), {g, b.operand(0)}));
  }
};

struct Scale final : Elementwise {
  explicit Scale(double by) : Elementwise("scale", {{0}}), factor(by) {}
  double f(const std::vector<double>& x) const override { return factor * x[0]; }
  void backward(BackwardContext& b) const override {
    b.set(0, b.trace().emit1(std::make_shared<Scale>(factor), {b.gradient(0)}));
  }
  double factor;
};

struct TanhGrad final : Elementwise {
  TanhGrad() : Elementwise("tanh_grad", {{0}}) {}
  double f(const std::vector<double>& x) const override { return x[0] * (1 - x[1] * x[1]); }
};

struct Tanh final : Elementwise {
  Tanh() : Elementwise("tanh", {}) {}
  double f(const std::vector<double>& x) const override { return std::tanh(x[0]); }
  void backward(BackwardContext& b) const override {
    b.set(0, b.trace().emit1(std::make_shared<TanhGrad>(), {b.gradient(0), b.result(0)}));
  }
};

/// log|x|: makes a non-finite value from a zero.
struct Log final : Elementwise {
  Log() : Elementwise("log", {}) {}
  double f(const std::vector<double>& x) const override { return std::log(std::abs(x[0])); }
};

/// a * b whose two gradients come from one operation, which writes one of them before it has read all operands.
struct MulPair final : OpKind {
  explicit MulPair(bool is_gradient) : gradient(is_gradient) {}
  std::string name() const override { return gradient ? "mul_pair_grad" : "mul_pair"; }
  Signature signature(const Operands& o) const override {
    const std::string l = letters(o[0]);
    if (!gradient) return parse_signature(l + "," + l + "->" + l, DType::kF64);
    Signature s = parse_signature(l + "," + l + "," + l + "->" + l + "," + l, DType::kF64);
    s.linear = {{0}};
    return s;
  }
  bool accumulates(int) const override { return gradient; }
  void run_cpu(const RunContext& c) const override {
    const auto product = [&](int result, int x, int y) {
      for_each_index(c.in(0).shape, [&](const Dims& i) { put(c, result, i, at(c.in(x), i) * at(c.in(y), i)); });
    };
    if (!gradient) return product(0, 0, 1);
    product(0, 0, 2);
    product(1, 0, 1);
  }
  void backward(BackwardContext& b) const override {
    const auto g = b.trace().emit(std::make_shared<MulPair>(true), {b.gradient(0), b.operand(0), b.operand(1)});
    b.set(0, g[0]);
    b.set(1, g[1]);
  }
  bool gradient;
};

/// 0.5 (a + b), or 0.5 (a + 3 b): its backward makes one gradient and gives it to both operands, or reads it again for
/// the second.
struct HalfSum final : Elementwise {
  explicit HalfSum(bool triples) : Elementwise("half_sum", {{0, 1}}), triple(triples) {}
  double f(const std::vector<double>& x) const override { return 0.5 * (x[0] + (triple ? 3 : 1) * x[1]); }
  void backward(BackwardContext& b) const override {
    const Value half = b.trace().emit1(std::make_shared<Scale>(0.5), {b.gradient(0)});
    b.set(0, half);
    b.set(1, triple ? b.trace().emit1(std::make_shared<Scale>(3.0), {half}) : half);
  }
  bool triple;
};

}  // namespace megatron::tiny
