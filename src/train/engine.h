// One rank's device side of training: memory, executors, and the calls of a step.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "config/config.h"
#include "data/batch.h"
#include "device/device.h"
#include "program/executor.h"
#include "train/chunk_runner.h"
#include "train/op_times.h"
#include "train/programs.h"
#include "train/ranks.h"

namespace megatron {

/// What the host gives to one optimizer update.
struct UpdateInputs {
  std::vector<double> learning_rates;  ///< per parameter group
  double weight_decay = 0;
  double loss_scale = 1;
  int64_t update_count = 1;  ///< of this update, from 1
};

/// What the device says of one step.
struct StepResult {
  double loss_sum = 0;   ///< over the tokens of all ranks
  double grad_norm = 0;  ///< before clipping, without the loss scale
  bool skipped = false;  ///< not finite, or halted: nothing changed
};

/// The calls of a step enqueue work and return; take_result() waits. At most kInFlight steps may be between update()
/// and take_result(). After a skipped step the device is halted: steps enqueued behind it change nothing either, until
/// resume_after_skip().
class TrainEngine {
 public:
  /// Allocates everything that the plan says, and nothing later. `programs` are those of the mesh of `ranks`; none: a
  /// process that is alone. Steps and evaluations are collective calls.
  TrainEngine(const Config& config, TrainPrograms programs, std::shared_ptr<RankContext> ranks = nullptr);

  Store& store() { return *store_; }
  ThreadPool& pool() { return *pool_; }
  Device& device() { return device_; }
  RankContext& ranks() { return *ranks_; }
  const TrainPrograms& programs() const { return programs_; }
  /// Samples of one rank.
  int64_t micro_batch_size() const { return config_.training.micro_batch_size; }
  /// Parameters and gradients of this rank.
  const Program& train_program() const { return programs_.held; }

  /// Zeroes gradients and the sum of losses.
  void begin_step();
  /// Forward and backward of micro-batches, of which `batches` are this rank's parts, in the order of the pipeline's
  /// schedule; `seeds` = loss scale / divisor of the loss of each.
  void accumulate(const std::vector<Batch>& batches, const std::vector<double>& seeds, int64_t step);
  void update(const UpdateInputs& inputs);
  /// The device reaches `event` before the next update() changes anything. The event must live until then.
  void hold_update(Event* event) { hold_ = event; }
  static constexpr size_t kInFlight = 2;
  /// Of the oldest update() whose result was not taken yet.
  StepResult take_result();
  void resume_after_skip();
  /// Sum over this rank's tokens since begin_step() or begin_evaluation(). Waits.
  double loss_sum() const;

  void begin_evaluation() {
    complete_parameters();
    begin_step();
  }
  /// After an update this rank may hold its part of the parameters alone until the next forward. Whoever reads them
  /// before calls this first. A collective call.
  void complete_parameters();
  /// Forward of up to eval_micro_batches micro-batches.
  void evaluate(const std::vector<Batch>& batches);

  /// Stages and uploads all inputs of a training or evaluation program.
  static void write_batch(Executor& executor, const Batch& batch, double seed, int64_t step, int slot_set = 0);

  /// Device memory taken since the engine was made beyond what it allocated: kernels, graphs, what libraries keep.
  /// 0 on the CPU, whose memory others share.
  int64_t library_bytes() const;

  /// What a log says after the first step of a GPU: memory beside the plan, and where algorithms of products came from;
  /// "" on the CPU.
  std::string first_step_report() const;

  /// Times of all operations of a step on this micro-batch, one at a time. The weights are of no use afterwards.
  std::vector<OpTime> time_operations(const Batch& batch);

  /// Repeats a micro-batch without memory reuse and describes the first value that is not finite on any rank, the same
  /// on all of them; "" when all are.
  std::string locate_non_finite(const Batch& batch, double seed, int64_t step);

 private:
  /// Executors of plans whose phases alternate, and what runs them.
  struct Chunks {
    std::vector<std::unique_ptr<Executor>> executors;
    std::unique_ptr<ChunkRunner> runner;
    std::map<size_t, std::vector<Instruction>> instructions;  ///< of this rank, by the number of micro-batches
  };
  Chunks make_chunks(const std::vector<Plan>& plans, const std::shared_ptr<Buffer>& arena) const;
  Executor::Options executor_options() const;
  /// What this rank does with so many micro-batches.
  const std::vector<Instruction>& instructions(Chunks& chunks, size_t micro_batches, bool backward) const;
  void write_update_inputs(const UpdateInputs& inputs);

  /// Host memory that the scalars of one step are copied to.
  struct ResultSlot {
    Buffer memory;  // on the host
    std::unique_ptr<Event> ready;
  };

  const Config config_;
  std::shared_ptr<RankContext> ranks_;
  Device& device_;
  int64_t free_at_start_ = 0;  ///< device memory before anything was allocated here
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Store> store_;
  TrainPrograms programs_;
  std::shared_ptr<Buffer> arena_;
  std::unique_ptr<Executor> begin_, update_, gather_;
  Chunks train_, eval_;
  bool parameters_complete_ = true;
  std::array<ResultSlot, kInFlight> results_;
  int64_t updates_ = 0, results_taken_ = 0;
  Event* hold_ = nullptr;
};

}  // namespace megatron
