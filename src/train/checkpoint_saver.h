// Saves of a run on all its ranks: in the foreground, or from a snapshot in the background while training goes on.
#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>

#include "base/thread_pool.h"
#include "checkpoint/store.h"
#include "train/ranks.h"
#include "train/snapshot.h"

namespace megatron {

struct SaverOptions {
  std::string folder;
  StoreOptions store;
  bool background = false;  ///< checkpoint.async_save
  FileOps* ops = &FileOps::posix();
};

/// Every rank writes its share in a thread of its own. What the ranks have to agree on they exchange from the training
/// thread, in poll(), so that nothing of a save runs into the collectives of a step. A save that fails (full disk,
/// storage failure) is given up on all ranks with a warning, and training goes on; the third in a row is an error.
///
/// save(), poll() and finish() are collective calls.
class CheckpointSaver {
 public:
  static constexpr int kMaxFailures = 3;

  /// Rank 0 takes the folder, to fail early: UsageError naming the owner when another job has it.
  CheckpointSaver(const SaverOptions& options, RankContext& ranks, ThreadPool& pool);
  /// Alone: waits for the commit of what is being saved. With other ranks: for this rank's writing, no more; what is
  /// not committed by then is no checkpoint.
  ~CheckpointSaver();
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  /// Takes the host memory of background saves of this state, before the first step.
  void reserve(const std::vector<TensorSource>& tensors);

  /// Writes a checkpoint, or begins to. Waits first for one that is still under way. `content.tensors` must stay
  /// unchanged until the snapshot is taken: the next update must wait for snapshot_taken().
  void save(const CheckpointContent& content);
  /// Moves a save in the background on, and says what became of it. Called after every iteration; costs an exchange of
  /// a few bytes while there is one.
  void poll() { advance(0); }
  /// Waits until no save is under way.
  void finish();

  /// For the device to wait for before it changes the state; nullptr when there is nothing to wait for.
  Event* snapshot_taken();

  /// Iteration of the newest checkpoint that is complete; -1: none by this run.
  int64_t committed() const { return committed_; }
  void set_committed(int64_t iteration) { committed_ = iteration; }
  /// Iteration that is being saved, or -1.
  int64_t under_way() const { return pending_ ? pending_->iteration : -1; }
  /// Why the last save failed; "" when it did not.
  const std::string& failure() const { return failure_; }

 private:
  struct Pending {
    int64_t iteration = 0;
    std::optional<StagedSave> staged;  ///< on rank 0
    std::future<ShardSet> writing;
    std::optional<ShardSet> written;
    std::string failed;  ///< this rank's writing
    bool committing = false;
    std::future<SaveResult> commit;  ///< on rank 0
  };

  std::string begin(const CheckpointContent& content, StagedSave& staged);
  std::string begin_on_first(const CheckpointContent& content, int64_t other_bytes, StagedSave& staged);
  void write(std::string staging, std::vector<TensorSource> tensors);
  void advance(double patience);
  void advance_writing(double patience);
  void advance_commit(double patience);
  void fail(const std::string& reason);
  int64_t total_over_ranks(int64_t bytes);

  const SaverOptions options_;
  RankContext& ranks_;
  ThreadPool& pool_;
  std::unique_ptr<CheckpointStore> store_;  ///< on rank 0
  std::unique_ptr<StateSnapshot> snapshot_;
  std::optional<Pending> pending_;
  bool copying_ = false;
  int64_t committed_ = -1;
  int failures_ = 0;
  std::string failure_;
};

}  // namespace megatron
