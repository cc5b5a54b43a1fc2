#include "checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "checkpoint/strict_json.h"

namespace megatron {

using nlohmann::json;

namespace {

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeaderBytes = 100'000'000;
constexpr int64_t kAlignment = 64;
constexpr int kMaxDepth = 4;  // tensors, one tensor, its lists
constexpr size_t kMaxDimensions = 32;
constexpr std::string_view kMetadata = "__metadata__";

constexpr std::array<std::pair<std::string_view, int64_t>, 16> kElementBytes = {{{"F64", 8},
                                                                                 {"F32", 4},
                                                                                 {"F16", 2},
                                                                                 {"BF16", 2},
                                                                                 {"F8_E4M3", 1},
                                                                                 {"F8_E5M2", 1},
                                                                                 {"F8_E8M0", 1},
                                                                                 {"I64", 8},
                                                                                 {"I32", 4},
                                                                                 {"I16", 2},
                                                                                 {"I8", 1},
                                                                                 {"U64", 8},
                                                                                 {"U32", 4},
                                                                                 {"U16", 2},
                                                                                 {"U8", 1},
                                                                                 {"BOOL", 1}}};

SafetensorsEntry parse_entry(const std::string& name, const json& value, int64_t data_offset, const std::string& path) {
  const std::string where = str_cat(path, ": tensor '", name, "'");
  if (name.empty()) fail_at(path, "a tensor has an empty name");
  require_keys(value, {"dtype", "shape", "data_offsets"}, where);
  SafetensorsEntry entry;
  entry.name = name;
  entry.dtype = json_string(value["dtype"], str_cat(where, ": dtype"));
  const int64_t element_bytes = safetensors_element_bytes(entry.dtype);
  if (element_bytes == 0) fail_at(where, str_cat("unknown dtype '", entry.dtype, "'"));
  entry.shape = json_extents(value["shape"], kMaxDimensions, str_cat(where, ": shape"));
  const std::vector<int64_t> range = json_extents(value["data_offsets"], 2, str_cat(where, ": data_offsets"));
  if (range.size() != 2 || range[0] > range[1]) fail_at(where, "data_offsets must be [begin, end] with begin <= end");
  entry.bytes = checked_bytes(entry.shape, element_bytes, where);
  if (range[1] - range[0] != entry.bytes) {
    fail_at(where, str_cat("dtype and shape need ", entry.bytes, " bytes, data_offsets span ", range[1] - range[0]));
  }
  entry.offset = data_offset + range[0];
  return entry;
}

/// The entries, sorted by offset, must fill [data_offset, file size) exactly.
void check_tiling(const SafetensorsHeader& header, const FileReader& file) {
  int64_t expected = header.data_offset;
  for (const SafetensorsEntry& entry : header.entries) {
    if (entry.offset != expected) {
      fail_at(file.path(), str_cat("byte ", std::min(expected, entry.offset), ": tensor '", entry.name,
                                   entry.offset < expected ? "' overlaps the one before" : "' leaves a gap before it"));
    }
    expected += entry.bytes;
    if (expected > file.size()) {
      fail_at(file.path(), str_cat("tensor '", entry.name, "' ends at byte ", expected, ", the file at ", file.size(),
                                   ": it is truncated"));
    }
  }
  if (expected != file.size()) {
    fail_at(file.path(), str_cat("byte ", expected, ": ", file.size() - expected, " bytes belong to no tensor"));
  }
}

}  // namespace

int64_t safetensors_element_bytes(std::string_view dtype) {
  for (const auto& [name, bytes] : kElementBytes) {
    if (name == dtype) return bytes;
  }
  return 0;
}

std::string_view safetensors_dtype(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "F64";
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF16:
      return "F16";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kU8:
      return "U8";
  }
  fail_dtype("safetensors", dtype);
}

