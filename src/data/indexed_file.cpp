#include "data/indexed_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

static_assert(std::endian::native == std::endian::little, "the files are little-endian and are read in place");

template <typename T>
T load(const unsigned char* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename T>
void copy_tokens(const unsigned char* from, std::span<TokenId> out) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<TokenId>(load<T>(from + i * sizeof(T)));
}

constexpr const char* kRemedy = "the file is damaged or incomplete; run preprocess again or restore it from a copy";

std::string require(const std::string& path) {
  if (!file_exists(path)) {
    const bool has_suffix = ends_with(path, ".bin.idx") || ends_with(path, ".idx.idx");
    throw DataError(str_cat(path, ": no such file; ",
                            has_suffix ? "give the path without .bin or .idx"
                                       : "run megatron preprocess, or check the path (it ends before .bin and .idx)"));
  }
  return path;
}

}  // namespace

int64_t dtype_bytes(TokenDtype dtype) {
  switch (dtype) {
    case TokenDtype::kU8:
    case TokenDtype::kI8:
      return 1;
    case TokenDtype::kI16:
    case TokenDtype::kU16:
      return 2;
    case TokenDtype::kI32:
    case TokenDtype::kF32:
      return 4;
    case TokenDtype::kI64:
    case TokenDtype::kF64:
      return 8;
  }
  return 0;
}

const char* dtype_name(TokenDtype dtype) {
  constexpr const char* kNames[] = {"?", "u8", "i8", "i16", "i32", "i64", "f64", "f32", "u16"};
  return kNames[static_cast<int>(dtype)];
}

TokenDtype dtype_for_vocab(int64_t vocab_size) {
  return vocab_size < 65500 ? TokenDtype::kU16 : TokenDtype::kI32;
}

std::string bin_path(const std::string& prefix) {
  return prefix + ".bin";
}
std::string idx_path(const std::string& prefix) {
  return prefix + ".idx";
}

IndexedFile::IndexedFile(const std::string& prefix)
    : prefix_(prefix),
      idx_(std::make_unique<MappedFile>(require(idx_path(prefix)), MappedFile::Access::kSequential)),
      bin_(std::make_unique<MappedFile>(require(bin_path(prefix)), MappedFile::Access::kRandom)),
      meta_(read_meta(prefix)) {
  check_header();
  check_sequences();
  check_documents();
  check_meta();
}

void IndexedFile::check_header() {
  const std::string path = idx_path(prefix_);
  const unsigned char* idx = idx_->data();
  if (idx_->size() < kIndexHeaderBytes) {
    throw DataError(str_cat(path, ": ", idx_->size(), " bytes, a header has ", kIndexHeaderBytes, "; ", kRemedy));
  }
  if (std::memcmp(idx, "MMIDIDX\0\0", 9) != 0) {
    throw DataError(str_cat(path, ": byte 0: does not begin with MMIDIDX: not an index of token data, or damaged; ",
                            "run preprocess again"));
  }
  if (const uint64_t version = load<uint64_t>(idx + 9); version != 1) {
    throw DataError(str_cat(path, ": byte 9: format version ", version, ", only 1 is known; ", kRemedy));
  }
  const int code = idx[17];
  if (code < 1 || code > 8) throw DataError(str_cat(path, ": byte 17: unknown token type ", code, "; ", kRemedy));
  dtype_ = static_cast<TokenDtype>(code);
  if (dtype_ == TokenDtype::kF32 || dtype_ == TokenDtype::kF64) {
    throw DataError(str_cat(path, ": byte 17: elements are ", dtype_name(dtype_), ", token data holds integers"));
  }
  const uint64_t sequences = load<uint64_t>(idx + 18), entries = load<uint64_t>(idx + 26);
  const uint64_t limit = static_cast<uint64_t>(idx_->size());  // keeps the sums below from overflowing
  if (sequences > limit || entries > limit || entries == 0) {
    throw DataError(str_cat(path, ": byte 18: claims ", sequences, " sequences and ", entries,
                            " document entries in a file of ", idx_->size(), " bytes; ", kRemedy));
  }
  sequences_ = static_cast<int64_t>(sequences);
  documents_ = static_cast<int64_t>(entries) - 1;
  const int64_t expected = kIndexHeaderBytes + 12 * sequences_ + 8 * (documents_ + 1);
  if (sequences_ > 0 && idx_->size() == expected + sequences_) {
    throw DataError(str_cat(path, ": has sequence modes (multimodal data), which text training can't use"));
  }
  if (idx_->size() != expected) {
    throw DataError(str_cat(path, ": ", idx_->size(), " bytes, but ", sequences_, " sequences and ", documents_,
                            " documents need ", expected, "; ", kRemedy));
  }
}

