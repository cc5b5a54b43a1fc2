#include "kernels/adamw/adamw.h"

#include <cmath>

#include "base/strings.h"
#include "kernels/common.h"

namespace megatron {
namespace {

class AdamW final : public OpKind {
 public:
  explicit AdamW(const AdamWOptions& options) : options_(options) {}
  std::string name() const override { return "adamw"; }
  std::string attributes() const override {
    return str_cat("beta1=", options_.beta1, " beta2=", options_.beta2, " eps=", options_.epsilon,
                   " wd_multiplier=", options_.weight_decay_multiplier);
  }

  Signature signature(const Operands& operands) const override {
    check(operands);
    const std::string all = letters_from('a', operands[0]->shape.rank());
    return {{all, operands[1] ? all : "", all, all, all, "", "", "", "", ""}, {}, "", {}, {}};
  }
  std::vector<int> updates() const override { return {0, 1, 2, 3}; }
  Cost cost(const RunContext& shapes) const override {
    double bytes = static_cast<double>(shapes.in(4).bytes());
    for (int i = 0; i < 4; ++i) bytes += 2.0 * static_cast<double>(shapes.in(i).bytes());
    // A parameter with a master copy is written only.
    if (size_of(shapes.in(0).dtype) < 4) bytes -= static_cast<double>(shapes.in(0).bytes());
    return {16.0 * static_cast<double>(shapes.in(0).numel()), bytes, 0};
  }

  void run_cpu(const RunContext& context) const override {
    const auto scalar = [&](int i) { return *context.in(i).as<double>(); };
    if (scalar(8) != 0) return;
    const double lr = scalar(5), wd = scalar(6) * options_.weight_decay_multiplier, t = scalar(9);
    MEGATRON_CHECK(t >= 1, str_cat("adamw: update number ", t, " must count from 1"));
    AdamWStep step{};
    step.coefficient = scalar(7);
    step.beta1 = options_.beta1;
    step.beta2 = options_.beta2;
    step.epsilon = options_.epsilon;
    step.step_size = lr / (1 - std::pow(options_.beta1, t));
    step.inverse_root = 1 / std::sqrt(1 - std::pow(options_.beta2, t));
    step.decay = lr * wd;
    adamw_cpu({context.in(0), context.in(1), context.in(2), context.in(3), context.in(4), step}, context.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    adamw_cuda({c.in(0), c.in(1), c.in(2), c.in(3), c.in(4), c.in(5), c.in(6), c.in(7), c.in(8), c.in(9), options_},
               c.stream);
  }
#endif

 private:
  static void check(const Operands& operands) {
    const DType param = operands[0]->dtype, state = accumulation_dtype(param);
    MEGATRON_CHECK((operands[1] != nullptr) == (size_of(param) < 4),
                   "adamw: 16-bit parameters, and only they, have a master copy");
    for (size_t i = 1; i < 5; ++i) {
      MEGATRON_CHECK(!operands[i] || operands[i]->dtype == state,
                     str_cat("adamw: operand ", i, " must be ", name_of(state), ", got ", name_of(operands[i]->dtype)));
    }
    for (size_t i = 5; i < 10; ++i) {
      MEGATRON_CHECK(operands[i] && operands[i]->dtype == DType::kF64,
                     str_cat("adamw: operand ", i, " must be an fp64 scalar"));
    }
  }
  AdamWOptions options_;
};

}  // namespace

std::shared_ptr<const OpKind> adamw_kind(const AdamWOptions& options) {
  return std::make_shared<AdamW>(options);
}

void adamw(Trace& trace, const AdamWOperands& o, const AdamWOptions& options) {
  trace.emit(adamw_kind(options),
             {o.param, o.master, o.m, o.v, o.grad, o.lr, o.weight_decay, o.coefficient, o.skip, o.t});
}

}  // namespace megatron
