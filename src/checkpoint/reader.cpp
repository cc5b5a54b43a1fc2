#include "checkpoint/reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/file_io.h"
#include "base/log.h"
#include "base/strings.h"
#include "checkpoint/layout.h"

namespace megatron {
namespace {

constexpr size_t kSampleStride = 100;

/// A run of bytes with one checksum.
struct Chunk {
  int64_t at = 0, bytes = 0;
  uint64_t checksum = 0;
  const StoredTensor* tensor = nullptr;  ///< null: header of a shard, or a small file
};

std::string damaged_chunk(const std::string& path, const Chunk& chunk) {
  return str_cat(path, ": bytes [", chunk.at, ", ", chunk.at + chunk.bytes, "): the checksum differs",
                 chunk.tensor ? str_cat(" (tensor '", chunk.tensor->record.name, "')") : "", ": the file is damaged");
}

void read_verified(const FileReader& file, const Chunk& chunk, std::span<std::byte> out) {
  file.read_at(chunk.at, out);
  if (xxh64(out) != chunk.checksum) throw DataError(damaged_chunk(file.path(), chunk));
}

Chunk chunk_of(const StoredTensor& tensor, const Piece& piece, int64_t index, int64_t chunk_bytes) {
  const int64_t begin = index * chunk_bytes;
  return {piece.at + begin, std::min(chunk_bytes, piece.bytes - begin), piece.checksums[static_cast<size_t>(index)],
          &tensor};
}

/// A run of bytes that a chunk and the box that is read share.
struct Copy {
  int64_t chunk = 0, within = 0;  ///< number of the chunk, first byte in it
  int64_t to = 0, bytes = 0;
};

/// All chunks of each file, in the order of their bytes.
std::vector<std::vector<Chunk>> chunks_by_file(const Manifest& manifest) {
  std::vector<std::vector<Chunk>> chunks(manifest.files.size());
  for (size_t i = 0; i < chunks.size(); ++i) {
    const StoredFile& file = manifest.files[i];
    chunks[i].push_back({0, file.is_shard() ? file.header_bytes : file.bytes, file.checksum, nullptr});
  }
  for (const StoredTensor& tensor : manifest.tensors) {
    for (const Piece& piece : tensor.pieces) {
      for (int64_t c = 0; c < std::ssize(piece.checksums); ++c) {
        chunks[static_cast<size_t>(piece.file)].push_back(chunk_of(tensor, piece, c, manifest.chunk_bytes));
      }
    }
  }
  for (auto& list : chunks) {
    std::sort(list.begin(), list.end(), [](const Chunk& a, const Chunk& b) { return a.at < b.at; });
  }
  return chunks;
}

/// Calls body(source element, target element, count) for each contiguous run of `common` in the row-major boxes
/// `source` and `target`, in ascending order of source elements.
void for_each_run(const Box& common, const Box& source, const Box& target,
                  const std::function<void(int64_t, int64_t, int64_t)>& body) {
  const size_t rank = common.extent.size();
  // The innermost dimensions that are whole in both boxes, and one more, form a run.
  size_t inner = rank;
  int64_t run = 1;
  while (inner > 0) {
    --inner;
    run *= common.extent[inner];
    if (common.extent[inner] != source.extent[inner] || common.extent[inner] != target.extent[inner]) break;
  }
  std::vector<int64_t> index(rank, 0);
  for (;;) {
    int64_t from = 0, to = 0;
    for (size_t i = 0; i < rank; ++i) {
      from = from * source.extent[i] + (common.offset[i] + index[i] - source.offset[i]);
      to = to * target.extent[i] + (common.offset[i] + index[i] - target.offset[i]);
    }
    body(from, to, run);
    size_t i = inner;
    while (i > 0 && ++index[i - 1] == common.extent[i - 1]) index[--i] = 0;
    if (i == 0) return;
  }
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::vector<std::string> parts;
  for (int64_t extent : shape) parts.push_back(std::to_string(extent));
  return str_cat("[", join(parts, ", "), "]");
}

}  // namespace

CheckpointReader::CheckpointReader(std::string folder, Manifest manifest)
    : folder_(std::move(folder)), manifest_(std::move(manifest)) {
  for (size_t i = 0; i < manifest_.tensors.size(); ++i) by_name_.emplace(manifest_.tensors[i].record.name, i);
}

CheckpointReader CheckpointReader::open_folder(const std::string& folder, Verify verify) {
  const std::string path = path_join(folder, kManifestName);
  CheckpointReader reader(folder, parse_manifest(read_manifest_text(folder), path));
  const std::vector<std::string> damage = reader.find_damage(verify, /*all=*/false);
  if (!damage.empty()) throw DataError(damage[0]);
  return reader;
}

CheckpointReader CheckpointReader::open(const std::string& root, int64_t iteration, Verify verify) {
  const std::string folder = path_join(root, iteration_name(iteration));
  if (!directory_exists(folder)) {
    std::vector<std::string> names;
    for (const Candidate& candidate : list_checkpoints(root)) names.push_back(iteration_name(candidate.iteration));
    throw DataError(str_cat(root, ": has no checkpoint of iteration ", iteration, "; it has ",
                            names.empty() ? "none at all" : join(names, ", ")));
  }
  CheckpointReader reader = open_folder(folder, verify);
  if (reader.iteration() != iteration) {
    throw DataError(str_cat(folder, ": its manifest is of iteration ", reader.iteration(), ": the folder was renamed"));
  }
  return reader;
}

std::optional<CheckpointReader> CheckpointReader::open_latest(const std::string& root, Verify verify,
                                                              std::vector<std::string>* skipped,
                                                              const UseCheckpoint& use) {
  const std::vector<Candidate> candidates = list_checkpoints(root);
  std::vector<std::string> damages;
  std::optional<CheckpointReader> reader;
  for (const Candidate& candidate : candidates) {
    try {
      if (!candidate.damage.empty()) throw DataError(candidate.damage);
      reader = open(root, candidate.iteration, verify);
    } catch (const DataError& error) {
      damages.emplace_back(error.what());
      continue;
    }
    const std::string damage = use ? use(*reader) : "";
    if (damage.empty()) break;
    damages.push_back(damage);
    reader.reset();
  }
  if (!candidates.empty() && !reader) {
    throw DataError(
        str_cat(root, ": none of its ", candidates.size(), " checkpoints is usable:\n  ", join(damages, "\n  ")));
  }
  for (const std::string& damage : damages) log_warn(str_cat("checkpoint skipped: ", damage));
  if (skipped != nullptr) skipped->insert(skipped->end(), damages.begin(), damages.end());
  const std::string hint_path = path_join(root, kLatestName);
  if (reader && path_exists(hint_path)) {
    const std::string hint(trim(read_file(hint_path, 4096)));
    const std::string name = iteration_name(reader->iteration());
    if (hint != name && damages.empty())
      log_warn(str_cat(hint_path, " names '", hint, "'; the newest commit is ", name));
  }
  return reader;
}

const StoredTensor* CheckpointReader::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &manifest_.tensors[found->second];
}

