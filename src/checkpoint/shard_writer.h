// Turns tensors in memory into safetensors shards of bounded size. Each rank of a job can write its own shards into the
// same staging folder; the results are then joined into one manifest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/file_io.h"
#include "checkpoint/manifest.h"

namespace megatron {

/// A box of a global tensor, and where its row-major bytes are. Either `data` views them, or `read` copies `out.size()`
/// bytes from byte `offset` of the box on (device memory, for example); several threads may call it. Both must stay
/// valid until the save returns.
struct TensorSource {
  TensorRecord record;
  Box box;
  std::span<const std::byte> data;
  std::function<void(int64_t offset, std::span<std::byte> out)> read;
  const void* on_device = nullptr;  ///< beside `read`: the device address of the bytes, for who copies them himself
};

/// The whole of a tensor that lies in host memory.
TensorSource whole_tensor(TensorRecord record, std::span<const std::byte> data);

/// What a rank wrote. `Piece::file` counts from 0 within `files`.
struct ShardSet {
  std::vector<StoredFile> files;
  std::vector<StoredTensor> tensors;  ///< pieces of this rank only
};

/// Bytes of all sources together.
int64_t total_bytes(const std::vector<TensorSource>& sources);

/// Writes `sources` to files shard-<rank>-<number>.safetensors in `folder` and makes them durable. A shard is closed
/// before it would exceed `shard_bytes`; larger boxes are cut along their first dimension. Up to `threads` shards are
/// written at a time, each holding one chunk in memory; what is written does not depend on their number.
ShardSet write_shards(const std::string& folder, int rank, const std::vector<TensorSource>& sources,
                      int64_t shard_bytes, int64_t chunk_bytes, FileOps& ops, int threads = 1);

}  // namespace megatron
