#include "checkpoint/model_source.h"

#include <stdlib.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "checkpoint/huggingface_files.h"
#include "checkpoint/layout.h"
#include "config/load.h"

namespace megatron {

using nlohmann::json;

namespace {

CheckpointReader open_checkpoint(const std::string& path, std::optional<int64_t> step, const std::string& option) {
  if (!directory_exists(path)) throw DataError(str_cat(option, " ", path, ": no such folder or GGUF file"));
  if (path_exists(path_join(path, "manifest.json"))) return CheckpointReader::open_folder(path);
  const std::string root = checkpoint_root(path);
  if (step) return CheckpointReader::open(root, *step);
  if (auto reader = CheckpointReader::open_latest(root)) return std::move(*reader);
  throw DataError(str_cat(option, " ", path,
                          ": holds no checkpoint (no iter_* folder), is no Hugging Face folder (no config.json) and no "
                          "GGUF file; give the folder of checkpoint.save, or one of these"));
}

/// The configuration of the run that wrote it; its rules reckon with the ranks of that run.
Config saved_config(const CheckpointReader& reader) {
  LoadOptions options;
  options.check_rules = false;
  return load_config_text(reader.read_text("resolved.yaml"), reader.folder() + "/resolved.yaml", options).config;
}

/// Texts as files, for as long as it lives.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::map<std::string, std::string>& texts) {
    path_ = (std::filesystem::temp_directory_path() / "megatron-XXXXXX").string();
    if (::mkdtemp(path_.data()) == nullptr) throw_file_error("make the folder", path_, errno);
    for (const auto& [name, text] : texts) atomic_write_file(path_join(path_, name), text);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// The token that ends a text, which other programs want to be told; "" where the tokenizer is none that we can run.
std::string end_token(const ModelSource& source) {
  try {
    const std::unique_ptr<Tokenizer> tokenizer = source.tokenizer();
    return tokenizer->eod() ? tokenizer->token_bytes(*tokenizer->eod()) : "";
  } catch (const DataError&) {
    return "";
  }
}

}  // namespace

bool is_outer_model(const std::string& path) {
  return is_huggingface_folder(path) || is_gguf_file(path);
}

ModelSource::ModelSource(CheckpointReader checkpoint)
    : checkpoint_(std::make_shared<CheckpointReader>(std::move(checkpoint))), config_(saved_config(*checkpoint_)) {}

ModelSource ModelSource::open(const std::string& path, std::optional<int64_t> step, const std::string& option) {
  if (!is_outer_model(path)) return ModelSource(open_checkpoint(path, step, option));
  ModelSource source;
  if (step) throw UsageError(str_cat(option, " ", path, ": the model of another program has no steps"));
  source.outer_ = std::make_shared<OuterModel>(is_gguf_file(path) ? open_gguf(path) : open_huggingface(path));
  source.config_ = source.outer_->config;
  announce(*source.outer_);
  return source;
}

std::string ModelSource::kind() const {
  if (checkpoint_) return "checkpoint";
  return outer_->naming == Naming::kGguf ? "GGUF" : "Hugging Face";
}

const std::string& ModelSource::path() const {
  return checkpoint_ ? checkpoint_->folder() : outer_->path;
}

bool ModelSource::foreign() const {
  if (outer_) return true;
  return checkpoint_->has_state(kConvertedFrom) && checkpoint_->state_string(kConvertedFrom) != kind();
}

std::unique_ptr<Tokenizer> ModelSource::tokenizer() const {
  // The readers of tokenizers want files; in a GGUF file there are none.
  std::optional<TemporaryFolder> unpacked;
  if (outer_ && outer_->naming == Naming::kGguf) unpacked.emplace(outer_->texts);
  const std::string folder = unpacked ? unpacked->path() : path();
  TokenizerSpec spec;
  spec.tokenizer_type = config_.data.tokenizer_type;
  spec.tokenizer_model =
      path_join(folder, is_sentencepiece_type(spec.tokenizer_type) ? kSentencePieceName : "tokenizer.json");
  spec.vocab_file = path_join(folder, "vocab.json");
  spec.merge_file = path_join(folder, "merges.txt");
  if (config_.model.vocab_size && spec.tokenizer_type == "NullTokenizer") {
    spec.vocab_size = *config_.model.vocab_size - 1;
  }
  return make_tokenizer(spec);
}

std::map<std::string, std::string> ModelSource::texts() const {
  if (outer_) return outer_->texts;
  std::map<std::string, std::string> texts;
  for (const char* name : kSmallFiles) {
    if (checkpoint_->has_file(name)) texts[name] = checkpoint_->read_text(name);
  }
  const bool has_tokenizer = texts.contains("tokenizer.json") || texts.contains(kSentencePieceName);
  if (has_tokenizer && !texts.contains(kTokenizerConfigName)) {
    const std::string end = end_token(*this);
    if (!end.empty()) {
      texts[kTokenizerConfigName] =
          json{{"tokenizer_class", texts.contains("tokenizer.json") ? "PreTrainedTokenizerFast" : "LlamaTokenizer"},
               {"eos_token", end}}
              .dump(2) +
          "\n";
    }
  }
  return texts;
}

void ModelSource::read_box(const TensorRecord& record, const Box& box, std::span<std::byte> out) const {
  if (outer_) return outer_->read_box(record, box, out);
  const StoredTensor* stored = checkpoint_->find(record.name);
  if (stored == nullptr || stored->record.dtype == record.dtype) return checkpoint_->read_box(record, box, out);
  TensorRecord as_stored = record;
  as_stored.dtype = stored->record.dtype;
  const int64_t count = element_count(box.extent);
  std::vector<std::byte> bytes(static_cast<size_t>(count * size_of(as_stored.dtype)));
  checkpoint_->read_box(as_stored, box, bytes);
  detail::convert_elements(as_stored.dtype, bytes.data(), record.dtype, out.data(), count);
}

}  // namespace megatron
