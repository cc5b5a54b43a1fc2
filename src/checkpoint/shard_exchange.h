// What several ranks wrote of one checkpoint, on its way to the one that writes the manifest.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/shard_writer.h"

namespace megatron {

/// A ShardSet as text, and back: decode(encode(s)) equals s. DataError when the text is no such thing.
std::string encode_shards(const ShardSet& shards);
ShardSet decode_shards(const std::string& text);

/// All files and pieces together, in the order of `sets`; pieces of one tensor come under one name. InternalError when
/// two sets describe a tensor differently.
ShardSet join_shards(std::vector<ShardSet> sets);

}  // namespace megatron
