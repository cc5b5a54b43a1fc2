#include "checkpoint/manifest.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "base/check.h"
#include "base/error.h"
#include "base/file_io.h"
#include "base/hash.h"
#include "base/strings.h"
#include "checkpoint/strict_json.h"

namespace megatron {

using nlohmann::json;

namespace {

constexpr std::string_view kFormat = "megatron-checkpoint";
constexpr std::string_view kFirstLineBegin = "{\"checksum\": \"xxh64:";
constexpr std::string_view kFirstLineEnd = "\",\n";
constexpr std::string_view kSequenceBegin = "\"sequence\": ";
constexpr size_t kHexDigits = 16;
constexpr size_t kFirstLineBytes = kFirstLineBegin.size() + kHexDigits + kFirstLineEnd.size();
constexpr int kMaxDepth = 8;  // manifest, tensors, one tensor, pieces, one piece, its lists
constexpr size_t kMaxDimensions = 16;
constexpr int64_t kMaxChunkBytes = int64_t{1} << 30;  // a reader must hold one chunk
constexpr const char* kNonFinite = "non_finite";

json print_value(const MetaValue& value) {
  if (const double* number = std::get_if<double>(&value); number != nullptr && !std::isfinite(*number)) {
    return {{kNonFinite, std::isnan(*number) ? "nan" : *number > 0 ? "inf" : "-inf"}};
  }
  return std::visit([](const auto& item) { return json(item); }, value);
}

MetaValue parse_value(const json& value, const std::string& where) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_float()) return value.get<double>();
  if (value.is_number_integer()) {
    constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    if (value.is_number_unsigned() && value.get<uint64_t>() > kMax) fail_at(where, "the number does not fit 64 bits");
    return value.get<int64_t>();
  }
  if (value.is_string()) return value.get<std::string>();
  require_keys(value, {kNonFinite}, where);
  const std::string text = json_string(value[kNonFinite], where);
  if (text == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (text == "inf") return std::numeric_limits<double>::infinity();
  if (text == "-inf") return -std::numeric_limits<double>::infinity();
  fail_at(where, str_cat("'", text, "' is not one of nan, inf, -inf"));
}

uint64_t parse_checksum(const json& value, const std::string& where) {
  const auto checksum = parse_hex64(json_string(value, where));
  if (!checksum) fail_at(where, "a checksum has 16 lower-case hexadecimal digits");
  return *checksum;
}

bool is_plain_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos && name != kManifestName;
}

std::vector<StoredFile> parse_files(const json& list, const std::string& path) {
  if (!list.is_array()) fail_at(path, "'files' must be a list");
  std::vector<StoredFile> files;
  std::set<std::string> names;
  for (const json& item : list) {
    const std::string where = str_cat(path, ": files[", files.size(), "]");
    require_keys(item, {"name", "bytes", "header_bytes", "checksum"}, where);
    StoredFile file;
    file.name = json_string(item["name"], where);
    if (!is_plain_name(file.name)) fail_at(where, str_cat(item["name"].dump(), " is not the plain name of a file"));
    if (!names.insert(file.name).second) fail_at(where, str_cat("the file '", file.name, "' appears twice"));
    file.bytes = json_integer(item["bytes"], 0, where);
    file.header_bytes = json_integer(item["header_bytes"], 0, where);
    if (file.header_bytes > file.bytes) fail_at(where, "the header is larger than the file");
    file.checksum = parse_checksum(item["checksum"], where);
    files.push_back(std::move(file));
  }
  return files;
}

