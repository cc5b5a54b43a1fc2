// The shape of a case table. Every kernels/<op>/cases.h gives `std::vector<OpCase> <op>_cases()`; correctness,
// gradients, bitwise repeatability and speed all run from these tables (kernels/harness.h), in the tests and in
// `megatron bench ops`.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "program/op_kind.h"

namespace megatron {

/// Random contents of one operand. Values are drawn in fp64, rounded to the tested type, and then used by all devices.
struct CaseOperand {
  enum class Fill {
    kNormal,    ///< standard normal times `scale`, plus `shift`
    kZeroRows,  ///< like kNormal, every third row (innermost dimension) zero
    kIndices,   ///< integers uniform in [0, limit)
    kConstant,  ///< `shift` everywhere
    kRamp,      ///< 0, 1, 2, ... along dimension 0 (positions)
    kAbsent,    ///< optional operand that is not given
  };
  enum class Type {
    kCompute,      ///< the tested type (fp64, fp32, bf16, fp16)
    kAccumulator,  ///< fp64 for fp64, else fp32
    kInt32,
    kInt64,
    kFloat64,  ///< always fp64: scalars such as learning rate
    kFloat32,
    kMaster,  ///< fp32 copy of a 16-bit operand; absent when the tested type is fp32 or fp64
  };
  std::string name;
  Dims shape;
  Type type = Type::kCompute;
  Fill fill = Fill::kNormal;
  double scale = 1.0, shift = 0.0;
  int64_t limit = 1;
  bool state = false;  ///< updated in place: compared after the run
};

struct OpCase {
  std::string name;  ///< e.g. "rmsnorm 7x3x129 zero-centred residual"
  std::function<std::shared_ptr<const OpKind>(DType compute)> make;
  std::vector<CaseOperand> operands;
  std::vector<int> differentiable_results = {0};  ///< results whose gradient is tested; empty: no gradient
  std::vector<int> differentiable_operands = {};  ///< empty: all floating compute operands
  bool fused_loss = false;  ///< result 0 is a loss, operand "seed" its seed: gradients are made by the forward
  bool repeatable = true;   ///< false: on a GPU two runs may differ in bits
  bool speed = false;       ///< a large case, used by --mode perf only
};

}  // namespace megatron
