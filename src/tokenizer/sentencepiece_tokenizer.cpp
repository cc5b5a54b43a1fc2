#include "tokenizer/sentencepiece_tokenizer.h"

#include <cfloat>
#include <queue>

#include "base/error.h"
#include "base/hash.h"
#include "base/strings.h"
#include "tokenizer/unicode.h"

namespace megatron {
namespace {

/// Text can become such a piece.
bool is_text(PieceKind kind) {
  return kind == PieceKind::kNormal || kind == PieceKind::kUserDefined || kind == PieceKind::kUnused;
}

PrefixIndex index_of(const SentencePieceDefinition& d, bool user_defined_alone) {
  std::vector<std::pair<std::string, TokenId>> words;
  for (size_t id = 0; id < d.pieces.size(); ++id) {
    const PieceKind kind = d.pieces[id].kind;
    if (user_defined_alone ? kind != PieceKind::kUserDefined : !is_text(kind)) continue;
    words.emplace_back(d.pieces[id].text, static_cast<TokenId>(id));
  }
  return PrefixIndex(std::move(words));
}

uint64_t fingerprint_of(const SentencePieceDefinition& d) {
  std::string text =
      str_cat("SentencePiece ", static_cast<int>(d.algorithm), d.byte_fallback, d.suffix_instead, d.collapse_spaces,
              d.mark_spaces, static_cast<int>(d.dummy_prefix), d.by_rank, d.skip_prefix_before_mark, d.ignore_merges,
              d.fuse_unknown, " ", d.unknown, " ", d.end.value_or(-1), " ", xxh64(d.charsmap), " ");
  const auto add = [&](const auto& value) { text.append(reinterpret_cast<const char*>(&value), sizeof value); };
  for (const SentencePiece& piece : d.pieces) {
    add(piece.text.size());
    text += piece.text;
    add(piece.score);
    add(piece.kind);
  }
  for (const Merge& merge : d.merges) {
    add(pair_key(merge.left, merge.right));
    add(merge.result);
  }
  for (const AddedToken& token : d.added) {
    text += str_cat(" ", token.id, " ", token.content.size(), " ", token.content, token.single_word, token.lstrip,
                    token.rstrip, token.normalized);
  }
  return xxh64(text);
}

/// No piece goes on over the beginning of a word, so that words can be merged one by one.
bool words_stand_alone(const SentencePieceDefinition& d) {
  for (const SentencePiece& piece : d.pieces) {
    if (!is_text(piece.kind)) continue;
    size_t leading = 0;
    while (std::string_view(piece.text).substr(leading).starts_with(kSpaceMark)) leading += kSpaceMark.size();
    if (piece.text.find(kSpaceMark, leading) != std::string::npos) return false;
  }
  return true;
}

constexpr float kUnknownPenalty = 10;

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(SentencePieceDefinition definition)
    : d_(std::move(definition)),
      fingerprint_(fingerprint_of(d_)),
      user_defined_(index_of(d_, true)),
      all_(index_of(d_, false)),
      normalizer_(d_, user_defined_),
      cut_at_marks_(words_stand_alone(d_)) {
  float least = FLT_MAX;
  most_score_ = FLT_MIN;  // as the library starts, although scores are negative
  for (size_t i = 0; i < d_.pieces.size(); ++i) {
    const SentencePiece& piece = d_.pieces[i];
    const auto id = static_cast<TokenId>(i);
    if (is_text(piece.kind)) ids_[piece.text] = id;
    if (piece.kind == PieceKind::kByte) bytes_[piece_byte(piece.text).value()] = id;
    if (piece.kind != PieceKind::kNormal) continue;
    least = std::min(least, piece.score);
    most_score_ = std::max(most_score_, piece.score);
  }
  unknown_score_ = least - kUnknownPenalty;
  for (size_t rank = 0; rank < d_.merges.size(); ++rank) {
    const Merge& merge = d_.merges[rank];
    const uint64_t key = pair_key(merge.left, merge.right);
    if (ranks_.find(key) == nullptr) ranks_[key] = static_cast<int32_t>(rank);
  }
  std::vector<AddedToken> raw, normalized;
  for (AddedToken token : d_.added) {
    if (token.normalized) token.content = normalizer_.normalize(token.content);
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  added_raw_ = AddedTokenMatcher(std::move(raw));
  added_normalized_ = AddedTokenMatcher(std::move(normalized));
}

TokenId SentencePieceTokenizer::find(std::string_view text) const {
  const auto found = ids_.find(text);
  return found == ids_.end() ? -1 : found->second;
}

std::vector<TokenId> SentencePieceTokenizer::encode(std::string_view text) const {
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 3 + 4);
  if (added_raw_.empty()) {
    encode_segment(text, true, ids);
    return ids;
  }
  std::vector<TextSegment> segments;
  added_raw_.split(text, segments);
  for (const TextSegment& segment : segments) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
    } else {
      encode_segment(segment.text, segment.text.data() == text.data(), ids);
    }
  }
  return ids;
}

