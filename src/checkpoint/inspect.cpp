#include "checkpoint/inspect.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "checkpoint/layout.h"

namespace megatron {
namespace {

constexpr const char* kConfigName = "resolved.yaml";
constexpr size_t kLabelWidth = 14;

std::string padded(std::string text, size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

std::string line(std::string_view label, std::string_view text) {
  return str_cat(padded(std::string(label), kLabelWidth), text, "\n");
}

std::string to_text(const MetaValue& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  if (const auto* integer = std::get_if<int64_t>(&value)) return std::to_string(*integer);
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  std::array<char, 64> number;  // the shortest text that reads back as the same value
  const auto result = std::to_chars(number.data(), number.data() + number.size(), std::get<double>(value));
  return {number.data(), result.ptr};
}

std::string type_text(const TensorRecord& record) {
  std::vector<std::string> extents;
  for (int64_t extent : record.shape) extents.push_back(std::to_string(extent));
  return str_cat(name_of(record.dtype), " [", join(extents, ", "), "]");
}

int64_t tensor_bytes(const TensorRecord& record) {
  return element_count(record.shape) * size_of(record.dtype);
}

std::string describe_kind(const Manifest& manifest, StateKind kind) {
  int64_t tensors = 0, elements = 0, bytes = 0;
  std::set<std::string> types;
  for (const StoredTensor& tensor : manifest.tensors) {
    if (tensor.record.kind != kind) continue;
    ++tensors;
    elements += element_count(tensor.record.shape);
    bytes += tensor_bytes(tensor.record);
    types.emplace(name_of(tensor.record.dtype));
  }
  return line(name_of(kind), str_cat(tensors, " tensors, ", format_count(static_cast<double>(elements)), " elements, ",
                                     format_bytes(static_cast<double>(bytes)), tensors > 0 ? ", " : "",
                                     join({types.begin(), types.end()}, " ")));
}

/// "section.key" -> value of the block-style YAML that a checkpoint holds: nesting is told by indentation.
std::map<std::string, std::string> flatten_config(const std::string& text) {
  std::map<std::string, std::string> settings;
  std::vector<std::pair<size_t, std::string>> path;  // indentation and key of the enclosing maps
  std::map<std::string, int> items;
  for (const std::string& raw : split(text, '\n')) {
    const std::string_view content = trim(raw);
    if (content.empty() || content[0] == '#') continue;
    const size_t indentation = raw.find_first_not_of(' ');
    while (!path.empty() && path.back().first >= indentation) path.pop_back();
    std::string prefix;
    for (const auto& [unused, key] : path) prefix += key + ".";
    const size_t colon = content.find(':');
    if (content[0] == '-' || colon == std::string_view::npos) {
      settings[str_cat(prefix, items[prefix]++)] = std::string(content);
      continue;
    }
    const std::string key(content.substr(0, colon));
    const std::string value(trim(content.substr(colon + 1)));
    if (!value.empty()) settings[prefix + key] = value;
    path.emplace_back(indentation, key);
  }
  return settings;
}

std::string diff_maps(const std::string& title, const std::map<std::string, std::string>& a,
                      const std::map<std::string, std::string>& b) {
  std::set<std::string> keys;
  for (const auto& [key, unused] : a) keys.insert(key);
  for (const auto& [key, unused] : b) keys.insert(key);
  std::string text;
  for (const std::string& key : keys) {
    const auto in_a = a.find(key), in_b = b.find(key);
    if (in_a != a.end() && in_b != b.end() && in_a->second == in_b->second) continue;
    if (in_a != a.end()) text += str_cat("- ", key, ": ", in_a->second, "\n");
    if (in_b != b.end()) text += str_cat("+ ", key, ": ", in_b->second, "\n");
  }
  return text.empty() ? text : str_cat(title, "\n", text);
}

std::map<std::string, std::string> state_texts(const Manifest& manifest) {
  std::map<std::string, std::string> texts = {{"tokenizer", manifest.tokenizer}, {"program", manifest.program}};
  for (const auto& [key, value] : manifest.state) texts["state." + key] = to_text(value);
  return texts;
}

std::map<std::string, std::string> tensor_texts(const Manifest& manifest) {
  std::map<std::string, std::string> texts;
  for (const StoredTensor& tensor : manifest.tensors) texts[tensor.record.name] = type_text(tensor.record);
  return texts;
}

/// Checksums by box, which are comparable when both checkpoints cut the tensor in the same way.
std::vector<std::pair<std::string, std::vector<uint64_t>>> content_key(const StoredTensor& tensor) {
  std::vector<std::pair<std::string, std::vector<uint64_t>>> key;
  for (const Piece& piece : tensor.pieces) key.emplace_back(to_string(piece.box), piece.checksums);
  std::sort(key.begin(), key.end());
  return key;
}

bool same_cut(const StoredTensor& a, const StoredTensor& b) {
  const auto key_a = content_key(a), key_b = content_key(b);
  return std::equal(key_a.begin(), key_a.end(), key_b.begin(), key_b.end(),
                    [](const auto& x, const auto& y) { return x.first == y.first; });
}

std::string diff_contents(const CheckpointReader& a, const CheckpointReader& b) {
  std::string text;
  const bool same_chunks = a.manifest().chunk_bytes == b.manifest().chunk_bytes;
  for (const StoredTensor& tensor : a.manifest().tensors) {
    const StoredTensor* other = b.find(tensor.record.name);
    if (other == nullptr || type_text(other->record) != type_text(tensor.record)) continue;
    if (!same_chunks || !same_cut(tensor, *other)) {
      text += str_cat("? ", tensor.record.name, ": stored in other blocks, contents not compared\n");
    } else if (content_key(tensor) != content_key(*other)) {
      text += str_cat("~ ", tensor.record.name, "\n");
    }
  }
  return text.empty() ? text : str_cat("contents\n", text);
}

}  // namespace

std::vector<std::string> checkpoint_folders(const std::string& path) {
  if (path_exists(path_join(path, kManifestName))) return {path};
  std::vector<std::string> folders;
  for (const Candidate& candidate : list_checkpoints(checkpoint_root(path))) folders.push_back(candidate.path);
  if (folders.empty())
    throw DataError(str_cat(path, ": is no checkpoint and holds none (folders iter_*, here or in checkpoints/)"));
  return folders;
}

std::string describe_checkpoint(const CheckpointReader& checkpoint, bool tensors) {
  const Manifest& manifest = checkpoint.manifest();
  std::string text = line("checkpoint", checkpoint.folder());
  text += line("iteration", str_cat(manifest.iteration, " (commit ", manifest.sequence, ")"));
  text += line("program", manifest.program.empty() ? "unknown" : manifest.program);
  text += line("tokenizer", manifest.tokenizer.empty() ? "none" : manifest.tokenizer);
  text += describe_kind(manifest, StateKind::kParameter) + describe_kind(manifest, StateKind::kOptimizer);
  for (const StoredFile& file : manifest.files) {
    text += line("file", str_cat(file.name, "  ", format_bytes(static_cast<double>(file.bytes))));
  }
  for (const auto& [key, value] : manifest.state) text += line("state", str_cat(key, " = ", to_text(value)));
  if (!tensors) return text;
  size_t width = 0;
  for (const StoredTensor& tensor : manifest.tensors) width = std::max(width, tensor.record.name.size());
  for (const StoredTensor& tensor : manifest.tensors) {
    const TensorRecord& record = tensor.record;
    text += line(name_of(record.kind),
                 str_cat(padded(record.name, width), "  ", type_text(record), "  ",
                         format_bytes(static_cast<double>(tensor_bytes(record))),
                         tensor.pieces.size() == 1 ? "" : str_cat("  ", tensor.pieces.size(), " pieces")));
  }
  return text;
}

std::string diff_checkpoints(const CheckpointReader& a, const CheckpointReader& b) {
  const auto config_of = [](const CheckpointReader& checkpoint) {
    return checkpoint.has_file(kConfigName) ? flatten_config(checkpoint.read_text(kConfigName))
                                            : std::map<std::string, std::string>();
  };
  return diff_maps("settings", config_of(a), config_of(b)) +
         diff_maps("state", state_texts(a.manifest()), state_texts(b.manifest())) +
         diff_maps("tensors", tensor_texts(a.manifest()), tensor_texts(b.manifest())) + diff_contents(a, b);
}

std::vector<std::string> verify_checkpoint(const std::string& folder, ThreadPool* pool) {
  try {
    CheckpointReader checkpoint = CheckpointReader::open_folder(folder, Verify::kNothing);
    checkpoint.set_pool(pool);
    return checkpoint.find_damage(Verify::kFull, /*all=*/true);
  } catch (const DataError& error) {
    return {error.what()};
  }
}

}  // namespace megatron