const StoredFile* CheckpointReader::find_file(const std::string& name) const {
  for (const StoredFile& file : manifest_.files) {
    if (file.name == name && !file.is_shard()) return &file;
  }
  return nullptr;
}

bool CheckpointReader::has_file(const std::string& name) const {
  return find_file(name) != nullptr;
}

void CheckpointReader::read(const TensorRecord& record, std::span<std::byte> out) const {
  read_box(record, whole_box(record.shape), out);
}

const StoredTensor& CheckpointReader::require(const TensorRecord& record, bool any_floating) const {
  const StoredTensor* tensor = find(record.name);
  if (tensor == nullptr) throw DataError(str_cat(folder_, ": has no tensor '", record.name, "'"));
  const TensorRecord& stored = tensor->record;
  const bool converts = any_floating && is_floating(stored.dtype) && is_floating(record.dtype);
  if ((stored.dtype != record.dtype && !converts) || stored.shape != record.shape) {
    throw DataError(str_cat(folder_, ": tensor '", record.name, "' is ", name_of(stored.dtype),
                            shape_text(stored.shape), ", ", name_of(record.dtype), shape_text(record.shape),
                            " is wanted"));
  }
  return *tensor;
}

void CheckpointReader::read_box(const TensorRecord& record, const Box& box, std::span<std::byte> out) const {
  const StoredTensor& tensor = require(record);
  const TensorRecord& stored = tensor.record;
  MEGATRON_CHECK(box.offset.size() == stored.shape.size() && box.extent.size() == stored.shape.size(),
                 "box of another rank for " + record.name);
  for (size_t i = 0; i < stored.shape.size(); ++i) {
    MEGATRON_CHECK(box.offset[i] >= 0 && box.extent[i] >= 0 && box.offset[i] + box.extent[i] <= stored.shape[i],
                   "box " + to_string(box) + " leaves " + record.name);
  }
  MEGATRON_CHECK(std::ssize(out) == element_count(box.extent) * size_of(stored.dtype),
                 str_cat("the buffer for ", record.name, " has ", out.size(), " bytes"));
  for (const Piece& piece : tensor.pieces) read_piece(tensor, piece, box, out);
}

