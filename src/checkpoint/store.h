// Writing checkpoints so that none can be lost: everything is written and made durable in a staging folder, which a
// rename turns into a checkpoint; older ones are removed only after that. A crash at any moment leaves either the new
// checkpoint or the one before.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/file_io.h"
#include "checkpoint/manifest.h"
#include "checkpoint/reader.h"
#include "checkpoint/shard_writer.h"

namespace megatron {

struct StoreOptions {
  /// Keep this many of the newest commits; 0 keeps all, unless save_retain_interval is given (then 1, as Megatron
  /// does).
  int64_t most_recent_k = 0;
  /// Keep also every iteration divisible by this; 0: none.
  int64_t save_retain_interval = 0;
  int64_t shard_bytes = int64_t{2} << 30;
  int64_t chunk_bytes = int64_t{16} << 20;
  /// How much of the staged files is read back from the storage before they are published.
  Verify read_back = Verify::kSample;
  std::string program;  ///< version of the program, for the manifest
  int threads = 1;      ///< that write shards
};

/// All that goes into one checkpoint.
struct CheckpointContent {
  int64_t iteration = 0;
  std::string tokenizer;  ///< fingerprint of the tokenizer; empty when there is none
  std::map<std::string, MetaValue> state;
  std::vector<TensorSource> tensors;         ///< where several ranks write: this rank's share
  int64_t other_bytes = 0;                   ///< shares of the others together
  std::map<std::string, std::string> texts;  ///< small files by plain name: "resolved.yaml", "tokenizer.json"
};

struct SaveResult {
  std::string folder;
  int64_t bytes = 0;
  double seconds = 0;
};

/// A save between begin() and commit().
struct StagedSave {
  std::string staging;  ///< the folder that shards are written to
  Manifest manifest;    ///< all but files and tensors
  std::map<std::string, std::string> texts;
  int64_t bytes = 0;
  std::chrono::steady_clock::time_point start;
};

/// The right to write checkpoints to a folder. It is held until destruction; a second owner is refused.
class CheckpointStore {
 public:
  /// Makes the folder and takes its lock. UsageError naming the owner when another job holds it; DataError when the
  /// folder cannot be written. A training run opens it before the first step, to fail early.
  explicit CheckpointStore(std::string root, StoreOptions options = {}, FileOps& ops = FileOps::posix());

  /// Writes and commits one checkpoint, then applies the retention rule. When it throws (disk full, storage failure,
  /// lost ownership), the checkpoints that were there before are still there. An existing checkpoint of this iteration
  /// is replaced, atomically where the file system can swap two names. Leftovers of dead saves are removed first.
  SaveResult save(const CheckpointContent& content);

  /// The same in steps, where several ranks write their shares, or a thread of its own does: write_shards() to the
  /// staging folder by everybody, then commit() with join_shards() of what they wrote, or abandon(). One at a time.
  StagedSave begin(const CheckpointContent& content);
  SaveResult commit(StagedSave save, ShardSet shards);
  void abandon(const StagedSave& save) noexcept;

  /// False when somebody else has taken the folder over.
  bool owned() const { return lock_.still_owned(); }
  const StoreOptions& options() const { return options_; }
  FileOps& ops() const { return ops_; }
  const std::string& root() const { return root_; }

 private:
  void remove_leftovers();
  void publish(const std::string& staging, const std::string& target, const std::string& manifest_text);
  void replace(const std::string& staging, const std::string& target);
  void apply_retention();

  std::string root_;
  StoreOptions options_;
  FileOps& ops_;
  FileLock lock_;
};

}  // namespace megatron
