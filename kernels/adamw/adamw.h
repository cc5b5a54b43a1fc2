// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv:1711.05101).
#pragma once

#include <memory>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

/// All but the last five have one shape. Scalars are fp64, in device memory: the program does not change with the step.
struct AdamWOperands {
  Value param;         ///< updated
  Value master;        ///< updated; fp32 copy of a 16-bit parameter, absent for fp32 and fp64
  Value m, v;          ///< updated; first and second moment, fp32 (fp64 for fp64)
  Value grad;          ///< fp32 (fp64)
  Value lr;            ///< learning rate of the parameter's group
  Value weight_decay;  ///< before the multiplier
  Value coefficient;   ///< what the gradient is multiplied by: 1 / loss scale and clipping
  Value skip;          ///< not zero: nothing changes at all
  Value t;             ///< number of this update, from 1, counting those that are not skipped
};

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay_multiplier = 1.0;
};

/// g = coefficient grad; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
/// p -= lr ((m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon) + wd p), in the type of the moments; p is the master
/// copy where there is one, and the parameter its rounding. No results.
void adamw(Trace& trace, const AdamWOperands& operands, const AdamWOptions& options);

/// Operands in the order of AdamWOperands; updates the first four.
std::shared_ptr<const OpKind> adamw_kind(const AdamWOptions& options);

/// The update of one step, worked out once.
struct AdamWStep {
  double coefficient, beta1, beta2, epsilon;
  double step_size;     ///< lr / (1 - b1^t)
  double inverse_root;  ///< 1 / sqrt(1 - b2^t)
  double decay;         ///< lr wd
};
struct AdamWArgs {
  Tensor param, master, m, v, grad;
  AdamWStep step;
};

class ThreadPool;
void adamw_cpu(const AdamWArgs& args, ThreadPool* pool);

/// Everything lies in device memory, the scalars too: what a step needs is worked out on the device.
struct AdamWCudaArgs {
  Tensor param, master, m, v, grad, lr, weight_decay, coefficient, skip, t;
  AdamWOptions options;
};
/// `stream`: a cudaStream_t. An update number below 1 traps, which the next synchronisation reports.
void adamw_cuda(const AdamWCudaArgs& args, void* stream);

}  // namespace megatron
