#include "train/checkpoint_saver.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/strings.h"
#include "checkpoint/shard_exchange.h"

namespace megatron {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kPatience = 0.2;  ///< seconds that a rank looks at its own thread before it listens to the others

// What ranks tell each other: one letter, then text.
constexpr char kUnderWay = 'u', kDone = 'd', kFailed = 'f', kLost = 'l';

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

template <typename T>
bool ready(const std::future<T>& future, double patience) {
  return future.wait_for(std::chrono::duration<double>(patience)) == std::future_status::ready;
}

std::string saved_text(const SaveResult& result) {
  return str_cat("saved ", result.folder, " (", format_bytes(static_cast<double>(result.bytes)), " in ",
                 format_duration(result.seconds), ", ",
                 format_bytes(static_cast<double>(result.bytes) / std::max(result.seconds, 1e-9)), "/s)");
}

}  // namespace

CheckpointSaver::CheckpointSaver(const SaverOptions& options, RankContext& ranks, ThreadPool& pool)
    : options_(options), ranks_(ranks), pool_(pool) {
  if (ranks_.is_first()) store_ = std::make_unique<CheckpointStore>(options_.folder, options_.store, *options_.ops);
}

CheckpointSaver::~CheckpointSaver() {
  if (!pending_) return;
  try {
    if (ranks_.size() == 1) {
      log_info(str_cat("waiting for the checkpoint of iteration ", pending_->iteration));
      finish();
    } else {
      pending_->writing.wait();
      if (pending_->commit.valid()) pending_->commit.wait();
    }
  } catch (const std::exception& error) {
    log_warn(str_cat("the last checkpoint was not completed: ", error.what()));
  }
}

void CheckpointSaver::reserve(const std::vector<TensorSource>& tensors) {
  if (!options_.background) return;
  const auto start = Clock::now();
  const int64_t bytes = StateSnapshot::size(tensors);
  snapshot_ = std::make_unique<StateSnapshot>(ranks_.device(), bytes);
  log_info(str_cat("host memory for saves in the background: ", format_bytes(static_cast<double>(bytes)),
                   " on this rank, taken in ", format_duration(seconds_since(start))));
}

int64_t CheckpointSaver::total_over_ranks(int64_t bytes) {
  int64_t sum = 0;
  for (const std::string& one : ranks_.world().gather(std::to_string(bytes))) sum += std::stoll(one);
  return sum;
}

/// On rank 0: makes the staging folder. Returns what all ranks have to know.
std::string CheckpointSaver::begin(const CheckpointContent& content, StagedSave& staged) {
  try {
    if (!store_->owned()) return kLost + options_.folder;
    staged = store_->begin(content);
    return kDone + staged.staging;
  } catch (const DataError& error) {
    return kFailed + std::string(error.what());
  }
}

/// Rank 0 begins, in a thread of its own, while all ranks keep exchanging words: removing what dead saves left behind
/// can take long, and a rank that stands still counts as hanging. Collective.
std::string CheckpointSaver::begin_on_first(const CheckpointContent& content, int64_t other_bytes, StagedSave& staged) {
  std::future<std::string> beginning;
  if (ranks_.is_first()) {
    beginning = std::async(std::launch::async, [&] {
      CheckpointContent whole = content;
      whole.other_bytes = other_bytes;
      return begin(whole, staged);
    });
  }
  for (;;) {
    ranks_.at("save");
    std::string mine;
    if (ranks_.is_first()) mine = ready(beginning, kPatience) ? beginning.get() : std::string(1, kUnderWay);
    const std::string begun = ranks_.from_first(mine);
    if (begun[0] != kUnderWay) return begun;
  }
}

void CheckpointSaver::save(const CheckpointContent& content) {
  const auto start = Clock::now();
  if (pending_) {
    log_info(
        str_cat("waiting for the checkpoint of iteration ", pending_->iteration, ", which is still being written"));
    finish();
    log_info(str_cat("waited ", format_duration(seconds_since(start)), "; save_interval is shorter than a save takes"));
  }
  Pending pending;
  pending.iteration = content.iteration;
  const int64_t own = total_bytes(content.tensors), all = total_over_ranks(own);
  StagedSave staged;
  const std::string begun = begin_on_first(content, all - own, staged);
  if (ranks_.is_first() && begun[0] == kDone) pending.staged = std::move(staged);
  if (begun[0] != kDone) {
    pending_ = std::move(pending);
    return fail(begun);
  }
  pending_ = std::move(pending);
  if (snapshot_) {
    write(begun.substr(1), snapshot_->take(content.tensors, pool_));
    copying_ = true;
    log_info(str_cat("saving iteration ", content.iteration, " in the background (",
                     format_bytes(static_cast<double>(all)), "); begun in ", format_duration(seconds_since(start))));
  } else {
    write(begun.substr(1), content.tensors);
    finish();
  }
}

