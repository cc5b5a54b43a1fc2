#include "data/indexed_writer.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr int64_t kBlock = 1 << 16;  // entries handled at a time when tables are copied

template <typename T>
void pack(std::span<const TokenId> ids, std::string& bytes) {
  const size_t old = bytes.size();
  bytes.resize(old + ids.size() * sizeof(T));
  char* to = bytes.data() + old;
  for (const TokenId id : ids) {
    const T value = static_cast<T>(id);
    MEGATRON_CHECK(static_cast<TokenId>(value) == id, str_cat("id ", id, " does not fit the type of the data"));
    std::memcpy(to, &value, sizeof value);
    to += sizeof value;
  }
}

void remove_if_there(const std::string& path) {
  std::error_code error;
  std::filesystem::remove(path, error);
  if (error) throw DataError(str_cat(path, ": can't be replaced: ", error.message()));
}

}  // namespace

void pack_tokens(std::span<const TokenId> ids, TokenDtype dtype, std::string& bytes) {
  switch (dtype) {
    case TokenDtype::kU8:
      return pack<uint8_t>(ids, bytes);
    case TokenDtype::kI8:
      return pack<int8_t>(ids, bytes);
    case TokenDtype::kI16:
      return pack<int16_t>(ids, bytes);
    case TokenDtype::kU16:
      return pack<uint16_t>(ids, bytes);
    case TokenDtype::kI32:
      return pack<int32_t>(ids, bytes);
    case TokenDtype::kI64:
      return pack<int64_t>(ids, bytes);
    default:
      MEGATRON_CHECK(false, "token data holds integers");
  }
}

IndexedWriter::IndexedWriter(const std::string& prefix, TokenDtype dtype)
    : prefix_(prefix), dtype_(dtype), bin_(bin_path(prefix)), idx_(idx_path(prefix)), borders_(prefix + ".documents") {
  const char header[kIndexHeaderBytes] = {};  // its numbers are known at the end
  idx_.append(header, kIndexHeaderBytes);
  const int64_t first = 0;
  borders_.append(&first, sizeof first);
}

void IndexedWriter::append(std::span<const TokenId> ids) {
  if (ids.empty()) return;
  packed_.clear();
  pack_tokens(ids, dtype_, packed_);
  append_packed(packed_, *std::max_element(ids.begin(), ids.end()));
}

void IndexedWriter::append_packed(std::span<const char> bytes, TokenId max_id) {
  const int64_t size = static_cast<int64_t>(bytes.size());
  open_tokens_ += div_exact(size, dtype_bytes(dtype_));
  max_id_ = std::max(max_id_, max_id);
  add_bytes(bytes.data(), size);
}

void IndexedWriter::add_bytes(const void* data, int64_t bytes) {
  bin_.append(data, bytes);
  bin_hash_.add(data, bytes);
}

void IndexedWriter::end_sequence() {
  if (open_tokens_ > std::numeric_limits<int32_t>::max()) {
    throw DataError(str_cat(prefix_, ": document ", documents_, " has ", open_tokens_,
                            " tokens, the file format allows 2147483647; split it, for example with "
                            "--document-separator"));
  }
  const int32_t length = static_cast<int32_t>(open_tokens_);
  idx_.append(&length, sizeof length);
  tokens_ += open_tokens_;
  open_tokens_ = 0;
  ++sequences_;
}

void IndexedWriter::end_document() {
  MEGATRON_CHECK(open_tokens_ == 0, "a document ends after its last sequence");
  borders_.append(&sequences_, sizeof sequences_);
  ++documents_;
}

void IndexedWriter::append_file(const IndexedFile& other) {
  MEGATRON_CHECK(other.dtype() == dtype_ && open_tokens_ == 0, "merged files must have one type");
  const std::span<const unsigned char> bytes = other.bin_bytes();
  const int64_t size = static_cast<int64_t>(bytes.size());
  for (int64_t at = 0; at < size; at += kBlock) add_bytes(bytes.data() + at, std::min(kBlock, size - at));
  idx_.append(other.idx_bytes().data() + kIndexHeaderBytes, 4 * other.sequences());
  for (int64_t d = 1; d <= other.documents(); ++d) {
    const int64_t border = sequences_ + other.document_begin(d);
    borders_.append(&border, sizeof border);
  }
  sequences_ += other.sequences();
  documents_ += other.documents();
  tokens_ += other.tokens();
  if (other.meta()) max_id_ = std::max(max_id_, other.meta()->max_token_id);
}

void IndexedWriter::write_pointers() {
  std::vector<int32_t> lengths;
  std::vector<int64_t> pointers;
  int64_t next = 0;
  for (int64_t at = 0; at < sequences_; at += kBlock) {
    const int64_t count = std::min(kBlock, sequences_ - at);
    lengths.resize(static_cast<size_t>(count));
    idx_.read(kIndexHeaderBytes + 4 * at, lengths.data(), 4 * count);
    pointers.clear();
    for (const int32_t length : lengths) {
      pointers.push_back(next);
      next += length * dtype_bytes(dtype_);
    }
    idx_.append(pointers.data(), 8 * count);
  }
}

void IndexedWriter::write_documents() {
  std::vector<int64_t> block(static_cast<size_t>(kBlock));
  for (int64_t at = 0; at <= documents_; at += kBlock) {
    const int64_t count = std::min(kBlock, documents_ + 1 - at);
    borders_.read(8 * at, block.data(), 8 * count);
    idx_.append(block.data(), 8 * count);
  }
}

void IndexedWriter::write_header() {
  char header[kIndexHeaderBytes] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
  const uint64_t version = 1, sequences = static_cast<uint64_t>(sequences_),
                 entries = static_cast<uint64_t>(documents_) + 1;
  std::memcpy(header + 9, &version, 8);
  header[17] = static_cast<char>(dtype_);
  std::memcpy(header + 18, &sequences, 8);
  std::memcpy(header + 26, &entries, 8);
  idx_.sync();  // the header lies in the part that is on disk already
  idx_.overwrite(0, header, kIndexHeaderBytes);
}

uint64_t IndexedWriter::hash_of_index() {
  StreamHash hash;
  std::string block(static_cast<size_t>(kBlock), '\0');
  for (int64_t at = 0; at < idx_.size(); at += kBlock) {
    const int64_t count = std::min(kBlock, idx_.size() - at);
    idx_.read(at, block.data(), count);
    hash.add(block.data(), count);
  }
  return hash.value();
}

void IndexedWriter::finish(const std::optional<TokenizerIdentity>& tokenizer) {
  MEGATRON_CHECK(open_tokens_ == 0, "the last sequence is open");
  write_pointers();
  write_documents();
  write_header();
  bin_.sync();
  idx_.sync();
  // From here to the last rename there is no index under the final name, so a reader never sees a mixed pair.
  remove_if_there(idx_path(prefix_));
  remove_if_there(meta_path(prefix_));
  bin_.commit();
  if (tokenizer) {
    PartialFile meta(meta_path(prefix_));
    const std::string text =
        format_meta({*tokenizer, tokens_, sequences_, documents_, max_id_, bin_hash_.value(), hash_of_index()});
    meta.append(text.data(), static_cast<int64_t>(text.size()));
    meta.commit();
  }
  idx_.commit();
  sync_folder_of(prefix_);
}

}  // namespace megatron
