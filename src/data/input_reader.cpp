#include "data/input_reader.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr int64_t kReadBytes = 1 << 18;
constexpr int64_t kWindow = 1024;  // text on each side of a cut that is encoded to check it
constexpr int kCandidates = 32;    // places that are checked before more text is asked for

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}
bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}

bool may_cut(std::string_view text, int64_t place) {
  const size_t at = static_cast<size_t>(place);
  if (text[at - 1] == '\n') return !is_space(text[at - 2]) && !is_space(text[at]);
  return text[at] == ' ' && is_letter(text[at - 1]) && is_letter(text[at + 1]);
}

bool cut_keeps_ids(std::string_view text, int64_t place, const Tokenizer& tokenizer) {
  const int64_t size = static_cast<int64_t>(text.size());
  int64_t first = std::max<int64_t>(place - kWindow, 0), last = std::min(place + kWindow, size);
  const auto at = [&](int64_t i) { return text[static_cast<size_t>(i)]; };
  while (first > 0 && first < place && continues_character(at(first))) ++first;
  while (last < size && last > place && continues_character(at(last))) --last;
  const auto part = [&](int64_t from, int64_t to) {
    return tokenizer.encode(text.substr(static_cast<size_t>(from), static_cast<size_t>(to - from)));
  };
  std::vector<TokenId> apart = part(first, place);
  const std::vector<TokenId> right = part(place, last);
  apart.insert(apart.end(), right.begin(), right.end());
  return apart == part(first, last);
}

}  // namespace

int64_t find_safe_cut(std::string_view text, int64_t begin, int64_t end, const Tokenizer& tokenizer) {
  int candidates = 0;
  end = std::min(end, static_cast<int64_t>(text.size()) - 1);
  for (int64_t place = end - 1; place >= std::max<int64_t>(begin, 2) && candidates < kCandidates; --place) {
    if (!may_cut(text, place)) continue;
    if (cut_keeps_ids(text, place, tokenizer)) return place;
    ++candidates;
  }
  return 0;
}

TextReader::TextReader(const std::string& path, const std::string& separator, int64_t piece_bytes, int64_t limit_bytes,
                       const Tokenizer& tokenizer)
    : input_(path),
      separator_(separator),
      piece_bytes_(piece_bytes),
      limit_bytes_(limit_bytes),
      tokenizer_(tokenizer),
      try_at_(piece_bytes + kWindow) {}

std::optional<TextItem> TextReader::next() {
  TextItem item;
  int64_t text_bytes = 0;
  while (text_bytes < piece_bytes_) {
    std::optional<TextPiece> piece = next_piece();
    if (!piece) break;
    text_bytes += static_cast<int64_t>(piece->text.size());
    item.pieces.push_back(std::move(*piece));
  }
  item.input_bytes = std::exchange(consumed_, 0);
  if (item.pieces.empty()) return std::nullopt;
  return item;
}

TextPiece TextReader::take(int64_t text_bytes, int64_t skipped_bytes, bool ends_document) {
  TextPiece piece{buffer_.substr(static_cast<size_t>(begin_), static_cast<size_t>(text_bytes)), !open_, ends_document};
  begin_ += text_bytes + skipped_bytes;
  consumed_ += text_bytes + skipped_bytes;
  searched_ = std::max(searched_, begin_);
  try_at_ = piece_bytes_ + kWindow;
  open_ = !ends_document;
  if (begin_ >= kReadBytes && begin_ > static_cast<int64_t>(buffer_.size()) / 2) {
    buffer_.erase(0, static_cast<size_t>(begin_));
    searched_ -= begin_;
    begin_ = 0;
  }
  return piece;
}

bool TextReader::find_separator(int64_t& place) {
  if (separator_.empty()) return false;
  const size_t found = buffer_.find(separator_, static_cast<size_t>(searched_));
  if (found != std::string::npos) {
    place = static_cast<int64_t>(found) - begin_;
    return true;
  }
  // Its beginning may be at the very end of the buffer.
  const int64_t sure = static_cast<int64_t>(buffer_.size()) - static_cast<int64_t>(separator_.size()) + 1;
  searched_ = std::max(searched_, sure);
  return false;
}

bool TextReader::find_cut(int64_t& place) {
  for (;; try_at_ *= 2) {
    const std::string_view text =
        std::string_view(buffer_).substr(static_cast<size_t>(begin_), static_cast<size_t>(try_at_));
    if (static_cast<int64_t>(text.size()) < try_at_) return false;
    // The check needs text behind the cut, and a separator that is only half there must not be cut.
    const int64_t end = try_at_ - std::max<int64_t>(kWindow, static_cast<int64_t>(separator_.size()));
    place = find_safe_cut(text, try_at_ / 2, end, tokenizer_);
    if (place > 0) return true;
    if (try_at_ > limit_bytes_) {
      throw DataError(str_cat(input_.name(), ": a document of more than ",
                              format_bytes(static_cast<double>(limit_bytes_)),
                              " can't be encoded in pieces with this tokenizer; separate the documents with "
                              "--document-separator, or use JSONL"));
    }
  }
}

std::optional<TextPiece> TextReader::next_piece() {
  for (;;) {
    int64_t place = 0;
    if (find_separator(place)) {
      const bool empty = place == 0 && !open_;
      TextPiece piece = take(place, static_cast<int64_t>(separator_.size()), true);
      if (empty) continue;
      return piece;
    }
    if (find_cut(place)) return take(place, 0, false);
    if (!end_of_input_) {
      end_of_input_ = !input_.append_to(buffer_, kReadBytes);
      continue;
    }
    const int64_t left = static_cast<int64_t>(buffer_.size()) - begin_;
    if (left == 0 && !open_) return std::nullopt;
    return take(left, 0, true);
  }
}

LineReader::LineReader(const std::string& path, int64_t item_bytes) : input_(path), item_bytes_(item_bytes) {}

std::optional<LineItem> LineReader::next() {
  size_t searched = static_cast<size_t>(item_bytes_ - 1), border = 0;  // border: just after a line end
  while (border == 0) {
    const size_t found = rest_.find('\n', searched);
    if (found != std::string::npos) {
      border = found + 1;
    } else if (end_of_input_) {
      border = rest_.size();
      break;
    } else {
      searched = std::max(searched, rest_.size());
      end_of_input_ = !input_.append_to(rest_, kReadBytes);
    }
  }
  if (border == 0) return std::nullopt;
  LineItem item{rest_.substr(0, border), input_.name(), line_};
  rest_.erase(0, border);
  line_ += std::count(item.text.begin(), item.text.end(), '\n');
  return item;
}

}  // namespace megatron
