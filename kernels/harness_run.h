// One case as a program that can run; used by harness.cpp only.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "device/device.h"
#include "kernels/cases.h"
#include "program/executor.h"
#include "program/trace.h"
#include "tensor/host_copy.h"

namespace megatron::harness {

/// Contents of the operands (by index) as doubles, already rounded to the tested type. Absent operands are empty.
using Contents = std::vector<std::vector<double>>;

/// Same numbers for every run of a case: keyed by the case's name. After `period` elements random numbers repeat (for
/// speed, where drawing would take longer than measuring).
Contents make_contents(const OpCase& c, DType compute, int64_t period = std::numeric_limits<int64_t>::max());

/// Type of an operand, and whether it is there, when the tested type is `compute`.
DType dtype_of_operand(const CaseOperand& operand, DType compute);
bool is_present(const CaseOperand& operand, DType compute);
/// Does the case test a gradient, and of which operands?
bool has_gradient(const OpCase& c);
std::set<int> differentiable_operands(const OpCase& c);

struct RunOptions {
  DType compute = DType::kF64;
  bool backward = true;     ///< differentiate
  bool taps = false;        ///< operands pass a copy, so that kernels write gradients instead of adding to the state
  bool reuse = true;        ///< memory
  bool all_results = true;  ///< false: only differentiable results are read
  bool probe = true;        ///< false: nothing is added to the operation and its gradient (speed)
  int threads = 1;
  DeviceKind device = DeviceKind::kCpu;
};

/// What a run left, by name: "result 0", "state v", "gradient x", "loss". Copies in host memory.
using Outcome = std::map<std::string, HostTensor>;

class CaseRun {
 public:
  CaseRun(const OpCase& c, const RunOptions& options, ThreadPool* pool = nullptr);

  void write(const Contents& contents);
  /// Waits for the device.
  void run(Phase phase) {
    executor_->run(phase);
    device_->synchronize();
  }
  /// Does not wait.
  void launch(Phase phase) { executor_->run(phase); }
  void launch(Phase phase, const Executor::BoundOp& op) { executor_->run_op(phase, op); }
  const std::vector<Executor::BoundOp>& operations(Phase phase) const { return executor_->bound(phase); }
  Device& device() const { return *device_; }
  bool differentiated() const { return differentiated_; }
  const Plan& plan() const { return executor_->plan(); }
  Outcome outcome() const;
  /// The scalar whose gradient is taken, in double: sum of results times cotangents, or seed times the fused loss. On
  /// the CPU only.
  double loss() const;

 private:
  Program build(const OpCase& c, const RunOptions& options);
  void add_losses(Trace& trace, const OpCase& c, const std::vector<Value>& results, Value seed, bool active);
  Tensor tensor_of(const std::string& name) const;
  void write_values(const std::string& name, const std::vector<double>& values);

  const OpCase& case_;
  DType compute_;
  bool differentiated_ = false;
  std::vector<std::string> names_;  ///< of the operands; "" when absent
  std::vector<std::string> losses_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<ThreadPool> own_pool_;
  std::unique_ptr<Executor> executor_;
};

/// GPU 0 for kCuda; DeviceError where the build has no CUDA, or the machine no GPU.
std::unique_ptr<Device> make_device(DeviceKind kind);

/// Element access in host memory whatever the type; tensors may be strided.
std::vector<double> read_doubles(const Tensor& t);
void write_doubles(const Tensor& t, const std::vector<double>& values);
std::vector<uint8_t> read_bytes(const Tensor& t);

}  // namespace megatron::harness
