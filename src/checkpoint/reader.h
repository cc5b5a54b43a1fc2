// Reading checkpoints: choosing the newest complete one, and tensors or boxes of tensors with every byte verified.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "checkpoint/manifest.h"

namespace megatron {

/// How much is read before a checkpoint is trusted. Reading a tensor verifies what it reads in any case.
enum class Verify {
  kNothing,  ///< the manifest alone
  kSizes,    ///< manifest, and that all files exist with the right sizes
  kSample,   ///< also headers, small files, first and last chunk of each shard, and each hundredth in between
  kFull,     ///< every byte
};

class CheckpointReader;

/// Reads what a program needs from a checkpoint; returns where it turned out to be damaged, or "".
using UseCheckpoint = std::function<std::string(const CheckpointReader&)>;

/// An open checkpoint. Const functions may be called from several threads where it has no pool.
class CheckpointReader {
 public:
  /// The newest complete checkpoint in `root`; nothing when there is no iter_* folder at all. A damaged one is skipped
  /// with a warning (file, place), which is also appended to `skipped`. All damaged: DataError that names each file and
  /// place. One that `use` finds damaged is skipped likewise; what `use` throws ends the search.
  static std::optional<CheckpointReader> open_latest(const std::string& root, Verify verify = Verify::kFull,
                                                     std::vector<std::string>* skipped = nullptr,
                                                     const UseCheckpoint& use = {});

  /// Exactly this iteration, with no fall-back; DataError when it is missing (the message lists what is there) or
  /// damaged.
  static CheckpointReader open(const std::string& root, int64_t iteration, Verify verify = Verify::kFull);

  /// One iter_* folder, wherever it lies.
  static CheckpointReader open_folder(const std::string& folder, Verify verify = Verify::kFull);

  /// From now on chunks are read and verified by the threads of `pool`, which must outlive this.
  void set_pool(ThreadPool* pool) { pool_ = pool; }

  const std::string& folder() const { return folder_; }
  const Manifest& manifest() const { return manifest_; }
  int64_t iteration() const { return manifest_.iteration; }

  /// Null when there is no such tensor.
  const StoredTensor* find(const std::string& name) const;

  /// The whole tensor, row-major. `out` has exactly its bytes. DataError: no such tensor, damage, or another dtype or
  /// shape than `record` says (the message names both).
  void read(const TensorRecord& record, std::span<std::byte> out) const;
  /// A box of it, row-major in `out`. Only chunks that hold a part of the box are read; each is verified.
  void read_box(const TensorRecord& record, const Box& box, std::span<std::byte> out) const;
  /// The same, of a tensor that may be stored in another floating type: its values are rounded to that of `record`.
  void read_box_as(const TensorRecord& record, const Box& box, std::span<std::byte> out) const;
  /// DataError as read() has it: no such tensor, another shape, or another type (unless `any_floating`).
  const StoredTensor& require(const TensorRecord& record, bool any_floating = false) const;

  /// A small file of the checkpoint ("resolved.yaml"), verified; DataError when it has none.
  std::string read_text(const std::string& name) const;
  bool has_file(const std::string& name) const;

  /// State scalars; DataError naming the key when it is missing or has another type.
  int64_t state_int(const std::string& key) const;
  double state_double(const std::string& key) const;
  bool state_bool(const std::string& key) const;
  std::string state_string(const std::string& key) const;
  bool has_state(const std::string& key) const { return manifest_.state.contains(key); }

  /// Every place that is damaged (file, byte range, tensor); stops after the first unless `all`.
  std::vector<std::string> find_damage(Verify verify, bool all) const;

 private:
  CheckpointReader(std::string folder, Manifest manifest);
  const StoredFile* find_file(const std::string& name) const;
  const MetaValue& state_value(const std::string& key) const;
  /// Calls body(i, memory to use) for i in [0, count), on the threads of the pool.
  void for_each_chunk(int64_t count, const std::function<void(int64_t, std::vector<std::byte>&)>& body) const;
  void read_piece(const StoredTensor& tensor, const Piece& piece, const Box& box, std::span<std::byte> out) const;

  std::string folder_;
  Manifest manifest_;
  std::map<std::string, size_t> by_name_;  ///< of tensors
  ThreadPool* pool_ = nullptr;
};

}  // namespace megatron
