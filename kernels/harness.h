// Runs case tables (kernels/cases.h): value and gradient against fp64, gradients against finite differences, bitwise
// repeatability, and speed. Everything goes through the engine: trace, differentiate, pack, execute.
#pragma once

#include <string>
#include <vector>

#include "kernels/cases.h"

namespace megatron {

class ThreadPool;

/// The cases of one operation.
struct OpCases {
  std::string op;
  std::vector<OpCase> cases;
};

/// Largest normalised mean squared error |result - reference|^2 / |reference|^2 for results of an operation computed in
/// `dtype`: 2 u^2 + 2^14 v^2 with u the unit roundoff of the storage type (2^-53, 2^-24, 2^-8, 2^-11 for fp64, fp32,
/// bf16, fp16) and v that of the accumulator. One rounding to storage makes a relative mean squared error of at most
/// u^2 / 3, so the first term allows six independent ones (saved value, gradient, sum, ...); a sum of n terms in the
/// accumulator makes about n v^2, so the second allows n = 16384. In figures: fp64 2.0e-28, fp32 5.8e-11, bf16 3.1e-5,
/// fp16 4.8e-7.
double tolerance_of(DType dtype);

struct CaseResult {
  bool passed = true;
  std::string message;  ///< what differed, and where
  double worst = 0;     ///< largest error seen: NMSE (test), relative to the largest gradient (grad)
};

/// Forward and backward in `dtype` on `device` against fp64 on the CPU on the same rounded inputs: results, updated
/// state, gradients. Twice: with memory reuse, gradients added to what is there, unread results not given; and without,
/// each gradient overwriting. Memory is poisoned with NaN beforehand.
CaseResult test_case(const OpCase& c, DType dtype, DeviceKind device = DeviceKind::kCpu);

/// Gradients in fp64 against central differences of the fourth order; at most 48 elements of each operand, spread
/// evenly. Tolerance 1e-6 of the operand's largest gradient.
CaseResult gradient_case(const OpCase& c);

/// All results, state and gradients have equal bits with and without memory reuse; on the CPU with 1, 2 and 3 threads,
/// on CUDA in two runs each.
CaseResult bitwise_case(const OpCase& c, DType dtype, DeviceKind device = DeviceKind::kCpu);

struct PhaseSpeed {
  double seconds = 0;  ///< median
  double bytes = 0;    ///< the least that must be moved, from OpKind::cost
  double flops = 0;
};
struct CaseSpeed {
  PhaseSpeed forward, backward;  ///< backward.seconds == 0: there is none
};
/// Median over repeated runs of about `seconds` in total. On CUDA the time on the stream, with a cold L2 cache.
CaseSpeed measure_case(const OpCase& c, DType dtype, ThreadPool& pool, double seconds,
                       DeviceKind device = DeviceKind::kCpu);

/// One operation of a case's program, forward or backward.
struct OperationSpeed {
  std::string speed_class;
  Cost cost;
  double seconds = 0;  ///< median; on CUDA right after large products, as within a step
};
/// Every operation that the case and its gradient run, each timed alone for about `seconds`.
std::vector<OperationSpeed> measure_operations(const OpCase& c, DType dtype, ThreadPool& pool, double seconds,
                                               DeviceKind device);

/// Bytes per second (read plus written) of a copy: of 128 MiB on all threads of the pool, of 1 GiB on CUDA.
double measure_copy(ThreadPool& pool, DeviceKind device = DeviceKind::kCpu);

/// Seconds of an operation with next to nothing to do, as measure_operations() would give.
double measure_launch(ThreadPool& pool, DeviceKind device);

/// Name of the device, as the harness uses it.
std::string describe_device(DeviceKind device);

/// Empty when the operation runs in `dtype` (the first small case is tried), else the reason why it does not.
std::string why_unsupported(const OpCases& cases, DType dtype, DeviceKind device);

/// What runs each small case on a GPU, and why: "attention cuDNN fused causal: attention bf16 [...]: cuDNN".
std::vector<std::string> implementations(const OpCases& cases, DType dtype);

}  // namespace megatron
