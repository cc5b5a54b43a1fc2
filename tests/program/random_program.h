// Random training programs over the tiny operations: shared values, views, joins in the backward, tied weights,
// in-place chances, workspaces, fused and ordinary losses.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "program/elementwise.h"
#include "program/views.h"
#include "tests/program/rig.h"

namespace megatron::tiny {

class RandomProgram {
 public:
  RandomProgram(unsigned seed, int ops) : random_(seed) {
    Trace t(program_, true);
    values_.push_back(t.input("x", DType::kF64, {4, 6, 3}, {}));
    values_.push_back(matmul(t, values_[0], param(t, "first", {3, 3})));
    for (int i = 0; i < ops; ++i) {
      Trace::Scope scope(t, "op" + std::to_string(i));
      step(t);
    }
    for (int i = 0; i < 2; ++i) add_loss(t, sum(t, tiny::tanh(t, pick())));
    if (below(2) == 0) {
      const Value x = pick(), seed_value = t.input("seed2", DType::kF64, {}, {});
      const Value f = t.emit1(std::make_shared<FusedLoss>(), {x, seed_value});
      t.loss(f, seed_value);
      t.output("loss2", f);
    }
    t.output("y", pick());
    differentiate(program_);
  }

  Program take() { return std::move(program_); }

 private:
  int below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(random_); }
  Value pick() {  // the youngest most of the time, so that chains become deep
    const int n = static_cast<int>(values_.size());
    return values_[static_cast<size_t>(below(3) == 0 ? below(n) : n - 1 - below(std::min(n, 3)))];
  }
  Value like(Trace& t, Value a) {
    std::vector<Value> same;
    for (Value v : values_) {
      if (t.shape(v) == t.shape(a)) same.push_back(v);
    }
    return same[static_cast<size_t>(below(static_cast<int>(same.size())))];
  }
  Value dense(Trace& t, Value v) { return contiguous(t, v); }

  void step(Trace& t) {
    const Value a = pick();
    switch (below(10)) {
      case 0:
        return values_.push_back(tiny::tanh(t, a));
      case 1:
        return values_.push_back(scale(t, a, 0.7));
      case 2:
        return values_.push_back(tiny::tanh(t, mul(t, a, like(t, a))));
      case 3:
        return values_.push_back(add(t, a, like(t, a)));
      case 4:
        return values_.push_back(tiny::tanh(t, mul_pair(t, dense(t, a), dense(t, like(t, a)))));
      case 5:
      case 6: {
        const int k = static_cast<int>(t.shape(a).back());
        const std::string name = "w" + std::to_string(k) + "_" + std::to_string(below(4));  // some are tied
        return values_.push_back(matmul(t, dense(t, a), param(t, name, {k, k})));
      }
      case 7:
        return values_.push_back(scale(t, via_workspace(t, dense(t, a)), 0.3));
      case 8: {
        const Dims s = t.shape(a);
        Dims to = s.rank() == 3 ? Dims{s[0] * s[1], s[2]} : Dims{4, s[0] / 4, s[1]};
        return values_.push_back(reshape(t, dense(t, a), to));
      }
      default: {
        const Dims s = t.shape(a);
        if (s.rank() != 3 || s[1] % 2 != 0) return values_.push_back(tiny::tanh(t, a));
        for (Value part : split(t, a, 1, {s[1] / 2, s[1] / 2})) values_.push_back(part);
        return;
      }
    }
  }

  std::mt19937 random_;
  Program program_;
  std::vector<Value> values_;
};

inline Program random_program(unsigned seed, int ops = 14) {
  return RandomProgram(seed, ops).take();
}

}  // namespace megatron::tiny
