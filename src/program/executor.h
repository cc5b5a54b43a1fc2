// Runs a plan: binds every operand to memory once, then a step is a loop over operations.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "device/device.h"
#include "program/comm.h"
#include "program/plan.h"

namespace megatron {

/// Persistent memory (parameters and state) by name, shared by all programs of a rank.
class Store {
 public:
  explicit Store(Device& device) : device_(device) {}

  /// Memory for `id` of `program`; made (zeroed) at the first call. InternalError if the same name comes with another
  /// type.
  Tensor require(const Program& program, ValueId id);
  /// Absent tensor when there is none of that name.
  Tensor find(const std::string& name) const;
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  Device& device() const { return device_; }

 private:
  Device& device_;
  std::vector<Buffer> buffers_;
  std::map<std::string, Tensor> tensors_;
};

/// Bytes of persistent memory that `program` adds to what `already` counts, by purpose; used by the plan's report.
int64_t persistent_bytes(const Program& program, ValueId id);

/// The first non-finite value of a run.
struct NonFinite {
  std::string phase, scope, op, value;
  int64_t index = -1;         ///< first bad element (row-major, local)
  int64_t sample_index = -1;  ///< its sample within the micro-batch, or -1
  double bad = 0;
};

class Executor {
 public:
  struct Options {
    ThreadPool* pool = nullptr;
    std::map<std::string, Comm*> comms;  ///< by mesh axis
  };

  /// `arena` holds at least plan.arena_bytes() bytes; programs that never run at the same time share one.
  Executor(Plan plan, Store& store, std::shared_ptr<Buffer> arena, Options options);

  const Plan& plan() const { return plan_; }
  Device& device() const { return store_.device(); }
  /// Host-writable operand of slot set `slot_set`. InternalError when the program has no such input.
  Tensor input(const std::string& name, int slot_set = 0) const;
  bool has_input(const std::string& name) const;
  /// A named output.
  Tensor output(const std::string& name, int slot_set = 0) const;

  void run(Phase phase, int slot_set = 0);

  /// Called after every operation with its results (data null when unread): comparisons and the search for NaN.
  using Observer = std::function<void(Phase, const Op&, const std::vector<Tensor>& results)>;
  void set_observer(Observer observer) { observer_ = std::move(observer); }

 private:
  struct BoundOp {
    OpId id;
    std::vector<Tensor> operands, results;
    std::vector<uint8_t> accumulate;
    std::vector<Dims> operand_origins, result_origins;
    std::vector<std::pair<Tensor, Tensor>> copies;  ///< accumulation onto memory that is not the result's own
    void* workspace = nullptr;
    Comm* comm = nullptr;
  };

  Tensor bind(ValueId v, int slot_set);
  /// Nobody reads what the operation makes, and it changes no state: it is not run.
  bool is_idle(const Op& op) const;
  void bind_phase(Phase phase, int slot_set);
  std::byte* region_base(Region region, int slot_set) const;

  Plan plan_;
  Store& store_;
  Options options_;
  std::shared_ptr<Buffer> arena_;
  std::vector<std::array<std::vector<BoundOp>, kPhases>> bound_;  ///< per slot set
  Observer observer_;
};

/// Runs F, B (and W) of one micro-batch and returns the first value that is not finite, if there is one. The plan
/// should have been packed without reuse, so that nothing is overwritten before it is looked at.
std::unique_ptr<NonFinite> find_non_finite(Executor& executor);

}  // namespace megatron