Piece parse_piece(const json& item, const TensorRecord& record, const Manifest& manifest, const std::string& where) {
  require_keys(item, {"offset", "extent", "file", "at", "bytes", "checksums"}, where);
  Piece piece;
  piece.box.offset = json_extents(item["offset"], kMaxDimensions, where);
  piece.box.extent = json_extents(item["extent"], kMaxDimensions, where);
  const size_t rank = record.shape.size();
  if (piece.box.offset.size() != rank || piece.box.extent.size() != rank) {
    fail_at(where, str_cat("the box must have ", rank, " dimensions, as the tensor"));
  }
  for (size_t i = 0; i < rank; ++i) {
    if (piece.box.offset[i] + piece.box.extent[i] > record.shape[i]) {
      fail_at(where, str_cat("the box ", to_string(piece.box), " leaves the tensor in dimension ", i));
    }
  }
  piece.bytes = json_integer(item["bytes"], 0, where);
  if (piece.bytes != checked_bytes(piece.box.extent, size_of(record.dtype), where)) {
    fail_at(where, str_cat(piece.bytes, " bytes do not fit the box ", to_string(piece.box)));
  }
  piece.file = json_integer(item["file"], 0, where);
  if (piece.file >= std::ssize(manifest.files)) fail_at(where, str_cat("there is no file number ", piece.file));
  const StoredFile& file = manifest.files[static_cast<size_t>(piece.file)];
  piece.at = json_integer(item["at"], 0, where);
  if (!file.is_shard() || piece.at < file.header_bytes || piece.at + piece.bytes > file.bytes) {
    fail_at(where, str_cat("bytes [", piece.at, ", ", piece.at + piece.bytes, ") are not data of ", file.name));
  }
  if (!item["checksums"].is_array()) fail_at(where, "'checksums' must be a list");
  for (const json& checksum : item["checksums"]) piece.checksums.push_back(parse_checksum(checksum, where));
  if (std::ssize(piece.checksums) != div_ceil(piece.bytes, manifest.chunk_bytes)) {
    fail_at(where, str_cat(piece.checksums.size(), " checksums do not fit ", piece.bytes, " bytes"));
  }
  return piece;
}

/// Boxes inside the shape cover it exactly once when none overlap and their volumes add up.
void check_cover(const StoredTensor& tensor, const std::string& where) {
  std::vector<const Piece*> pieces;
  int64_t covered = 0;
  for (const Piece& piece : tensor.pieces) {
    pieces.push_back(&piece);
    covered += element_count(piece.box.extent);
    if (covered > element_count(tensor.record.shape)) fail_at(where, "its pieces overlap");
  }
  if (covered != element_count(tensor.record.shape)) {
    fail_at(where, str_cat("its pieces hold ", covered, " of ", element_count(tensor.record.shape), " elements"));
  }
  std::sort(pieces.begin(), pieces.end(), [](const Piece* a, const Piece* b) { return a->box.offset < b->box.offset; });
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Box& a = pieces[i]->box;
    for (size_t j = i + 1; j < pieces.size(); ++j) {
      const Box& b = pieces[j]->box;
      if (!a.offset.empty() && b.offset[0] >= a.offset[0] + a.extent[0]) break;  // sorted: no later one can touch a
      if (intersect(a, b)) fail_at(where, str_cat("its pieces ", to_string(a), " and ", to_string(b), " overlap"));
    }
  }
}

StoredTensor parse_tensor(const json& item, const Manifest& manifest, const std::string& path) {
  std::string where = str_cat(path, ": tensors[", manifest.tensors.size(), "]");
  require_keys(item, {"name", "kind", "dtype", "shape", "pieces"}, where);
  StoredTensor tensor;
  TensorRecord& record = tensor.record;
  record.name = json_string(item["name"], where);
  if (record.name.empty()) fail_at(where, "the name is empty");
  where = str_cat(path, ": tensor '", record.name, "'");
  const std::string kind = json_string(item["kind"], where);
  if (kind != name_of(StateKind::kParameter) && kind != name_of(StateKind::kOptimizer)) {
    fail_at(where, str_cat("unknown kind '", kind, "'"));
  }
  record.kind = kind == name_of(StateKind::kParameter) ? StateKind::kParameter : StateKind::kOptimizer;
  try {
    record.dtype = parse_dtype(json_string(item["dtype"], where));
  } catch (const UsageError& error) {
    fail_at(where, error.what());
  }
  record.shape = json_extents(item["shape"], kMaxDimensions, where);
  checked_bytes(record.shape, size_of(record.dtype), where);
  if (!item["pieces"].is_array()) fail_at(where, "'pieces' must be a list");
  for (const json& piece : item["pieces"]) {
    const std::string place = str_cat(where, ": pieces[", tensor.pieces.size(), "]");
    tensor.pieces.push_back(parse_piece(piece, record, manifest, place));
  }
  check_cover(tensor, where);
  return tensor;
}

