// Folders as transformers writes them: config.json, safetensors (with an index when there are several), tokenizer
// files.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "checkpoint/huggingface_config.h"
#include "checkpoint/huggingface_files.h"
#include "checkpoint/outer_model.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/strict_json.h"
#include "tokenizer/tokenizer.h"

namespace megatron {

using nlohmann::json;

namespace {

constexpr int64_t kMaxConfigBytes = 16 << 20, kMaxIndexBytes = 256 << 20;
constexpr int kMaxDepth = 16, kMaxTokenizerDepth = 64;
constexpr int64_t kChunkElements = int64_t{1} << 22;

std::optional<DType> floating_type(const std::string& name) {
  for (DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    if (name == safetensors_dtype(dtype)) return dtype;
  }
  return std::nullopt;
}

class SafetensorsFolder : public OuterTensors {
 public:
  explicit SafetensorsFolder(const std::string& folder) {
    const std::string index = path_join(folder, kIndexName), single = path_join(folder, kModelName);
    if (path_exists(index)) {
      open_index(folder, index);
    } else if (path_exists(single)) {
      open_file(single);
    } else {
      throw DataError(str_cat(folder, ": neither ", kModelName, " nor ", kIndexName,
                              "; only safetensors are read, save the model again with safe_serialization"));
    }
  }

  void read(const std::string& name, DType dtype, std::span<std::byte> out) const override {
    const Place& place = places_.at(name);
    const std::optional<DType> type = floating_type(entries_.at(name).type);
    if (!type) {
      fail_at(entries_.at(name).file,
              str_cat("tensor '", name, "' is ", entries_.at(name).type, "; F32, BF16, F16 and F64 are supported"));
    }
    const int64_t size = size_of(*type), total = place.bytes / size;
    const FileReader& file = files_[place.file];
    if (*type == dtype) return file.read_at(place.offset, out);
    std::vector<std::byte> chunk(static_cast<size_t>(std::min(total, kChunkElements) * size));
    for (int64_t first = 0; first < total; first += kChunkElements) {
      const int64_t count = std::min(kChunkElements, total - first);
      file.read_at(place.offset + first * size, std::span(chunk).first(static_cast<size_t>(count * size)));
      detail::convert_elements(*type, chunk.data(), dtype, out.data() + first * size_of(dtype), count);
    }
  }

 private:
  struct Place {
    size_t file = 0;
    int64_t offset = 0, bytes = 0;
  };

  void open_file(const std::string& path) {
    files_.emplace_back(path);
    const SafetensorsHeader header = read_safetensors_header(files_.back());
    for (const SafetensorsEntry& entry : header.entries) {
      if (!entries_.emplace(entry.name, Entry{entry.dtype, entry.shape, path}).second) {
        fail_at(path, str_cat("tensor '", entry.name, "' is in ", entries_.at(entry.name).file, " too"));
      }
      places_[entry.name] = {files_.size() - 1, entry.offset, entry.bytes};
    }
  }

  /// The index says which file has which tensor; both must agree.
  void open_index(const std::string& folder, const std::string& path) {
    const json index = parse_strict_json(read_file(path, kMaxIndexBytes), path, 0, kMaxDepth);
    if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
      fail_at(path, "an object with the object 'weight_map' is expected");
    }
    std::map<std::string, std::string> expected;
    std::vector<std::string> names;
    for (const auto& [tensor, file] : index["weight_map"].items()) {
      const std::string where = str_cat(path, ": weight_map: ", tensor), name = json_string(file, where);
      if (name.empty() || name.find('/') != std::string::npos || name == "..") {
        fail_at(where, str_cat("'", name, "' is not the name of a file in this folder"));
      }
      expected[tensor] = path_join(folder, name);
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
    for (const std::string& name : names) {
      if (!path_exists(path_join(folder, name))) fail_at(path, str_cat("the file '", name, "' is missing"));
      open_file(path_join(folder, name));
    }
    for (const auto& [tensor, file] : expected) {
      const auto found = entries_.find(tensor);
      if (found == entries_.end() || found->second.file != file) {
        fail_at(path, str_cat("weight_map says that tensor '", tensor, "' is in ", file, ", where it is not"));
      }
    }
  }

  std::vector<FileReader> files_;
  std::map<std::string, Place> places_;
};

/// Files beside the weights that belong to the model.
std::map<std::string, std::string> small_files(const std::string& folder) {
  std::map<std::string, std::string> texts;
  for (const char* name : kSmallFiles) {
    const std::string path = path_join(folder, name);
    if (path_exists(path)) texts[name] = read_file(path, kMaxIndexBytes);
  }
  return texts;
}

}  // namespace

bool adds_begin_token(const std::map<std::string, std::string>& texts) {
  const auto config = texts.find(kTokenizerConfigName);
  if (config == texts.end()) return true;
  const json settings = parse_strict_json(config->second, kTokenizerConfigName, 0, kMaxTokenizerDepth);
  const auto add = settings.is_object() ? settings.find("add_bos_token") : settings.end();
  return add == settings.end() || *add != false;
}

void set_tokenizer(Config& config, const std::map<std::string, std::string>& texts) {
  if (texts.contains("tokenizer.json")) {
    config.data.tokenizer_type = "HuggingFaceTokenizer";
    config.data.tokenizer_model = "tokenizer.json";
  } else if (texts.contains("vocab.json") && texts.contains("merges.txt")) {
    config.data.tokenizer_type = "GPT2BPETokenizer";
    config.data.vocab_file = "vocab.json";
    config.data.merge_file = "merges.txt";
  } else if (texts.contains(kSentencePieceName)) {
    config.data.tokenizer_type = adds_begin_token(texts) ? "Llama2Tokenizer" : "SentencePieceTokenizer";
    config.data.tokenizer_model = kSentencePieceName;
  }
}

bool is_huggingface_folder(const std::string& path) {
  return directory_exists(path) && path_exists(path_join(path, kConfigName)) &&
         !path_exists(path_join(path, "manifest.json"));
}

OuterModel open_huggingface(const std::string& folder) {
  OuterModel model;
  model.path = folder;
  model.naming = Naming::kHuggingFace;
  const std::string path = path_join(folder, kConfigName);
  const json object = parse_strict_json(read_file(path, kMaxConfigBytes), path, 0, kMaxDepth);
  const ModelDescription description = read_huggingface_config(object, path);
  model.family = description.family;
  model.unknown = description.unknown;
  auto tensors = std::make_shared<SafetensorsFolder>(folder);
  model.tensors = tensors;
  std::string dtype = description.dtype.value_or("");
  if (dtype.empty()) {  // the type of the largest tensor, which is never a norm
    int64_t most = -1;
    for (const auto& [name, entry] : tensors->entries()) {
      const int64_t count = element_count(entry.shape);
      const std::optional<DType> type = floating_type(entry.type);
      if (!type || count <= most) continue;
      most = count;
      dtype = name_of(*type);
    }
  }
  if (dtype.empty()) fail_at(folder, "holds no floating-point tensor");
  model.config = complete_config(description, dtype, path);
  detail::bind_rules(model, {"model.", "transformer."},
                     {".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq", "lm_head.weight"});
  model.texts = small_files(folder);
  set_tokenizer(model.config, model.texts);
  return model;
}

}  // namespace megatron