void IndexedFile::check_sequences() {
  const std::string path = idx_path(prefix_);
  const int64_t item = dtype_bytes(dtype_);
  const unsigned char* lengths = idx_->data() + kIndexHeaderBytes;
  const unsigned char* pointers = lengths + 4 * sequences_;
  int64_t bytes = 0;
  for (int64_t i = 0; i < sequences_; ++i) {
    const int32_t length = load<int32_t>(lengths + 4 * i);
    const int64_t pointer = load<int64_t>(pointers + 8 * i);
    if (length < 0) {
      throw DataError(
          str_cat(path, ": byte ", kIndexHeaderBytes + 4 * i, ": sequence ", i, " has length ", length, "; ", kRemedy));
    }
    if (pointer != bytes) {
      throw DataError(str_cat(path, ": byte ", kIndexHeaderBytes + 4 * sequences_ + 8 * i, ": sequence ", i,
                              " begins at byte ", pointer, " of .bin, the lengths before it give ", bytes, "; ",
                              kRemedy));
    }
    bytes += length * item;
  }
  if (bin_->size() != bytes) {
    throw DataError(str_cat(bin_path(prefix_), ": ", bin_->size(), " bytes, ", path, " needs ", bytes,
                            bin_->size() < bytes ? ": truncated" : ": too long", "; ", kRemedy));
  }
  tokens_ = bytes / item;
}

void IndexedFile::check_documents() const {
  const int64_t place = kIndexHeaderBytes + 12 * sequences_;
  int64_t before = 0;
  for (int64_t d = 0; d <= documents_; ++d) {
    const int64_t begin = load<int64_t>(idx_->data() + place + 8 * d);
    const bool right = d == 0 ? begin == 0 : begin >= before && begin <= sequences_;
    if (!right || (d == documents_ && begin != sequences_)) {
      throw DataError(str_cat(idx_path(prefix_), ": byte ", place + 8 * d, ": document ", d, " begins at sequence ",
                              begin, ", expected ", d == 0 ? "0" : str_cat(before, " to ", sequences_), "; ", kRemedy));
    }
    before = begin;
  }
}

void IndexedFile::check_meta() const {
  if (!meta_) return;
  if (meta_->tokens != tokens_ || meta_->sequences != sequences_ || meta_->documents != documents_) {
    throw DataError(str_cat(meta_path(prefix_), ": describes ", meta_->tokens, " tokens in ", meta_->documents,
                            " documents, the data has ", tokens_, " in ", documents_,
                            "; run preprocess again, or delete this file if other software made the data"));
  }
}

int64_t IndexedFile::sequence_length(int64_t sequence) const {
  MEGATRON_CHECK(sequence >= 0 && sequence < sequences_, "sequence out of range");
  return load<int32_t>(idx_->data() + kIndexHeaderBytes + 4 * sequence);
}

int64_t IndexedFile::sequence_begin(int64_t sequence) const {
  MEGATRON_CHECK(sequence >= 0 && sequence <= sequences_, "sequence out of range");
  if (sequence == sequences_) return tokens_;
  return load<int64_t>(idx_->data() + kIndexHeaderBytes + 4 * sequences_ + 8 * sequence) / dtype_bytes(dtype_);
}

int64_t IndexedFile::document_begin(int64_t document) const {
  MEGATRON_CHECK(document >= 0 && document <= documents_, "document out of range");
  return load<int64_t>(idx_->data() + kIndexHeaderBytes + 12 * sequences_ + 8 * document);
}

