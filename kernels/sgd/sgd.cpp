#include "kernels/sgd/sgd.h"

#include "base/strings.h"
#include "kernels/common.h"

namespace megatron {
namespace {

class Sgd final : public OpKind {
 public:
  explicit Sgd(const SgdOptions& options) : options_(options) {}
  std::string name() const override { return "sgd"; }
  std::string attributes() const override {
    return str_cat("momentum=", options_.momentum, " wd_multiplier=", options_.weight_decay_multiplier);
  }
  Signature signature(const Operands& operands) const override {
    check(operands);
    const std::string all = letters_from('a', operands[0]->shape.rank());
    return {{all, operands[1] ? all : "", operands[2] ? all : "", all, "", "", "", "", ""}, {}, "", {}, {}};
  }
  std::vector<int> updates() const override { return {0, 1, 2}; }
  Cost cost(const RunContext& shapes) const override {
    double bytes = static_cast<double>(shapes.in(3).bytes());
    for (int i = 0; i < 3; ++i) bytes += 2.0 * static_cast<double>(shapes.in(i).bytes());
    // A parameter with a master copy is written only.
    if (size_of(shapes.in(0).dtype) < 4) bytes -= static_cast<double>(shapes.in(0).bytes());
    return {6.0 * static_cast<double>(shapes.in(0).numel()), bytes, 0};
  }
  void run_cpu(const RunContext& context) const override {
    const auto scalar = [&](int i) { return *context.in(i).as<double>(); };
    if (scalar(7) != 0) return;
    const double t = scalar(8);
    MEGATRON_CHECK(t >= 1, str_cat("sgd: update number ", t, " must count from 1"));
    sgd_cpu({context.in(0), context.in(1), context.in(2), context.in(3), scalar(4),
             scalar(5) * options_.weight_decay_multiplier, scalar(6), t == 1 ? 0.0 : options_.momentum},
            context.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    sgd_cuda({c.in(0), c.in(1), c.in(2), c.in(3), c.in(4), c.in(5), c.in(6), c.in(7), c.in(8), options_}, c.stream);
  }
#endif

 private:
  void check(const Operands& operands) const {
    const DType param = operands[0]->dtype, state = accumulation_dtype(param);
    MEGATRON_CHECK((operands[1] != nullptr) == (size_of(param) < 4),
                   "sgd: 16-bit parameters, and only they, have a master copy");
    MEGATRON_CHECK((operands[2] != nullptr) == (options_.momentum != 0),
                   "sgd: a momentum buffer, and only with momentum");
    for (size_t i = 1; i < 4; ++i) {
      MEGATRON_CHECK(!operands[i] || operands[i]->dtype == state,
                     str_cat("sgd: operand ", i, " must be ", name_of(state), ", got ", name_of(operands[i]->dtype)));
    }
    for (size_t i = 4; i < 9; ++i) {
      MEGATRON_CHECK(operands[i] && operands[i]->dtype == DType::kF64,
                     str_cat("sgd: operand ", i, " must be an fp64 scalar"));
    }
  }
  SgdOptions options_;
};

}  // namespace

std::shared_ptr<const OpKind> sgd_kind(const SgdOptions& options) {
  return std::make_shared<Sgd>(options);
}

void sgd(Trace& trace, const SgdOperands& o, const SgdOptions& options) {
  trace.emit(sgd_kind(options),
             {o.param, o.master, o.momentum, o.grad, o.lr, o.weight_decay, o.coefficient, o.skip, o.t});
}

}  // namespace megatron
