// Stochastic gradient descent with momentum (Sutskever et al., ICML 2013, in the form without dampening).
#pragma once

#include <memory>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

/// All but the last five have one shape. Scalars are fp64, in device memory.
struct SgdOperands {
  Value param;         ///< updated
  Value master;        ///< updated; fp32 copy of a 16-bit parameter, absent for fp32 and fp64
  Value momentum;      ///< updated; fp32 (fp64); absent when momentum is 0
  Value grad;          ///< fp32 (fp64)
  Value lr;            ///< learning rate of the parameter's group
  Value weight_decay;  ///< before the multiplier
  Value coefficient;   ///< what the gradient is multiplied by
  Value skip;          ///< not zero: nothing changes at all
  Value t;             ///< number of this update, from 1
};

struct SgdOptions {
  double momentum = 0.9;
  double weight_decay_multiplier = 1.0;
};

/// g = coefficient grad + wd p (weight decay is an L2 term of the loss); buffer = momentum buffer + g, at t = 1 buffer
/// = g; p -= lr buffer. No results.
void sgd(Trace& trace, const SgdOperands& operands, const SgdOptions& options);

/// Operands in the order of SgdOperands; updates the first three.
std::shared_ptr<const OpKind> sgd_kind(const SgdOptions& options);

struct SgdArgs {
  Tensor param, master, momentum, grad;
  double lr, weight_decay, coefficient, momentum_factor;  ///< momentum_factor is 0 at the first update
};

class ThreadPool;
void sgd_cpu(const SgdArgs& args, ThreadPool* pool);

/// Everything lies in device memory, the scalars too.
struct SgdCudaArgs {
  Tensor param, master, momentum, grad, lr, weight_decay, coefficient, skip, t;
  SgdOptions options;
};
/// `stream`: a cudaStream_t. An update number below 1 traps, which the next synchronisation reports.
void sgd_cuda(const SgdCudaArgs& args, void* stream);

}  // namespace megatron