void CheckpointSaver::write(std::string staging, std::vector<TensorSource> tensors) {
  pending_->writing = std::async(
      std::launch::async,
      [this, staging = std::move(staging), tensors = std::move(tensors), rank = ranks_.rank()]() -> ShardSet {
        if (snapshot_) snapshot_->done().synchronize();
        return write_shards(staging, rank, tensors, options_.store.shard_bytes, options_.store.chunk_bytes,
                            *options_.ops, options_.store.threads);
      });
}

Event* CheckpointSaver::snapshot_taken() {
  return std::exchange(copying_, false) ? &snapshot_->done() : nullptr;
}

void CheckpointSaver::finish() {
  while (pending_) advance(kPatience);
}

void CheckpointSaver::advance(double patience) {
  if (!pending_) return;
  ranks_.at("save");
  pending_->committing ? advance_commit(patience) : advance_writing(patience);
}

void CheckpointSaver::advance_writing(double patience) {
  Pending& p = *pending_;
  if (p.writing.valid() && ready(p.writing, patience)) {
    try {
      p.written = p.writing.get();
    } catch (const DataError& error) {
      p.failed = error.what();
    }
  }
  const std::string mine = !p.failed.empty() ? kFailed + p.failed : std::string(1, p.written ? kDone : kUnderWay);
  std::vector<std::string> failures;
  for (const std::string& one : ranks_.world().gather(mine)) {
    if (one[0] == kUnderWay) return;
    if (one[0] == kFailed) failures.push_back(one.substr(1));
  }
  if (!failures.empty()) {
    if (p.staged) store_->abandon(*p.staged);
    return fail(kFailed + join(failures, "; "));
  }
  std::vector<ShardSet> sets;
  for (const std::string& text : ranks_.world().gather(encode_shards(*p.written))) {
    if (ranks_.is_first()) sets.push_back(decode_shards(text));
  }
  p.committing = true;
  if (!ranks_.is_first()) return;
  p.commit = std::async(std::launch::async, [this, staged = std::move(*p.staged), sets = std::move(sets)]() mutable {
    return store_->commit(std::move(staged), join_shards(std::move(sets)));
  });
}

void CheckpointSaver::advance_commit(double patience) {
  Pending& p = *pending_;
  std::string outcome;
  if (ranks_.is_first()) {
    outcome = std::string(1, kUnderWay);
    if (ready(p.commit, patience)) {
      try {
        outcome = kDone + saved_text(p.commit.get());
      } catch (const DataError& error) {
        outcome = (store_->owned() ? kFailed : kLost) + std::string(error.what());
      }
    }
  }
  outcome = ranks_.from_first(outcome);
  if (outcome[0] == kUnderWay) return;
  if (outcome[0] != kDone) return fail(outcome);
  committed_ = p.iteration;
  failures_ = 0;
  failure_.clear();
  pending_.reset();
  log_info(outcome.substr(1));
}

/// Ends the save on every rank alike.
void CheckpointSaver::fail(const std::string& reason) {
  const int64_t iteration = pending_->iteration;
  pending_.reset();
  if (reason[0] == kLost) {
    throw AgreedError(str_cat("another job has taken over the checkpoint folder of this run: ", reason.substr(1),
                              ". Only one of them may go on; give this one another run.dir or checkpoint.save"));
  }
  failure_ = str_cat("the checkpoint of iteration ", iteration, " was not saved: ", reason.substr(1));
  if (++failures_ >= kMaxFailures) {
    throw AgreedError(str_cat(failure_, " This was the failed save number ", failures_,
                              " in a row: the run ends, the newest complete checkpoint is as it was"));
  }
  log_warn(str_cat(failure_, " Training goes on; failed save ", failures_, " of ", kMaxFailures,
                   " in a row that end the run"));
}

}  // namespace megatron