std::vector<TokenId> SentencePieceTokenizer::encode_with_special_tokens(std::string_view text) const {
  std::vector<TokenId> ids = d_.prefix;
  const std::vector<TokenId> inner = encode(text);
  ids.insert(ids.end(), inner.begin(), inner.end());
  ids.insert(ids.end(), d_.suffix.begin(), d_.suffix.end());
  return ids;
}

void SentencePieceTokenizer::encode_segment(std::string_view text, bool first, std::vector<TokenId>& out) const {
  const std::string normalized = normalizer_.normalize(text, first);
  if (added_normalized_.empty()) return encode_normalized(normalized, out);
  std::vector<TextSegment> segments;
  added_normalized_.split(normalized, segments);
  for (const TextSegment& segment : segments) {
    if (segment.id >= 0) {
      out.push_back(segment.id);
    } else {
      encode_normalized(segment.text, out);
    }
  }
}

void SentencePieceTokenizer::encode_normalized(std::string_view text, std::vector<TokenId>& out) const {
  if (text.empty()) return;
  std::vector<Cut> cuts;
  if (d_.ignore_merges && find(text) >= 0) {
    cuts.push_back({text, find(text)});
  } else if (d_.algorithm == SentencePieceDefinition::Algorithm::kUnigram) {
    cut_likeliest(text, cuts);
  } else if (!cut_at_marks_) {
    merge(text, cuts);
  } else {
    for (size_t from = 0; from < text.size();) {  // word by word; a word begins with its marks
      size_t to = from;
      while (text.substr(to).starts_with(kSpaceMark)) to += kSpaceMark.size();
      to = std::min(text.find(kSpaceMark, to), text.size());
      merge(text.substr(from, to - from), cuts);
      from = to;
    }
  }
  append(cuts, out);
}

bool SentencePieceTokenizer::find_pair(const Cut& left, const Cut& right, Pair& pair) const {
  if (d_.by_rank) {
    if (left.id < 0 || right.id < 0) return false;
    const int32_t* rank = ranks_.find(pair_key(left.id, right.id));
    if (rank == nullptr) return false;
    pair = {d_.merges[static_cast<size_t>(*rank)].result, -static_cast<float>(*rank)};
    return true;
  }
  const auto found = ids_.find({left.text.data(), left.text.size() + right.text.size()});
  if (found == ids_.end()) return false;
  pair = {found->second, d_.pieces[static_cast<size_t>(found->second)].score};
  return true;
}

std::vector<SentencePieceTokenizer::Symbol> SentencePieceTokenizer::characters(std::string_view text) const {
  std::vector<Symbol> symbols;
  for (size_t at = 0; at < text.size();) {
    const size_t fixed = user_defined_.longest(text.substr(at));
    const size_t size = fixed > 0 ? fixed : decode_utf8(text.data() + at, text.data() + text.size()).length;
    const auto index = static_cast<int32_t>(symbols.size());
    const std::string_view part = text.substr(at, size);
    symbols.push_back({{part, find(part)}, index - 1, index + 1, fixed > 0});
    at += size;
  }
  symbols.back().behind = -1;
  return symbols;
}

/// Joins neighbours as long as that makes a piece, the pair of the highest score first and the leftmost of equals.
void SentencePieceTokenizer::merge(std::string_view text, std::vector<Cut>& cuts) const {
  struct Candidate {
    float score;
    int32_t left, right;
    size_t bytes;
    TokenId result;
    bool operator<(const Candidate& o) const { return score != o.score ? score < o.score : left > o.left; }
  };
  std::vector<Symbol> symbols = characters(text);
  std::priority_queue<Candidate> agenda;
  std::unordered_map<std::string_view, size_t> halves;  // of pieces that are not used: the size of the left one
  const auto propose = [&](int32_t l, int32_t r) {
    if (l < 0 || r < 0) return;
    const Symbol &left = symbols[static_cast<size_t>(l)], &right = symbols[static_cast<size_t>(r)];
    Pair pair{};
    if (left.fixed || right.fixed || !find_pair(left.cut, right.cut, pair)) return;
    const size_t bytes = left.cut.text.size() + right.cut.text.size();
    agenda.push({pair.score, l, r, bytes, pair.result});
    if (d_.pieces[static_cast<size_t>(pair.result)].kind == PieceKind::kUnused) {
      halves[{left.cut.text.data(), bytes}] = left.cut.text.size();
    }
  };
  for (int32_t i = 1; i < std::ssize(symbols); ++i) propose(i - 1, i);
  while (!agenda.empty()) {
    const Candidate top = agenda.top();
    agenda.pop();
    Symbol &left = symbols[static_cast<size_t>(top.left)], &right = symbols[static_cast<size_t>(top.right)];
    const bool gone =
        left.cut.text.empty() || right.cut.text.empty() || left.cut.text.size() + right.cut.text.size() != top.bytes;
    if (gone) continue;
    left.cut = {{left.cut.text.data(), top.bytes}, top.result};
    left.behind = right.behind;
    if (right.behind >= 0) symbols[static_cast<size_t>(right.behind)].before = top.left;
    right.cut.text = {};
    propose(left.before, top.left);
    propose(top.left, left.behind);
  }
  const auto take = [&](const auto& self, const Cut& cut) -> void {
    const bool unused = cut.id >= 0 && d_.pieces[static_cast<size_t>(cut.id)].kind == PieceKind::kUnused;
    const auto half = unused ? halves.find(cut.text) : halves.end();
    if (half == halves.end()) {
      cuts.push_back(cut);
      return;
    }
    for (const std::string_view part : {cut.text.substr(0, half->second), cut.text.substr(half->second)}) {
      self(self, {part, find(part)});
    }
  };
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].behind)
    take(take, symbols[static_cast<size_t>(i)].cut);
}

