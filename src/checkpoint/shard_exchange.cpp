#include "checkpoint/shard_exchange.h"

#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

using nlohmann::json;

json to_json(const StoredTensor& tensor) {
  json pieces = json::array();
  for (const Piece& p : tensor.pieces) {
    pieces.push_back({p.box.offset, p.box.extent, p.file, p.at, p.bytes, p.checksums});
  }
  const TensorRecord& r = tensor.record;
  return {r.name, static_cast<int>(r.kind), static_cast<int>(r.dtype), r.shape, std::move(pieces)};
}

StoredTensor tensor_from(const json& value) {
  StoredTensor tensor;
  tensor.record = {value.at(0).get<std::string>(), static_cast<StateKind>(value.at(1).get<int>()),
                   static_cast<DType>(value.at(2).get<int>()), value.at(3).get<std::vector<int64_t>>()};
  for (const json& p : value.at(4)) {
    tensor.pieces.push_back({{p.at(0).get<std::vector<int64_t>>(), p.at(1).get<std::vector<int64_t>>()},
                             p.at(2).get<int64_t>(),
                             p.at(3).get<int64_t>(),
                             p.at(4).get<int64_t>(),
                             p.at(5).get<std::vector<uint64_t>>()});
  }
  return tensor;
}

bool same(const TensorRecord& a, const TensorRecord& b) {
  return a.name == b.name && a.kind == b.kind && a.dtype == b.dtype && a.shape == b.shape;
}

}  // namespace

std::string encode_shards(const ShardSet& shards) {
  json files = json::array(), tensors = json::array();
  for (const StoredFile& f : shards.files) files.push_back({f.name, f.bytes, f.header_bytes, f.checksum});
  for (const StoredTensor& tensor : shards.tensors) tensors.push_back(to_json(tensor));
  return json::array({std::move(files), std::move(tensors)}).dump();
}

ShardSet decode_shards(const std::string& text) {
  try {
    const json all = json::parse(text);
    ShardSet shards;
    for (const json& f : all.at(0)) {
      shards.files.push_back(
          {f.at(0).get<std::string>(), f.at(1).get<int64_t>(), f.at(2).get<int64_t>(), f.at(3).get<uint64_t>()});
    }
    for (const json& tensor : all.at(1)) shards.tensors.push_back(tensor_from(tensor));
    return shards;
  } catch (const json::exception& error) {
    throw DataError(str_cat("a rank described its part of a checkpoint in a way that cannot be read: ", error.what()));
  }
}

ShardSet join_shards(std::vector<ShardSet> sets) {
  ShardSet whole;
  std::map<std::string, size_t> index;
  for (ShardSet& set : sets) {
    const int64_t files_before = std::ssize(whole.files);
    for (StoredFile& file : set.files) whole.files.push_back(std::move(file));
    for (StoredTensor& tensor : set.tensors) {
      for (Piece& piece : tensor.pieces) piece.file += files_before;
      const auto [found, is_new] = index.emplace(tensor.record.name, whole.tensors.size());
      if (is_new) {
        whole.tensors.push_back(std::move(tensor));
        continue;
      }
      StoredTensor& known = whole.tensors[found->second];
      MEGATRON_CHECK(same(known.record, tensor.record), "ranks describe " + tensor.record.name + " differently");
      for (Piece& piece : tensor.pieces) known.pieces.push_back(std::move(piece));
    }
  }
  return whole;
}

}  // namespace megatron