/// Header and pieces must fill each shard: then every byte of it is covered by a checksum.
void check_shards(const Manifest& manifest, const std::string& path) {
  std::vector<std::vector<std::pair<int64_t, int64_t>>> ranges(manifest.files.size());
  for (const StoredTensor& tensor : manifest.tensors) {
    for (const Piece& piece : tensor.pieces) {
      ranges[static_cast<size_t>(piece.file)].emplace_back(piece.at, piece.at + piece.bytes);
    }
  }
  for (size_t i = 0; i < ranges.size(); ++i) {
    const StoredFile& file = manifest.files[i];
    if (!file.is_shard()) continue;
    std::sort(ranges[i].begin(), ranges[i].end());
    int64_t end = file.header_bytes;
    for (const auto& [from, to] : ranges[i]) {
      if (from != end)
        fail_at(path, str_cat(file.name, ": pieces overlap or leave a gap at byte ", std::min(from, end)));
      end = to;
    }
    if (end != file.bytes) fail_at(path, str_cat(file.name, ": byte ", end, " and later ones belong to no piece"));
  }
}

json print_tensor(const StoredTensor& tensor) {
  json pieces = json::array();
  for (const Piece& piece : tensor.pieces) {
    json checksums = json::array();
    for (uint64_t checksum : piece.checksums) checksums.push_back(hex64(checksum));
    pieces.push_back({{"offset", piece.box.offset},
                      {"extent", piece.box.extent},
                      {"file", piece.file},
                      {"at", piece.at},
                      {"bytes", piece.bytes},
                      {"checksums", std::move(checksums)}});
  }
  return {{"name", tensor.record.name},
          {"kind", name_of(tensor.record.kind)},
          {"dtype", name_of(tensor.record.dtype)},
          {"shape", tensor.record.shape},
          {"pieces", std::move(pieces)}};
}

/// One item per line, so that a person can read and compare manifests.
template <typename Items, typename Print>
std::string print_lines(const Items& items, Print print) {
  std::vector<std::string> lines;
  for (const auto& item : items) lines.push_back(print(item));
  return join(lines, ",\n");
}

}  // namespace

std::string_view name_of(StateKind kind) {
  return kind == StateKind::kParameter ? "parameter" : "optimizer";
}

Box whole_box(const std::vector<int64_t>& shape) {
  return {std::vector<int64_t>(shape.size(), 0), shape};
}

std::optional<Box> intersect(const Box& a, const Box& b) {
  Box common = a;
  for (size_t i = 0; i < a.offset.size(); ++i) {
    const int64_t begin = std::max(a.offset[i], b.offset[i]);
    const int64_t end = std::min(a.offset[i] + a.extent[i], b.offset[i] + b.extent[i]);
    if (begin >= end) return std::nullopt;
    common.offset[i] = begin;
    common.extent[i] = end - begin;
  }
  return common;
}

std::string to_string(const Box& box) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < box.offset.size(); ++i) {
    parts.push_back(str_cat(box.offset[i], ":", box.offset[i] + box.extent[i]));
  }
  return str_cat("[", join(parts, ", "), "]");
}

int64_t element_count(const std::vector<int64_t>& extents) {
  // An empty tensor may have other dimensions whose product does not fit.
  if (std::find(extents.begin(), extents.end(), 0) != extents.end()) return 0;
  return std::accumulate(extents.begin(), extents.end(), int64_t{1}, std::multiplies<>());
}

std::string print_manifest(const Manifest& manifest) {
  const auto field = [](const char* key, const json& value) { return str_cat("\"", key, "\": ", value.dump(), ",\n"); };
  std::string body = str_cat(kSequenceBegin, manifest.sequence, ",\n");
  body += field("format", kFormat) + field("version", kCheckpointVersion) + field("iteration", manifest.iteration);
  body += field("program", manifest.program) + field("tokenizer", manifest.tokenizer);
  body += field("chunk_bytes", manifest.chunk_bytes);
  body += str_cat("\"state\": {\n", print_lines(manifest.state, [](const auto& item) {
                    return str_cat(json(item.first).dump(), ": ", print_value(item.second).dump());
                  }));
  body += str_cat("\n},\n\"files\": [\n", print_lines(manifest.files, [](const StoredFile& file) {
                    return json{{"name", file.name},
                                {"bytes", file.bytes},
                                {"header_bytes", file.header_bytes},
                                {"checksum", hex64(file.checksum)}}
                        .dump();
                  }));
  body +=
      str_cat("\n],\n\"tensors\": [\n",
              print_lines(manifest.tensors, [](const StoredTensor& tensor) { return print_tensor(tensor).dump(); }));
  body += "\n]}\n";
  return str_cat(kFirstLineBegin, hex64(xxh64(body)), kFirstLineEnd, body);
}

