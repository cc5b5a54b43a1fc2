#include "data/data_tools.h"

#include <algorithm>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/strings.h"
#include "data/indexed_writer.h"

namespace megatron {

std::vector<std::string> prefixes_in(const std::string& folder) {
  std::vector<std::string> prefixes;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".idx") continue;
    std::filesystem::path prefix = entry.path();
    prefix.replace_extension();
    if (file_exists(bin_path(prefix.string()))) prefixes.push_back(prefix.string());
  }
  if (error) throw DataError(str_cat(folder, ": can't be listed: ", error.message()));
  if (prefixes.empty()) throw DataError(str_cat(folder, ": holds no pair of .bin and .idx files"));
  std::sort(prefixes.begin(), prefixes.end());
  return prefixes;
}

void merge_indexed(const std::vector<std::string>& prefixes, const std::string& output_prefix) {
  if (prefixes.empty()) throw UsageError("merge: at least one input is needed");
  std::vector<std::unique_ptr<IndexedFile>> files;
  for (const std::string& prefix : prefixes) {
    std::error_code ignored;
    if (std::filesystem::equivalent(bin_path(prefix), bin_path(output_prefix), ignored)) {
      throw UsageError(str_cat("merge: ", prefix, " is both input and output; choose another --output-prefix"));
    }
    files.push_back(std::make_unique<IndexedFile>(prefix));
  }
  const IndexedFile& first = *files[0];
  std::optional<TokenizerIdentity> tokenizer;
  if (first.meta()) tokenizer = first.meta()->tokenizer;
  for (const auto& file : files) {
    if (file->dtype() != first.dtype()) {
      throw DataError(str_cat(idx_path(file->prefix()), ": byte 17: tokens are ", dtype_name(file->dtype()),
                              ", those of ", first.prefix(), " are ", dtype_name(first.dtype()),
                              "; preprocess both with the same tokenizer"));
    }
    if (first.meta() && file->meta() && file->meta()->tokenizer != first.meta()->tokenizer) {
      throw DataError(str_cat(meta_path(file->prefix()), ": made with another tokenizer than ", first.prefix(),
                              "; preprocess both with the same tokenizer"));
    }
    if (!file->meta()) tokenizer.reset();
  }
  IndexedWriter writer(output_prefix, first.dtype());
  for (const auto& file : files) writer.append_file(*file);
  writer.finish(tokenizer);
}

DataStats data_stats(const IndexedFile& file) {
  DataStats stats;
  stats.dtype = file.dtype();
  stats.documents = file.documents();
  stats.sequences = file.sequences();
  stats.tokens = file.tokens();
  stats.bin_bytes = static_cast<int64_t>(file.bin_bytes().size());
  stats.idx_bytes = static_cast<int64_t>(file.idx_bytes().size());
  if (stats.documents == 0) return stats;
  std::vector<int64_t> lengths;
  for (int64_t d = 0; d < file.documents(); ++d) {
    lengths.push_back(file.sequence_begin(file.document_begin(d + 1)) - file.sequence_begin(file.document_begin(d)));
    if (lengths.back() == 0) ++stats.empty_documents;
  }
  std::sort(lengths.begin(), lengths.end());
  stats.shortest = lengths.front();
  stats.median = lengths[lengths.size() / 2];
  stats.p90 = lengths[lengths.size() * 9 / 10];
  stats.longest = lengths.back();
  stats.mean = static_cast<double>(stats.tokens) / static_cast<double>(stats.documents);
  return stats;
}

VerifyReport verify_data(const IndexedFile& file, std::optional<int64_t> vocab_size) {
  VerifyReport report;
  int64_t limit = vocab_size.value_or(int64_t{1} << 31);
  if (file.meta()) limit = std::min(limit, file.meta()->tokenizer.vocab_size);
  std::vector<TokenId> ids;
  constexpr int64_t kBlock = 1 << 16;
  for (int64_t at = 0; at < file.tokens(); at += kBlock) {
    ids.resize(static_cast<size_t>(std::min(kBlock, file.tokens() - at)));
    file.read(at, ids);
    file.check_ids(at, ids, limit);
    report.max_token_id = std::max(report.max_token_id, *std::max_element(ids.begin(), ids.end()));
  }
  if (!file.meta()) return report;
  const auto check_hash = [&](const std::string& path, std::span<const unsigned char> bytes, uint64_t expected) {
    StreamHash hash;
    hash.add(bytes.data(), static_cast<int64_t>(bytes.size()));
    if (hash.value() == expected) return;
    throw DataError(str_cat(path, ": its bytes are not those that were written (hash ", std::hex, hash.value(),
                            ", expected ", expected, "); run preprocess again or restore it from a copy"));
  };
  check_hash(idx_path(file.prefix()), file.idx_bytes(), file.meta()->idx_hash);
  check_hash(bin_path(file.prefix()), file.bin_bytes(), file.meta()->bin_hash);
  report.hashes_checked = true;
  return report;
}

}  // namespace megatron
