#include "tokenizer/bpe_tokenizer.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/strings.h"
#include "tokenizer/unicode.h"

namespace megatron {
namespace {

/// Feeds values to a hash so that no two different sequences look alike.
class Digest {
 public:
  void add(std::string_view text) {
    add(text.size());
    hash_.update(std::as_bytes(std::span(text)));
  }
  void add(uint64_t value) { hash_.update(std::as_bytes(std::span(&value, 1))); }
  uint64_t value() const { return hash_.digest(); }

 private:
  Xxh64 hash_;
};

/// Does not depend on the file format the definition came from, nor on what only post-processing adds.
uint64_t fingerprint_of(const BpeDefinition& d) {
  Digest digest;
  digest.add("byte-level BPE");
  digest.add(d.tokens.size());
  for (size_t id = 0; id < d.tokens.size(); ++id) {
    digest.add(d.tokens[id]);
    digest.add(d.mergeable[id]);
  }
  digest.add(d.merges.size());
  for (const Merge& merge : d.merges) {
    digest.add(pair_key(merge.left, merge.right));
    digest.add(static_cast<uint64_t>(merge.result));
  }
  digest.add(d.added.size());
  for (const AddedToken& token : d.added) {
    digest.add(static_cast<uint64_t>(token.id));
    digest.add(token.content);
    digest.add(uint64_t{token.single_word} | uint64_t{token.lstrip} << 1 | uint64_t{token.rstrip} << 2 |
               uint64_t{token.normalized} << 3);
  }
  digest.add(d.steps.size());
  for (const PreTokenizerStep& step : d.steps) digest.add(step.description);
  digest.add(uint64_t{d.nfc} | uint64_t{d.options.ignore_merges} << 1 | uint64_t{d.options.fuse_unknown} << 2);
  digest.add(static_cast<uint64_t>(d.options.unknown.value_or(-1)));
  digest.add(static_cast<uint64_t>(d.eod.value_or(-1)));
  return digest.value();
}

/// Bytes by id of the tokens that take part in merges; the others empty.
std::vector<std::string> merge_vocabulary(const BpeDefinition& d) {
  std::vector<std::string> tokens(d.tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (d.mergeable[id]) tokens[id] = d.tokens[id];
  }
  return tokens;
}

std::vector<AddedToken> added_tokens(const BpeDefinition& d, bool normalized) {
  std::vector<AddedToken> result;
  for (AddedToken token : d.added) {
    // Without a normaliser too, the two kinds are looked for one after the other.
    if (token.normalized != normalized) continue;
    if (normalized && d.nfc) token.content = normalize_nfc(token.content);
    result.push_back(std::move(token));
  }
  return result;
}

}  // namespace

BpeTokenizer::BpeTokenizer(BpeDefinition d)
    : source_(d.source),
      prefix_(d.prefix),
      suffix_(d.suffix),
      eod_(d.eod),
      pad_(d.pad),
      nfc_(d.nfc),
      fingerprint_(fingerprint_of(d)),
      model_(merge_vocabulary(d), d.merges, d.options, d.source),
      added_raw_(added_tokens(d, false)),
      added_normalized_(added_tokens(d, true)),
      pre_tokenizer_(d.steps),
      scanner_(pre_tokenizer_.only_scanner()) {
  tokens_ = std::move(d.tokens);
}

BpeTokenizer::~BpeTokenizer() = default;

std::unique_ptr<WordCache> BpeTokenizer::take_cache() const {
  {
    const std::lock_guard lock(mutex_);
    if (!caches_.empty()) {
      std::unique_ptr<WordCache> cache = std::move(caches_.back());
      caches_.pop_back();
      return cache;
    }
  }
  return std::make_unique<WordCache>();
}

void BpeTokenizer::give_cache(std::unique_ptr<WordCache> cache) const {
  const std::lock_guard lock(mutex_);
  caches_.push_back(std::move(cache));
}

std::vector<TokenId> BpeTokenizer::encode(std::string_view text) const {
  std::vector<TokenId> ids;
  encode_into(text, ids);
  return ids;
}

std::vector<TokenId> BpeTokenizer::encode_with_special_tokens(std::string_view text) const {
  std::vector<TokenId> ids = prefix_;
  encode_into(text, ids);
  ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  return ids;
}

void BpeTokenizer::encode_into(std::string_view text, std::vector<TokenId>& out) const {
  out.reserve(out.size() + text.size() / 4 + 4);
  std::unique_ptr<WordCache> cache = take_cache();
  std::vector<TextSegment> segments;
  added_raw_.split(text, segments);
  for (const TextSegment& segment : segments) {
    if (segment.id >= 0) {
      out.push_back(segment.id);
    } else if (nfc_ && !is_ascii(segment.text)) {
      encode_normalized(normalize_nfc(segment.text), *cache, out);
    } else {
      encode_normalized(segment.text, *cache, out);
    }
  }
  give_cache(std::move(cache));
}

void BpeTokenizer::encode_normalized(std::string_view text, WordCache& cache, std::vector<TokenId>& out) const {
  if (added_normalized_.empty()) return encode_pieces(text, cache, out);
  std::vector<TextSegment> segments;
  added_normalized_.split(text, segments);
  for (const TextSegment& segment : segments) {
    if (segment.id >= 0) {
      out.push_back(segment.id);
    } else {
      encode_pieces(segment.text, cache, out);
    }
  }
}

void BpeTokenizer::encode_pieces(std::string_view text, WordCache& cache, std::vector<TokenId>& out) const {
  if (scanner_ != nullptr) {
    const char* end = text.data() + text.size();
    for (const char* p = text.data(); p < end;) {
      const char* stop = scanner_(p, end);
      model_.encode({p, static_cast<size_t>(stop - p)}, cache, out);
      p = stop;
    }
    return;
  }
  Pieces pieces;
  pre_tokenizer_.split(text, pieces);
  for (std::string_view piece : pieces.list) model_.encode(piece, cache, out);
}

std::string BpeTokenizer::token_bytes(TokenId id) const {
  if (id < 0 || id >= vocab_size()) {
    throw DataError(str_cat("id ", id, " is outside the vocabulary of ", source_, " (", vocab_size(),
                            " ids). Decode with the tokenizer that made the ids"));
  }
  if (tokens_[static_cast<size_t>(id)].empty()) {
    throw DataError(str_cat("id ", id, " has no token in ", source_, ". Decode with the tokenizer that made the ids"));
  }
  return tokens_[static_cast<size_t>(id)];
}

}  // namespace megatron