SafetensorsHeader read_safetensors_header(const FileReader& file) {
  if (file.size() < kLengthBytes) {
    fail_at(file.path(), str_cat("has ", file.size(), " bytes, too few for a safetensors file"));
  }
  uint64_t length = 0;
  file.read_at(0, std::as_writable_bytes(std::span(&length, 1)));
  const int64_t available = file.size() - kLengthBytes;
  if (length > static_cast<uint64_t>(kMaxHeaderBytes) || length > static_cast<uint64_t>(available)) {
    fail_at(file.path(), str_cat("byte 0: the header is said to have ", length, " bytes, the file has ", available,
                                 " more and ", kMaxHeaderBytes, " are allowed"));
  }
  std::string text(length, '\0');
  file.read_at(kLengthBytes, std::as_writable_bytes(std::span(text)));
  if (text.empty() || text[0] != '{') fail_at(file.path(), "byte 8: the header must begin with '{'");

  SafetensorsHeader header;
  header.data_offset = kLengthBytes + static_cast<int64_t>(length);
  const json tree = parse_strict_json(text, file.path(), kLengthBytes, kMaxDepth);
  for (const auto& [name, value] : tree.items()) {
    if (name != kMetadata) {
      header.entries.push_back(parse_entry(name, value, header.data_offset, file.path()));
      continue;
    }
    if (!value.is_object()) fail_at(file.path(), "__metadata__ must be an object");
    for (const auto& [key, item] : value.items()) {
      header.metadata[key] = json_string(item, str_cat(file.path(), ": __metadata__: ", key));
    }
  }
  std::sort(header.entries.begin(), header.entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;  // empty tensors share an offset
  });
  check_tiling(header, file);
  return header;
}

std::string make_safetensors_header(std::vector<SafetensorsEntry>& entries,
                                    const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json tree = nlohmann::ordered_json::object();
  if (!metadata.empty()) tree[std::string(kMetadata)] = metadata;
  int64_t end = 0;
  for (SafetensorsEntry& entry : entries) {
    const int64_t element_bytes = safetensors_element_bytes(entry.dtype);
    MEGATRON_CHECK(element_bytes > 0, "unknown safetensors dtype " + entry.dtype);
    MEGATRON_CHECK(!entry.name.empty() && entry.name != kMetadata, "not a tensor name: '" + entry.name + "'");
    entry.bytes = checked_bytes(entry.shape, element_bytes, entry.name);
    entry.offset = end;
    end += entry.bytes;
    tree.push_back(
        {entry.name, {{"dtype", entry.dtype}, {"shape", entry.shape}, {"data_offsets", {entry.offset, end}}}});
  }
  MEGATRON_CHECK(tree.size() == entries.size() + (metadata.empty() ? 0 : 1), "two tensors have the same name");
  std::string text = tree.dump();
  text.resize(static_cast<size_t>(round_up(kLengthBytes + std::ssize(text), kAlignment) - kLengthBytes), ' ');
  const uint64_t length = text.size();
  std::string header(kLengthBytes, '\0');
  std::memcpy(header.data(), &length, sizeof length);
  header += text;
  for (SafetensorsEntry& entry : entries) entry.offset += std::ssize(header);
  return header;
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<SafetensorsEntry> entries,
                                     const std::map<std::string, std::string>& metadata, FileOps& ops)
    : entries_(std::move(entries)), file_(path, FileOps::Create::kNew, ops) {
  const std::string header = make_safetensors_header(entries_, metadata);
  header_bytes_ = std::ssize(header);
  header_checksum_ = xxh64(header);
  total_bytes_ = entries_.empty() ? header_bytes_ : entries_.back().offset + entries_.back().bytes;
  file_.allocate(total_bytes_);
  file_.append(header);
}

void SafetensorsWriter::finish() {
  MEGATRON_CHECK(file_.appended() == total_bytes_,
                 str_cat(file_.path(), ": ", file_.appended(), " of ", total_bytes_, " bytes were given"));
  file_.finish();
}

}  // namespace megatron
