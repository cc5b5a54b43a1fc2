// What decides a SentencePiece tokenizer, and the files that hold it: Kudo, Richardson, "SentencePiece: a simple and
// language independent subword tokenizer", EMNLP 2018. A model file is a protocol buffer (ModelProto); the fields that
// we read are listed in sentencepiece_model.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe_model.h"

namespace megatron {

/// U+2581, which stands for a space within pieces.
inline constexpr std::string_view kSpaceMark = "\xe2\x96\x81";

/// Kinds of pieces, with the numbers of the file (and of GGUF files).
enum class PieceKind : uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct SentencePiece {
  std::string text;
  float score = 0;
  PieceKind kind = PieceKind::kNormal;
};

/// Where a space mark is put before a text.
enum class DummyPrefix : uint8_t { kNever, kFirst, kAlways };

struct SentencePieceDefinition {
  enum class Algorithm : uint8_t { kUnigram = 1, kBpe = 2 };

  std::string source;  ///< file name, for messages
  Algorithm algorithm = Algorithm::kBpe;
  std::vector<SentencePiece> pieces;  ///< by id
  bool byte_fallback = false;         ///< what is no piece becomes its bytes
  TokenId unknown = 0;
  std::optional<TokenId> begin, end, pad;

  DummyPrefix dummy_prefix = DummyPrefix::kAlways;
  bool suffix_instead = false;  ///< the space mark comes behind the text
  bool collapse_spaces = true;  ///< spaces at the ends go, runs of them become one
  bool strip_space = true;      ///< decoded text does not begin with the space of the first piece
  bool mark_spaces = true;      ///< spaces become marks
  std::string charsmap;         ///< of normalisation, as in the file; empty: none
  std::string unknown_surface = " \xe2\x81\x87 ";

  // Only a tokenizer.json has what follows.
  bool by_rank = false;                  ///< pairs are those of `merges`; otherwise all that make a piece, by its score
  std::vector<Merge> merges;             ///< by rank
  bool skip_prefix_before_mark = false;  ///< no dummy prefix where the text begins with a space mark
  bool ignore_merges = false;            ///< a text that is a piece as a whole is that piece
  bool fuse_unknown = true;              ///< a run of what is no piece is one unknown token
  std::vector<AddedToken> added;
  std::vector<TokenId> prefix, suffix;  ///< around a text, for encode_with_special_tokens()
};

/// DataError naming file, place and remedy for whatever is damaged, contradicts itself or is not supported.
SentencePieceDefinition read_sentencepiece_model(const std::string& path);
SentencePieceDefinition parse_sentencepiece_model(std::string_view bytes, const std::string& path);
/// The bytes of a model file. Only for definitions that a model file can hold.
std::string sentencepiece_model_bytes(const SentencePieceDefinition& definition);
/// The byte that a piece like "<0x0A>" stands for.
std::optional<uint8_t> piece_byte(std::string_view text);
/// What every definition has to fulfil; DataError where it does not.
void check_sentencepiece(const SentencePieceDefinition& definition);

}  // namespace megatron
