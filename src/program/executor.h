// Runs a plan: binds every operand to memory once, then a step is a loop over operations.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <set>
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
  /// How the named tensor was declared: its global shape and placement. It must be there.
  const ValueInfo& type(const std::string& name) const { return types_.at(name); }
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  Device& device() const { return device_; }

 private:
  Device& device_;
  std::vector<Buffer> buffers_;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, ValueInfo> types_;
};

/// Bytes of persistent memory that `program` adds to what `already` counts, by purpose; used by the plan's report.
int64_t persistent_bytes(const Program& program, ValueId id);

/// The first non-finite value of a run.
struct NonFinite {
  std::string phase, scope, op, value;
  int64_t index = -1;         ///< first bad element (row-major, local)
  int64_t sample_index = -1;  ///< its sample within the micro-batch, or -1
  double bad = 0;
  int64_t order = 0;  ///< operations that ran before: ranks that found different values compare it
};

class Executor {
 public:
  struct Options {
    ThreadPool* pool = nullptr;
    std::map<std::string, Comm*> comms;  ///< by mesh axis
    /// Where the device can: the second run of a phase on a slot set is recorded, and from then on replayed. The first
    /// runs operation by operation, because libraries choose their algorithms in it.
    bool graphs = true;
    int staged = 4;  ///< sets of inputs that the host may write ahead of the device
    /// Where inputs and slots begin in the arena; -1: behind the transient values. Programs whose phases alternate
    /// share the transient part alone.
    int64_t kept_offset = -1;
  };

  /// `arena` holds at least plan.arena_bytes() bytes; programs that never run at the same time share one.
  Executor(Plan plan, Store& store, std::shared_ptr<Buffer> arena, Options options);

  const Plan& plan() const { return plan_; }
  Device& device() const { return store_.device(); }
  /// Host-writable operand of slot set `slot_set`. InternalError when the program has no such input.
  Tensor input(const std::string& name, int slot_set = 0) const;
  bool has_input(const std::string& name) const;
  /// Writes an input into host memory; upload() then enqueues the copy of all inputs at once. Every input must be
  /// written before each upload(). Waits only when `staged` uploads have not reached the device yet.
  void stage(const std::string& name, const void* data, int64_t bytes);
  /// The inputs as staged become those of `slot_set`, in order with what is run before and after.
  void upload(int slot_set = 0);
  /// Memory that a boundary value of another stage is received into.
  Tensor received(const std::string& name, int slot_set) const;
  /// A named output.
  Tensor output(const std::string& name, int slot_set = 0) const;

  /// Enqueues a phase (on the CPU: runs it). `edge`: with the operations that run once per step, as in F of the first
  /// micro-batch, B and W of the last.
  void run(Phase phase, int slot_set = 0, bool edge = true);

  /// One operation as it is bound to memory.
  struct BoundOp {
    OpId id;
    std::vector<Tensor> operands, results;  ///< data null: absent, or unread
    std::vector<uint8_t> accumulate;
    std::vector<Dims> operand_origins, result_origins;
    std::vector<std::pair<Tensor, Tensor>> copies;  ///< accumulation onto memory that is not the result's own
    void* workspace = nullptr;
    Comm* comm = nullptr;
    std::vector<Event*> waits;  ///< of other streams
    Event* done = nullptr;      ///< recorded after it, when another stream waits for it
  };

  /// Called before and after every operation: comparisons, times, and the search for NaN. While one is set, phases run
  /// operation by operation.
  struct Observer {
    std::function<void(Phase, const BoundOp&)> before, after;
  };
  void set_observer(Observer observer) { observer_ = std::move(observer); }

  /// The operations of a phase, and one of them alone: for comparing two executors step by step.
  const std::vector<BoundOp>& bound(Phase phase, int slot_set = 0) const {
    return phases_[static_cast<size_t>(slot_set)][static_cast<size_t>(phase)].whole.ops;
  }
  void run_op(Phase phase, const BoundOp& op) { enqueue_op(phase, op); }

 private:
  Tensor bind(ValueId v, int slot_set);
  void bind_phase(Phase phase, int slot_set);
  BoundOp bind_op(OpId id, int slot_set);
  void bind_events(std::vector<BoundOp>& ops, const std::vector<std::vector<OpId>>& waits);
  std::byte* region_base(Region region, int slot_set) const;
  Event* new_event();

  struct PhaseState {
    std::vector<BoundOp> ops;
    bool forks = false;  ///< uses a stream beside the computing one
    bool ran = false;
    std::unique_ptr<Graph> graph;
  };
  struct PhaseStates {
    PhaseState whole, inner;  ///< with and without edge operations
    bool has_edges = false;
  };
  void enqueue(Phase phase, const PhaseState& state);
  void enqueue_op(Phase phase, const BoundOp& bound);
  bool observed() const { return observer_.before || observer_.after; }

  /// One set of inputs on the host, on its way.
  struct Stage {
    Buffer memory;  // on the host
    std::unique_ptr<Event> copied;
    std::set<std::string> written;
  };

  Plan plan_;
  Store& store_;
  Options options_;
  std::shared_ptr<Buffer> arena_;
  std::vector<std::array<PhaseStates, kPhases>> phases_;  ///< per slot set
  std::vector<std::unique_ptr<Event>> events_;
  Event* fork_ = nullptr;
  std::array<Event*, Device::kStreams> join_{};
  std::vector<Stage> stages_;  ///< made at the first stage()
  size_t stage_ = 0;
  Observer observer_;
};

/// Runs F, B (and W) of one micro-batch and returns the first value that is not finite, if there is one. The plan
/// should have been packed without reuse, so that nothing is overwritten before it is looked at.
std::unique_ptr<NonFinite> find_non_finite(Executor& executor);
/// The same of programs that are parts of one model, while `run` runs them. `positions`: place of each part in the
/// model, by which NonFinite::order compares the ranks of a pipeline.
std::unique_ptr<NonFinite> find_non_finite(const std::vector<Executor*>& parts, const std::vector<int>& positions,
                                           const std::function<void()>& run);

}  // namespace megatron
