// Cuts input files into work items of bounded size: plain text into pieces of documents, JSONL into blocks of lines.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/files.h"
#include "tokenizer/tokenizer.h"

namespace megatron {

/// Consecutive bytes of one document.
struct TextPiece {
  std::string text;
  bool begins_document = false, ends_document = false;
};

struct TextItem {
  std::vector<TextPiece> pieces;
  int64_t input_bytes = 0;
};

/// The last place in text[begin, end) where cutting provably changes no token id in the neighbourhood, or 0. Two kinds
/// of place come into question: after a line end that stands alone between two visible characters, and before a single
/// space between two letters. Every pre-tokenizer we know of splits there. Whether this tokenizer does is checked on
/// the spot: the ids of 1 KiB before and 1 KiB after the place, encoded apart, must be those of both encoded together.
/// A tokenizer that adds something in front of each text thereby refuses all places.
int64_t find_safe_cut(std::string_view text, int64_t begin, int64_t end, const Tokenizer& tokenizer);

/// Reads plain text. Without `separator` the whole input is one document; else documents are what lies between
/// separators, and empty ones are left out. Documents larger than `piece_bytes` come in several pieces, cut at safe
/// places; where there is none the piece grows, up to `limit_bytes` (then DataError).
class TextReader {
 public:
  TextReader(const std::string& path, const std::string& separator, int64_t piece_bytes, int64_t limit_bytes,
             const Tokenizer& tokenizer);

  /// About piece_bytes of input; nullopt at the end.
  std::optional<TextItem> next();

 private:
  std::optional<TextPiece> next_piece();
  TextPiece take(int64_t text_bytes, int64_t skipped_bytes, bool ends_document);
  bool find_separator(int64_t& place);
  bool find_cut(int64_t& place);

  InputStream input_;
  std::string separator_;
  int64_t piece_bytes_, limit_bytes_;
  const Tokenizer& tokenizer_;
  std::string buffer_;
  int64_t begin_ = 0;     // what lies before it in the buffer has been taken
  int64_t searched_ = 0;  // no separator begins in [begin_, searched_)
  int64_t try_at_;        // look for a cut when so much is in the buffer
  int64_t consumed_ = 0;  // input bytes taken since the last item
  bool end_of_input_ = false, open_ = false;
};

/// Whole lines of a JSONL file.
struct LineItem {
  std::string text;
  std::string file;
  int64_t first_line = 1;
};

class LineReader {
 public:
  LineReader(const std::string& path, int64_t item_bytes);

  /// At least item_bytes of lines where the input has them; nullopt at the end.
  std::optional<LineItem> next();

 private:
  InputStream input_;
  int64_t item_bytes_, line_ = 1;
  std::string rest_;
  bool end_of_input_ = false;
};

}  // namespace megatron
