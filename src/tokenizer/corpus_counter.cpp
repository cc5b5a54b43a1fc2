#include "tokenizer/corpus_counter.h"

#include <algorithm>
#include <atomic>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "tokenizer/scanner.h"

namespace megatron {
namespace {

constexpr size_t kBlock = size_t{64} << 20, kPart = size_t{1} << 19;

/// True where GPT-2's pattern always cuts: between a visible ASCII character and ASCII white space. No piece but one of
/// white space goes over such a place, and that one would have to begin before it.
bool always_cut(std::string_view text, size_t i) {
  const char before = text[i - 1], after = text[i];
  return before > ' ' && before < 0x7f && (after == ' ' || after == '\n');
}

bool line_start(std::string_view text, size_t i) {
  return text[i - 1] == '\n';
}

using CutTest = bool (*)(std::string_view, size_t);

/// Parts of about kPart bytes.
std::vector<std::string_view> cut(std::string_view text, CutTest test) {
  std::vector<std::string_view> parts;
  size_t begin = 0;
  while (begin < text.size()) {
    size_t end = begin + kPart;
    while (end < text.size() && !test(text, end)) ++end;
    end = std::min(end, text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return parts;
}

/// The last place in the text where it may be cut, or 0.
size_t last_cut(std::string_view text, CutTest test) {
  for (size_t i = text.size(); i-- > 1;) {
    if (test(text, i)) return i;
  }
  return 0;
}

/// Calls body(block) for parts of the file that end where `test` allows.
template <typename Body>
void for_each_block(const std::string& path, CutTest test, const Body& body) {
  const FileReader reader(path);
  std::string buffer;
  for (int64_t offset = 0; offset < reader.size();) {
    const auto size = static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(kBlock), reader.size() - offset));
    const size_t kept = buffer.size();
    buffer.resize(kept + size);
    reader.read_at(offset, std::as_writable_bytes(std::span(buffer)).subspan(kept));
    offset += static_cast<int64_t>(size);
    const size_t end = offset == reader.size() ? buffer.size() : last_cut(buffer, test);
    body(std::string_view(buffer).substr(0, end));
    buffer.erase(0, end);
  }
}

}  // namespace

CorpusCounter::CorpusCounter(int threads) : pool_(threads), counters_(static_cast<size_t>(threads)) {}

void CorpusCounter::add_text(std::string_view text) {
  const std::vector<std::string_view> parts = cut(text, always_cut);
  std::atomic<size_t> next{0};
  pool_.parallel_for(pool_.threads(), 1, [&](int64_t begin, int64_t) {
    WordCounter& counter = counters_[static_cast<size_t>(begin)];
    for (size_t i = next++; i < parts.size(); i = next++) counter.add_pieces(parts[i], scanner(ScannerKind::kGpt2));
  });
  bytes_ += static_cast<int64_t>(text.size());
}

void CorpusCounter::add_lines(std::string_view lines, const std::string& path, const std::string& json_key,
                              int64_t first_line) {
  const std::vector<std::string_view> parts = cut(lines, line_start);
  std::vector<int64_t> line_of(parts.size(), first_line);
  for (size_t i = 1; i < parts.size(); ++i) {
    line_of[i] = line_of[i - 1] + std::count(parts[i - 1].begin(), parts[i - 1].end(), '\n');
  }
  std::atomic<size_t> next{0};
  std::atomic<int64_t> bytes{0};
  const auto add_line = [&](std::string_view line, int64_t number, WordCounter& counter) {
    if (trim(line).empty()) return;
    const nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
    const auto fail = [&](const std::string& what) { throw DataError(str_cat(path, ":", number, ": ", what)); };
    if (object.is_discarded()) fail("not valid JSON; each line must be one object");
    if (!object.is_object() || !object.contains(json_key)) fail(str_cat("no object with the key '", json_key, "'"));
    const nlohmann::json& value = object[json_key];
    if (!value.is_string()) fail(str_cat("the value of '", json_key, "' must be a string, is ", value.type_name()));
    const std::string& text = value.get_ref<const std::string&>();
    counter.add_pieces(text, scanner(ScannerKind::kGpt2));
    bytes += static_cast<int64_t>(text.size());
  };
  pool_.parallel_for(pool_.threads(), 1, [&](int64_t begin, int64_t) {
    for (size_t i = next++; i < parts.size(); i = next++) {
      int64_t number = line_of[i];
      for (size_t at = 0; at < parts[i].size(); ++number) {
        const size_t end = std::min(parts[i].find('\n', at), parts[i].size());
        add_line(parts[i].substr(at, end - at), number, counters_[static_cast<size_t>(begin)]);
        at = end + 1;
      }
    }
  });
  bytes_ += bytes;
}

void CorpusCounter::add_file(const std::string& path, const std::string& json_key) {
  if (!ends_with(path, ".jsonl")) {
    for_each_block(path, always_cut, [&](std::string_view block) { add_text(block); });
    return;
  }
  int64_t line = 1;
  for_each_block(path, line_start, [&](std::string_view block) {
    add_lines(block, path, json_key, line);
    line += std::count(block.begin(), block.end(), '\n');
  });
}

WordCounter CorpusCounter::take() {
  WordCounter result = std::move(counters_[0]);
  for (size_t i = 1; i < counters_.size(); ++i) result.merge(counters_[i]);
  counters_.assign(counters_.size(), WordCounter());
  return result;
}

}  // namespace megatron
