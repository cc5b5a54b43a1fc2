#include "checkpoint/shard_writer.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/strings.h"
#include "base/thread_pool.h"
#include "checkpoint/safetensors.h"

namespace megatron {
namespace {

/// A box of a source that goes to the file as one: contiguous bytes of the source, from byte `begin`.
struct Part {
  const TensorSource* source = nullptr;
  Box box;
  int64_t begin = 0, bytes = 0;
};

int64_t box_bytes(const TensorSource& source) {
  return element_count(source.box.extent) * size_of(source.record.dtype);
}

/// Cuts a box along its first dimension that can be cut, so that each part stays contiguous in memory.
void append_parts(const TensorSource& source, int64_t shard_bytes, std::vector<Part>& parts) {
  const int64_t bytes = box_bytes(source);
  const auto cut = std::find_if(source.box.extent.begin(), source.box.extent.end(), [](int64_t n) { return n != 1; });
  if (bytes <= shard_bytes || cut == source.box.extent.end()) {
    parts.push_back({&source, source.box, 0, bytes});
    return;
  }
  const auto dim = static_cast<size_t>(cut - source.box.extent.begin());
  const int64_t row_bytes = bytes / *cut;
  const int64_t rows = std::max<int64_t>(1, shard_bytes / row_bytes);
  for (int64_t row = 0; row < *cut; row += rows) {
    Part part{&source, source.box, row * row_bytes, std::min(rows, *cut - row) * row_bytes};
    part.box.offset[dim] += row;
    part.box.extent[dim] = std::min(rows, *cut - row);
    parts.push_back(std::move(part));
  }
}

std::vector<std::vector<Part>> plan_shards(const std::vector<TensorSource>& sources, int64_t shard_bytes) {
  std::vector<Part> parts;
  for (const TensorSource& source : sources) append_parts(source, shard_bytes, parts);
  std::vector<std::vector<Part>> shards;
  int64_t filled = 0;
  for (Part& part : parts) {
    if (shards.empty() || filled + part.bytes > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    filled += part.bytes;
    shards.back().push_back(std::move(part));
  }
  for (auto& shard : shards) {  // wide types first keeps every tensor aligned to its element
    std::stable_sort(shard.begin(), shard.end(), [](const Part& a, const Part& b) {
      return size_of(a.source->record.dtype) > size_of(b.source->record.dtype);
    });
  }
  return shards;
}

std::string entry_name(const Part& part) {
  const TensorRecord& record = part.source->record;
  return part.box == whole_box(record.shape) ? record.name : record.name + to_string(part.box);
}

std::string shard_name(int rank, size_t number) {
  char name[64];
  std::snprintf(name, sizeof name, "shard-%05d-%05zu.safetensors", rank, number);
  return name;
}

/// Hashes and writes one part. What is hashed is the very memory that is written.
std::vector<uint64_t> write_part(const Part& part, int64_t chunk_bytes, std::vector<std::byte>& buffer,
                                 SafetensorsWriter& writer) {
  std::vector<uint64_t> checksums;
  for (int64_t done = 0; done < part.bytes; done += chunk_bytes) {
    const auto size = static_cast<size_t>(std::min(chunk_bytes, part.bytes - done));
    std::span<const std::byte> chunk;
    if (part.source->read) {
      buffer.resize(size);
      part.source->read(part.begin + done, buffer);
      chunk = buffer;
    } else {
      chunk = part.source->data.subspan(static_cast<size_t>(part.begin + done), size);
    }
    checksums.push_back(xxh64(chunk));
    writer.append(chunk);
  }
  return checksums;
}

struct WrittenShard {
  int64_t bytes = 0, header_bytes = 0;
  uint64_t checksum = 0;
  std::vector<Piece> pieces;  ///< of its parts, in their order; `file` is not set
};

WrittenShard write_shard(const std::string& path, const std::vector<Part>& parts, int64_t chunk_bytes, FileOps& ops) {
  std::vector<SafetensorsEntry> entries;
  for (const Part& part : parts) {
    entries.push_back({entry_name(part), std::string(safetensors_dtype(part.source->record.dtype)), part.box.extent});
  }
  SafetensorsWriter writer(path, std::move(entries), {{"format", "pt"}}, ops);
  WrittenShard shard;
  std::vector<std::byte> buffer;
  for (size_t i = 0; i < parts.size(); ++i) {
    shard.pieces.push_back({parts[i].box, 0, writer.entries()[i].offset, parts[i].bytes,
                            write_part(parts[i], chunk_bytes, buffer, writer)});
  }
  writer.finish();
  shard.bytes = writer.total_bytes();
  shard.header_bytes = writer.header_bytes();
  shard.checksum = writer.header_checksum();
  return shard;
}

void check_source(const TensorSource& source) {
  const TensorRecord& record = source.record;
  MEGATRON_CHECK(source.box.offset.size() == record.shape.size() && source.box.extent.size() == record.shape.size(),
                 "the box of " + record.name + " has another rank than the tensor");
  for (size_t i = 0; i < record.shape.size(); ++i) {
    MEGATRON_CHECK(source.box.offset[i] >= 0 && source.box.extent[i] >= 0 &&
                       source.box.offset[i] + source.box.extent[i] <= record.shape[i],
                   "the box " + to_string(source.box) + " leaves " + record.name);
  }
  MEGATRON_CHECK(source.read || std::ssize(source.data) == box_bytes(source),
                 str_cat(record.name, ": ", source.data.size(), " bytes are given for ", box_bytes(source)));
}

}  // namespace

TensorSource whole_tensor(TensorRecord record, std::span<const std::byte> data) {
  Box box = whole_box(record.shape);
  return {std::move(record), std::move(box), data, nullptr};
}

int64_t total_bytes(const std::vector<TensorSource>& sources) {
  int64_t bytes = 0;
  for (const TensorSource& source : sources) bytes += box_bytes(source);
  return bytes;
}

ShardSet write_shards(const std::string& folder, int rank, const std::vector<TensorSource>& sources,
                      int64_t shard_bytes, int64_t chunk_bytes, FileOps& ops, int threads) {
  ShardSet set;
  std::map<std::string, size_t> index;
  for (const TensorSource& source : sources) {
    check_source(source);
    if (index.emplace(source.record.name, set.tensors.size()).second) set.tensors.push_back({source.record, {}});
  }
  const std::vector<std::vector<Part>> shards = plan_shards(sources, shard_bytes);
  std::vector<WrittenShard> written(shards.size());
  ThreadPool pool(static_cast<int>(std::clamp<int64_t>(threads, 1, std::max<int64_t>(1, std::ssize(shards)))));
  pool.parallel_for(std::ssize(shards), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto number = static_cast<size_t>(i);
      written[number] = write_shard(path_join(folder, shard_name(rank, number)), shards[number], chunk_bytes, ops);
    }
  });
  for (size_t i = 0; i < shards.size(); ++i) {
    set.files.push_back({shard_name(rank, i), written[i].bytes, written[i].header_bytes, written[i].checksum});
    for (size_t p = 0; p < shards[i].size(); ++p) {
      Piece& piece = written[i].pieces[p];
      piece.file = static_cast<int64_t>(i);
      set.tensors[index.at(shards[i][p].source->record.name)].pieces.push_back(std::move(piece));
    }
  }
  return set;
}

}  // namespace megatron