int64_t IndexedFile::document_of(int64_t position) const {
  MEGATRON_CHECK(position >= 0 && position < tokens_, "position out of range");
  int64_t low = 0, high = documents_;  // the document begins at or before position, and low + 1 or later after it
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (sequence_begin(document_begin(middle)) <= position ? low : high) = middle;
  }
  return low;
}

void IndexedFile::read(int64_t position, std::span<TokenId> out) const {
  const int64_t count = static_cast<int64_t>(out.size());
  MEGATRON_CHECK(position >= 0 && position + count <= tokens_, "tokens out of range");
  if (count == 0) return;
  const unsigned char* from = bin_->data() + position * dtype_bytes(dtype_);
  switch (dtype_) {
    case TokenDtype::kU8:
      return copy_tokens<uint8_t>(from, out);
    case TokenDtype::kI8:
      return copy_tokens<int8_t>(from, out);
    case TokenDtype::kI16:
      return copy_tokens<int16_t>(from, out);
    case TokenDtype::kU16:
      return copy_tokens<uint16_t>(from, out);
    case TokenDtype::kI32:
      return copy_tokens<int32_t>(from, out);
    default:
      break;
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t id = load<int64_t>(from + 8 * i);
    if (id < 0 || id > std::numeric_limits<TokenId>::max()) {
      throw DataError(str_cat(bin_path(prefix_), ": token ", position + i, " (document ", document_of(position + i),
                              ") is ", id, ", no token id is that large; ", kRemedy));
    }
    out[static_cast<size_t>(i)] = static_cast<TokenId>(id);
  }
}

std::span<const unsigned char> IndexedFile::bin_bytes() const {
  return {bin_->data(), static_cast<size_t>(bin_->size())};
}

std::span<const unsigned char> IndexedFile::idx_bytes() const {
  return {idx_->data(), static_cast<size_t>(idx_->size())};
}

void IndexedFile::check_tokenizer(const Tokenizer& tokenizer) const {
  if (!meta_) return;
  const TokenizerIdentity expected = identity_of(tokenizer);
  if (meta_->tokenizer != expected) {
    const auto eod_text = [](const std::optional<TokenId>& eod) { return eod ? std::to_string(*eod) : "none"; };
    throw DataError(str_cat(meta_path(prefix_), ": the data was made with another tokenizer (", std::hex,
                            meta_->tokenizer.fingerprint, ", ", std::dec, meta_->tokenizer.vocab_size,
                            " ids, end-of-document ", eod_text(meta_->tokenizer.eod), ") than the one given (",
                            std::hex, expected.fingerprint, ", ", std::dec, expected.vocab_size,
                            " ids, end-of-document ", eod_text(expected.eod),
                            "); give the tokenizer of the data, or run preprocess again"));
  }
  if (tokens_ > 0 && meta_->max_token_id >= expected.vocab_size) {
    throw DataError(str_cat(meta_path(prefix_), ": greatest id ", meta_->max_token_id, " is outside the vocabulary of ",
                            expected.vocab_size, " ids; run preprocess again"));
  }
}

void IndexedFile::check_ids(int64_t position, std::span<const TokenId> ids, int64_t vocab_size) const {
  // One comparison an id: negative ids are large as unsigned.
  const uint64_t limit = static_cast<uint64_t>(vocab_size);
  bool bad = false;
  for (const TokenId id : ids) bad |= static_cast<uint64_t>(static_cast<int64_t>(id)) >= limit;
  if (!bad) return;
  const auto wrong = std::find_if(ids.begin(), ids.end(), [&](TokenId id) { return id < 0 || id >= vocab_size; });
  const int64_t place = position + (wrong - ids.begin());
  const int64_t document = document_of(place);
  throw DataError(str_cat(bin_path(prefix_), ": document ", document, ", token ",
                          place - sequence_begin(document_begin(document)), " (byte ", place * dtype_bytes(dtype_),
                          "): id ", *wrong, " is outside the vocabulary of ", vocab_size,
                          " ids; the data was made with another tokenizer, or is damaged"));
}

}  // namespace megatron