void CheckpointReader::read_box_as(const TensorRecord& record, const Box& box, std::span<std::byte> out) const {
  const TensorRecord& stored = require(record, /*any_floating=*/true).record;
  if (stored.dtype == record.dtype) return read_box(record, box, out);
  const int64_t count = element_count(box.extent);
  std::vector<std::byte> bytes(static_cast<size_t>(count * size_of(stored.dtype)));
  read_box(stored, box, bytes);
  dispatch_floating("read_box_as", stored.dtype, [&](auto from) {
    dispatch_floating("read_box_as", record.dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      for (int64_t i = 0; i < count; ++i) {
        From value;
        std::memcpy(&value, bytes.data() + i * static_cast<int64_t>(sizeof value), sizeof value);
        const To rounded = static_cast<To>(static_cast<double>(value));
        std::memcpy(out.data() + i * static_cast<int64_t>(sizeof rounded), &rounded, sizeof rounded);
      }
    });
  });
}

void CheckpointReader::read_piece(const StoredTensor& tensor, const Piece& piece, const Box& box,
                                  std::span<std::byte> out) const {
  const std::optional<Box> common = intersect(piece.box, box);
  if (!common || piece.bytes == 0) return;
  const int64_t item = size_of(tensor.record.dtype);
  const int64_t chunk_bytes = manifest_.chunk_bytes;
  std::vector<Copy> copies;            // in the order of the piece's bytes
  std::vector<size_t> first_of_chunk;  // number of the first copy of each chunk that is needed
  for_each_run(*common, piece.box, box, [&](int64_t from_element, int64_t to_element, int64_t count) {
    int64_t from = from_element * item, to = to_element * item, left = count * item;
    while (left > 0) {
      const int64_t index = from / chunk_bytes, within = from - index * chunk_bytes;
      const int64_t part = std::min(left, chunk_bytes - within);
      if (copies.empty() || copies.back().chunk != index) first_of_chunk.push_back(copies.size());
      copies.push_back({index, within, to, part});
      from += part;
      to += part;
      left -= part;
    }
  });
  first_of_chunk.push_back(copies.size());
  const FileReader file(path_join(folder_, manifest_.files[static_cast<size_t>(piece.file)].name));
  for_each_chunk(std::ssize(first_of_chunk) - 1, [&](int64_t i, std::vector<std::byte>& buffer) {
    const size_t first = first_of_chunk[static_cast<size_t>(i)], end = first_of_chunk[static_cast<size_t>(i) + 1];
    const Chunk chunk = chunk_of(tensor, piece, copies[first].chunk, chunk_bytes);
    if (copies[first].bytes == chunk.bytes) {  // straight to its place
      return read_verified(file, chunk,
                           out.subspan(static_cast<size_t>(copies[first].to), static_cast<size_t>(chunk.bytes)));
    }
    buffer.resize(static_cast<size_t>(chunk.bytes));
    read_verified(file, chunk, buffer);
    for (size_t c = first; c < end; ++c) {
      std::memcpy(out.data() + copies[c].to, buffer.data() + copies[c].within, static_cast<size_t>(copies[c].bytes));
    }
  });
}