/// The cut whose pieces have the highest sum of scores (Viterbi); a character that is no piece costs more than any.
void SentencePieceTokenizer::cut_likeliest(std::string_view text, std::vector<Cut>& cuts) const {
  struct Node {
    TokenId id = -1;
    float score = 0;
    int64_t from = -1;
  };
  std::vector<Node> best(text.size() + 1);  // by the end of the last piece
  for (size_t at = 0; at < text.size();) {
    const size_t character = decode_utf8(text.data() + at, text.data() + text.size()).length;
    const float here = best[at].score;
    bool alone = false;
    const auto offer = [&](size_t length, TokenId id, double score) {
      Node& node = best[at + length];
      const double total = score + static_cast<double>(here);
      if (node.from < 0 || total > static_cast<double>(node.score)) {
        node = {id, static_cast<float>(total), static_cast<int64_t>(at)};
      }
    };
    all_.find(text.substr(at), [&](size_t length, TokenId id) {
      const SentencePiece& piece = d_.pieces[static_cast<size_t>(id)];
      if (piece.kind == PieceKind::kUnused) return;
      const bool always = piece.kind == PieceKind::kUserDefined;
      offer(length, id,
            always ? static_cast<double>(static_cast<float>(length) * most_score_) - 0.1
                   : static_cast<double>(piece.score));
      alone = alone || length == character;
    });
    if (!alone) offer(character, -1, static_cast<double>(unknown_score_));
    at += character;
  }
  const size_t first = cuts.size();
  for (auto end = static_cast<int64_t>(text.size()); end > 0; end = best[static_cast<size_t>(end)].from) {
    const Node& node = best[static_cast<size_t>(end)];
    cuts.push_back({text.substr(static_cast<size_t>(node.from), static_cast<size_t>(end - node.from)), node.id});
  }
  std::reverse(cuts.begin() + static_cast<std::ptrdiff_t>(first), cuts.end());
}

void SentencePieceTokenizer::append(const std::vector<Cut>& cuts, std::vector<TokenId>& out) const {
  bool behind_unknown = false;
  for (const Cut& cut : cuts) {
    const bool unknown = cut.id < 0 || cut.id == d_.unknown;
    if (!unknown) {
      out.push_back(cut.id);
    } else if (d_.byte_fallback) {
      for (const char c : cut.text) out.push_back(bytes_[static_cast<uint8_t>(c)]);
    } else if (!behind_unknown || !d_.fuse_unknown) {
      out.push_back(d_.unknown);
    }
    behind_unknown = unknown;
  }
}

std::string SentencePieceTokenizer::token_bytes(TokenId id) const {
  if (id < 0 || id >= vocab_size()) {
    throw DataError(str_cat("id ", id, " is outside the vocabulary of ", d_.source, " (", vocab_size(),
                            " ids). Decode with the tokenizer that made the ids"));
  }
  const SentencePiece& piece = d_.pieces[static_cast<size_t>(id)];
  if (piece.kind == PieceKind::kUnknown) return d_.unknown_surface;
  if (piece.kind == PieceKind::kByte) return std::string(1, static_cast<char>(piece_byte(piece.text).value()));
  std::string bytes;
  for (size_t i = 0; i < piece.text.size();) {
    const bool mark = std::string_view(piece.text).substr(i).starts_with(kSpaceMark);
    bytes += mark ? ' ' : piece.text[i];
    i += mark ? kSpaceMark.size() : 1;
  }
  return bytes;
}

std::string SentencePieceTokenizer::decode(const std::vector<TokenId>& ids) const {
  std::string text;
  bool at_start = d_.strip_space;
  for (const TokenId id : ids) {
    std::string bytes = token_bytes(id);
    const PieceKind kind = d_.pieces[static_cast<size_t>(id)].kind;
    const bool space = at_start && is_text(kind) && starts_with(bytes, " ");
    if (space) bytes.erase(0, 1);
    if (kind != PieceKind::kControl && (!bytes.empty() || (space && !d_.collapse_spaces))) at_start = false;
    text += bytes;
  }
  return text;
}

}  // namespace megatron
