// What a checkpoint holds and where: `manifest.json`. Tensors are global: a name, a shape, and pieces (boxes) that tile
// the shape, wherever and by however many ranks they were written. Nothing here depends on the number of ranks.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tensor/dtype.h"

namespace megatron {

inline constexpr int kCheckpointVersion = 1;
inline constexpr std::string_view kManifestName = "manifest.json";

/// What a tensor is for: a load may leave the optimizer's out.
enum class StateKind : uint8_t { kParameter, kOptimizer };
std::string_view name_of(StateKind kind);

/// A scalar of the training state: iteration counters, data cursor, loss scale, ...; doubles come back bit for bit.
using MetaValue = std::variant<bool, int64_t, double, std::string>;

/// A block of a tensor: `extent[i]` indices from `offset[i]` along dimension i.
struct Box {
  std::vector<int64_t> offset, extent;
  bool operator==(const Box&) const = default;
};
/// The whole of a tensor.
Box whole_box(const std::vector<int64_t>& shape);
/// What two boxes share; nothing when that is empty.
std::optional<Box> intersect(const Box& a, const Box& b);
/// "[0:4, 8:16]"
std::string to_string(const Box& box);
int64_t element_count(const std::vector<int64_t>& extents);

/// Name, meaning, element type and global shape of a tensor. Names are unique over all kinds.
struct TensorRecord {
  std::string name;
  StateKind kind = StateKind::kParameter;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

/// A stored block: row-major elements of `box`, at byte `at` of file number `file`. Chunk i covers the bytes
/// [i * chunk_bytes, (i + 1) * chunk_bytes) of the block and has its XXH64 in `checksums[i]`.
struct Piece {
  Box box;
  int64_t file = 0;
  int64_t at = 0;
  int64_t bytes = 0;
  std::vector<uint64_t> checksums;
};

struct StoredTensor {
  TensorRecord record;
  std::vector<Piece> pieces;
};

/// A file of the checkpoint. Of a shard the manifest knows the safetensors header (`header_bytes`, `checksum` of
/// these); any other file (header_bytes 0) is covered by one checksum.
struct StoredFile {
  std::string name;
  int64_t bytes = 0;
  int64_t header_bytes = 0;
  uint64_t checksum = 0;
  bool is_shard() const { return header_bytes > 0; }
};

struct Manifest {
  int64_t sequence = 0;  ///< counts the commits of a folder: the newest checkpoint is the one with the highest
  int64_t iteration = 0;
  int64_t chunk_bytes = 0;
  std::string program;    ///< version of the program that wrote it
  std::string tokenizer;  ///< fingerprint; empty when there is none
  std::map<std::string, MetaValue> state;
  std::vector<StoredFile> files;
  std::vector<StoredTensor> tensors;
};

/// The text of manifest.json. Its first line holds the XXH64 of all that follows, its second line the sequence.
std::string print_manifest(const Manifest& manifest);

/// The text of a checkpoint folder's manifest; DataError when there is none.
std::string read_manifest_text(const std::string& folder);

/// Checks the first line against the text and returns the sequence; DataError naming `path` when it is damaged.
int64_t check_manifest_text(std::string_view text, const std::string& path);

/// Parses and checks everything that can be checked without the other files: types, ranges, names, that pieces tile
/// each tensor exactly once, and that headers and pieces tile each shard. DataError naming `path` and the place.
Manifest parse_manifest(std::string_view text, const std::string& path);

}  // namespace megatron
