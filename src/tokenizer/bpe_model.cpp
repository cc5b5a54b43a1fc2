#include "tokenizer/bpe_model.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <queue>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr size_t kShort = 48;  // up to here looking through all pairs beats a heap
constexpr uint32_t kNoRank = 0xffffffffu;

}  // namespace

WordCache::Entry& WordCache::find(std::string_view word, bool& found) {
  std::array<uint64_t, 3> key{};
  std::memcpy(key.data(), word.data(), word.size());
  uint64_t hash = key[0] * 0x9e3779b97f4a7c15ull;
  hash = (hash ^ (hash >> 32) ^ key[1]) * 0xc2b2ae3d27d4eb4full;
  hash = (hash ^ (hash >> 29) ^ key[2] ^ (uint64_t{word.size()} << 56)) * 0x9e3779b97f4a7c15ull;
  Entry& entry = entries_[(hash >> 40) & (kEntries - 1)];
  found = entry.bytes == word.size() && entry.key == key;
  if (!found) {
    entry.bytes = 0;
    entry.key = key;
  }
  return entry;
}

BpeModel::BpeModel(const std::vector<std::string>& tokens, const std::vector<Merge>& merges, BpeOptions options,
                   std::string place)
    : merges_(merges.size()), options_(options), place_(std::move(place)) {
  byte_ids_.fill(-1);
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].size() == 1) byte_ids_[static_cast<uint8_t>(tokens[id][0])] = static_cast<TokenId>(id);
    if (options_.ignore_merges && !tokens[id].empty()) whole_.emplace(tokens[id], static_cast<TokenId>(id));
  }
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    merges_[pair_key(merges[rank].left, merges[rank].right)] = {static_cast<uint32_t>(rank), merges[rank].result};
  }
}

BpeModel::Ranked BpeModel::ranked(TokenId left, TokenId right) const {
  const Ranked* found = merges_.find(pair_key(left, right));
  return found == nullptr ? Ranked{kNoRank, -1} : *found;
}

void BpeModel::encode(std::string_view piece, WordCache& cache, std::vector<TokenId>& out) const {
  if (piece.size() > WordCache::kMaxBytes) return encode_uncached(piece, out);
  bool found = false;
  WordCache::Entry& entry = cache.find(piece, found);
  if (found) {
    out.insert(out.end(), entry.ids.data(), entry.ids.data() + entry.count);
    return;
  }
  const size_t before = out.size();
  encode_uncached(piece, out);
  const size_t count = out.size() - before;
  if (count > WordCache::kMaxIds) return;
  std::copy(out.end() - static_cast<ptrdiff_t>(count), out.end(), entry.ids.begin());
  entry.count = static_cast<uint8_t>(count);
  entry.bytes = static_cast<uint8_t>(piece.size());
}

void BpeModel::encode_uncached(std::string_view piece, std::vector<TokenId>& out) const {
  if (options_.ignore_merges) {
    if (const auto whole = whole_.find(std::string(piece)); whole != whole_.end()) {
      out.push_back(whole->second);
      return;
    }
  }
  if (piece.size() <= kShort) {
    std::array<TokenId, kShort> ids;
    const size_t count = merge_short(ids.data(), symbols(piece, ids.data()));
    out.insert(out.end(), ids.data(), ids.data() + count);
    return;
  }
  MEGATRON_CHECK(piece.size() < (size_t{1} << 31), "a piece of text of 2 GiB");
  std::vector<TokenId> ids(piece.size());
  ids.resize(symbols(piece, ids.data()));
  merge_long(ids);
  out.insert(out.end(), ids.begin(), ids.end());
}

/// One id per byte into ids[0, piece.size()); returns how many (fewer where unknown bytes are fused).
size_t BpeModel::symbols(std::string_view piece, TokenId* ids) const {
  size_t count = 0;
  bool after_unknown = false;
  for (char byte : piece) {
    TokenId id = byte_ids_[static_cast<uint8_t>(byte)];
    const bool is_unknown = id < 0;
    if (is_unknown) {
      if (!options_.unknown) {
        throw DataError(
            str_cat(place_, ": the vocabulary has no token for the byte ", static_cast<int>(static_cast<uint8_t>(byte)),
                    ", which stands in the text. Use a vocabulary with all 256 bytes, as `megatron tokenizer "
                    "train` writes it"));
      }
      id = *options_.unknown;
    }
    if (!(is_unknown && after_unknown && options_.fuse_unknown)) ids[count++] = id;
    after_unknown = is_unknown;
  }
  return count;
}

size_t BpeModel::merge_short(TokenId* ids, size_t count) const {
  std::array<Ranked, kShort> pairs;  // pairs[i]: what (i, i + 1) would become
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = ranked(ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNoRank) break;
    ids[best] = pairs[best].result;
    std::copy(ids + best + 2, ids + count, ids + best + 1);
    std::copy(pairs.begin() + static_cast<ptrdiff_t>(best) + 1, pairs.begin() + static_cast<ptrdiff_t>(count) - 1,
              pairs.begin() + static_cast<ptrdiff_t>(best));
    --count;
    if (best > 0) pairs[best - 1] = ranked(ids[best - 1], ids[best]);
    if (best + 1 < count) pairs[best] = ranked(ids[best], ids[best + 1]);
  }
  return count;
}

/// A heap of (rank, place) over a linked list. An entry whose pair has changed since is told by its rank: the text that
/// a place covers only grows, so the same rank never comes back to it.
void BpeModel::merge_long(std::vector<TokenId>& ids) const {
  const size_t count = ids.size();
  const auto none = static_cast<uint32_t>(count);
  std::vector<uint32_t> next(count), previous(count);
  std::vector<Ranked> pairs(count);
  std::vector<uint64_t> initial;
  initial.reserve(count);
  const auto entry = [](uint32_t rank, uint32_t place) { return (uint64_t{rank} << 32) | place; };
  for (uint32_t i = 0; i < none; ++i) {
    next[i] = i + 1;
    previous[i] = i == 0 ? none : i - 1;
    pairs[i] = i + 1 < none ? ranked(ids[i], ids[i + 1]) : Ranked{kNoRank, -1};
    if (pairs[i].rank != kNoRank) initial.push_back(entry(pairs[i].rank, i));
  }
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> heap({}, std::move(initial));
  const auto renew = [&](uint32_t place) {
    pairs[place] = next[place] < none ? ranked(ids[place], ids[next[place]]) : Ranked{kNoRank, -1};
    if (pairs[place].rank != kNoRank) heap.push(entry(pairs[place].rank, place));
  };
  while (!heap.empty()) {
    const auto rank = static_cast<uint32_t>(heap.top() >> 32), place = static_cast<uint32_t>(heap.top());
    heap.pop();
    if (pairs[place].rank != rank) continue;
    const uint32_t gone = next[place];
    ids[place] = pairs[place].result;
    next[place] = next[gone];
    if (next[gone] < none) previous[next[gone]] = place;
    pairs[gone].rank = kNoRank;
    renew(place);
    if (previous[place] != none) renew(previous[place]);
  }
  size_t kept = 0;
  for (uint32_t i = 0; i < none; i = next[i]) ids[kept++] = ids[i];
  ids.resize(kept);
}

}  // namespace megatron
