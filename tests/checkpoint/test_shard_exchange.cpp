// What ranks tell each other of the shards that they wrote.
#include "base/error.h"
#include "checkpoint/shard_exchange.h"
#include "tests/catch.h"

namespace megatron {
namespace {

/// Rows [first, first + rows) of a 6 x 4 tensor "w", and a tensor of its own.
ShardSet part(int64_t first, int64_t rows, const std::string& own) {
  ShardSet set;
  set.files = {{own + ".safetensors", 100 + first, 64, 0xfedcba9876543210ull}, {own + "-2.safetensors", 9, 8, 7}};
  const TensorRecord record{"w", StateKind::kOptimizer, DType::kBF16, {6, 4}};
  set.tensors.push_back({record, {{{{first, 0}, {rows, 4}}, 1, 64, rows * 8, {~0ull, 3}}}});
  set.tensors.push_back({{own, StateKind::kParameter, DType::kF64, {}}, {{{{}, {}}, 0, 72, 8, {5}}}});
  return set;
}

}  // namespace

TEST_CASE("shards of a rank come back from their text") {
  const ShardSet set = part(2, 3, "a"), back = decode_shards(encode_shards(set));
  CHECK(encode_shards(back) == encode_shards(set));
  REQUIRE(back.files.size() == 2);
  CHECK(back.files[0].name == "a.safetensors");
  CHECK(back.files[0].checksum == 0xfedcba9876543210ull);
  REQUIRE(back.tensors.size() == 2);
  const StoredTensor& w = back.tensors[0];
  CHECK(w.record.kind == StateKind::kOptimizer);
  CHECK(w.record.dtype == DType::kBF16);
  CHECK(w.record.shape == std::vector<int64_t>{6, 4});
  REQUIRE(w.pieces.size() == 1);
  CHECK((w.pieces[0].box == Box{{2, 0}, {3, 4}}));
  CHECK(w.pieces[0].file == 1);
  CHECK(w.pieces[0].at == 64);
  CHECK(w.pieces[0].bytes == 24);
  CHECK(w.pieces[0].checksums == std::vector<uint64_t>{~0ull, 3});
  CHECK(back.tensors[1].record.shape.empty());
  for (const char* text : {"", "[]", "[[],[[1,2,3]]]", "{}"}) CHECK_THROWS_AS(decode_shards(text), DataError);
}

TEST_CASE("shards of several ranks are joined by tensor, and files are counted on") {
  const ShardSet whole = join_shards({part(0, 2, "a"), part(2, 4, "b")});
  REQUIRE(whole.files.size() == 4);
  CHECK(whole.files[2].name == "b.safetensors");
  REQUIRE(whole.tensors.size() == 3);
  REQUIRE(whole.tensors[0].pieces.size() == 2);
  CHECK(whole.tensors[0].pieces[0].file == 1);
  CHECK(whole.tensors[0].pieces[1].file == 3);
  CHECK(whole.tensors[2].record.name == "b");
  CHECK(whole.tensors[2].pieces[0].file == 2);
  ShardSet other = part(2, 4, "b");
  other.tensors[0].record.dtype = DType::kF32;
  CHECK_THROWS_AS(join_shards({part(0, 2, "a"), other}), InternalError);
}

}  // namespace megatron