std::string read_manifest_text(const std::string& folder) {
  const std::string path = path_join(folder, kManifestName);
  if (!path_exists(path)) {
    fail_at(folder, str_cat("has no ", kManifestName, ": this is no checkpoint, or an incomplete one"));
  }
  return read_file(path);
}

int64_t check_manifest_text(std::string_view text, const std::string& path) {
  const auto checksum =
      text.size() < kFirstLineBytes ? std::nullopt : parse_hex64(text.substr(kFirstLineBegin.size(), kHexDigits));
  if (!checksum || !starts_with(text, kFirstLineBegin) ||
      text.substr(kFirstLineBytes - kFirstLineEnd.size(), kFirstLineEnd.size()) != kFirstLineEnd) {
    fail_at(path, str_cat("bytes [0, ", kFirstLineBytes, "): the line with the checksum is damaged"));
  }
  const std::string_view body = text.substr(kFirstLineBytes);
  if (xxh64(body) != *checksum) {
    fail_at(path, str_cat("bytes [0, ", text.size(), "): the checksum differs: the file is damaged"));
  }
  int64_t sequence = 0;
  const char* const begin = body.data() + std::min(kSequenceBegin.size(), body.size());
  const auto [end, error] = std::from_chars(begin, body.data() + body.size(), sequence);
  if (!starts_with(body, kSequenceBegin) || error != std::errc() || sequence < 1 || end == body.data() + body.size() ||
      *end != ',') {
    fail_at(path, str_cat("byte ", kFirstLineBytes, ": line 2 must hold the sequence number of the checkpoint"));
  }
  return sequence;
}

Manifest parse_manifest(std::string_view text, const std::string& path) {
  Manifest manifest;
  manifest.sequence = check_manifest_text(text, path);
  const json tree = parse_strict_json(text, path, 0, kMaxDepth);
  if (!tree.is_object() || tree.value("format", json()) != kFormat) {
    fail_at(path, str_cat("'format' is not '", kFormat, "': this is not a checkpoint of this program"));
  }
  if (tree.value("version", json()) != kCheckpointVersion) {
    fail_at(path,
            str_cat("the format version is ", tree.value("version", json()).dump(), ", this program reads version ",
                    kCheckpointVersion, ": use the program version that wrote it"));
  }
  require_keys(tree,
               {"checksum", "sequence", "format", "version", "iteration", "program", "tokenizer", "chunk_bytes",
                "state", "files", "tensors"},
               path);
  manifest.iteration = json_integer(tree["iteration"], 0, str_cat(path, ": iteration"));
  manifest.program = json_string(tree["program"], str_cat(path, ": program"));
  manifest.tokenizer = json_string(tree["tokenizer"], str_cat(path, ": tokenizer"));
  manifest.chunk_bytes = json_integer(tree["chunk_bytes"], 1, str_cat(path, ": chunk_bytes"));
  if (manifest.chunk_bytes > kMaxChunkBytes) fail_at(path, "chunk_bytes is larger than 1 GiB");
  if (!tree["state"].is_object()) fail_at(path, "'state' must be an object");
  for (const auto& [key, value] : tree["state"].items()) {
    manifest.state[key] = parse_value(value, str_cat(path, ": state: ", key));
  }
  manifest.files = parse_files(tree["files"], path);
  if (!tree["tensors"].is_array()) fail_at(path, "'tensors' must be a list");
  std::set<std::string> names;
  for (const json& item : tree["tensors"]) {
    manifest.tensors.push_back(parse_tensor(item, manifest, path));
    const std::string& name = manifest.tensors.back().record.name;
    if (!names.insert(name).second) fail_at(path, str_cat("the tensor '", name, "' appears twice"));
  }
  check_shards(manifest, path);
  return manifest;
}

}  // namespace megatron