void CheckpointReader::for_each_chunk(int64_t count,
                                      const std::function<void(int64_t, std::vector<std::byte>&)>& body) const {
  const auto block = [&](int64_t begin, int64_t end) {
    std::vector<std::byte> buffer;
    for (int64_t i = begin; i < end; ++i) body(i, buffer);
  };
  if (pool_ == nullptr || count < 2) return block(0, count);
  constexpr int64_t kBlocksPerThread = 4;  // files differ in how long they take
  pool_->parallel_for(count, div_ceil(count, kBlocksPerThread * pool_->threads()), block);
}

std::string CheckpointReader::read_text(const std::string& name) const {
  const StoredFile* file = find_file(name);
  if (file == nullptr) throw DataError(str_cat(folder_, ": the checkpoint has no file '", name, "'"));
  std::string text(static_cast<size_t>(file->bytes), '\0');
  read_verified(FileReader(path_join(folder_, name)), {0, file->bytes, file->checksum, nullptr},
                std::as_writable_bytes(std::span(text)));
  return text;
}

const MetaValue& CheckpointReader::state_value(const std::string& key) const {
  const auto found = manifest_.state.find(key);
  if (found == manifest_.state.end()) throw DataError(str_cat(folder_, ": the state has no entry '", key, "'"));
  return found->second;
}

namespace {

template <typename T>
T typed(const MetaValue& value, const std::string& folder, const std::string& key) {
  if (const T* item = std::get_if<T>(&value)) return *item;
  throw DataError(str_cat(folder, ": the state entry '", key, "' has another type than this program expects"));
}

}  // namespace

int64_t CheckpointReader::state_int(const std::string& key) const {
  return typed<int64_t>(state_value(key), folder_, key);
}
double CheckpointReader::state_double(const std::string& key) const {
  return typed<double>(state_value(key), folder_, key);
}
bool CheckpointReader::state_bool(const std::string& key) const {
  return typed<bool>(state_value(key), folder_, key);
}
std::string CheckpointReader::state_string(const std::string& key) const {
  return typed<std::string>(state_value(key), folder_, key);
}

std::vector<std::string> CheckpointReader::find_damage(Verify verify, bool all) const {
  std::vector<std::string> damage;
  if (verify == Verify::kNothing) return damage;
  const std::vector<std::vector<Chunk>> chunks = chunks_by_file(manifest_);
  for (size_t i = 0; i < manifest_.files.size() && (all || damage.empty()); ++i) {
    const StoredFile& stored = manifest_.files[i];
    try {
      const FileReader file(path_join(folder_, stored.name));
      if (file.size() != stored.bytes) {
        throw DataError(str_cat(file.path(), ": has ", file.size(), " bytes, the manifest says ", stored.bytes,
                                file.size() < stored.bytes ? ": it is truncated" : ": it has grown"));
      }
      if (verify == Verify::kSizes) continue;
      std::vector<Chunk> wanted;
      for (size_t c = 0; c < chunks[i].size(); ++c) {
        const bool sampled =
            chunks[i][c].tensor == nullptr || c == 1 || c + 1 == chunks[i].size() || c % kSampleStride == 0;
        if (verify == Verify::kFull || sampled) wanted.push_back(chunks[i][c]);
      }
      std::vector<std::string> found(wanted.size());  // by chunk, so that reports have an order
      for_each_chunk(std::ssize(wanted), [&](int64_t c, std::vector<std::byte>& buffer) {
        const Chunk& chunk = wanted[static_cast<size_t>(c)];
        buffer.resize(static_cast<size_t>(chunk.bytes));
        file.read_at(chunk.at, buffer);
        if (xxh64(buffer) != chunk.checksum) found[static_cast<size_t>(c)] = damaged_chunk(file.path(), chunk);
      });
      for (std::string& place : found) {
        if (!place.empty() && (all || damage.empty())) damage.push_back(std::move(place));
      }
    } catch (const DataError& error) {
      damage.emplace_back(error.what());
    }
  }
  return damage;
}

}  // namespace megatron
