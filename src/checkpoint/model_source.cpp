#include "checkpoint/model_source.h"

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "checkpoint/huggingface_files.h"
#include "checkpoint/layout.h"
#include "config/load.h"

namespace megatron {
namespace {

CheckpointReader open_checkpoint(const std::string& path, std::optional<int64_t> step, const std::string& option) {
  if (!directory_exists(path)) throw DataError(str_cat(option, " ", path, ": no such folder"));
  if (path_exists(path_join(path, "manifest.json"))) return CheckpointReader::open_folder(path);
  const std::string root = checkpoint_root(path);
  if (step) return CheckpointReader::open(root, *step);
  if (auto reader = CheckpointReader::open_latest(root)) return std::move(*reader);
  throw DataError(str_cat(option, " ", path,
                          ": holds no checkpoint (no iter_* folder) and is no Hugging Face folder (no config.json); "
                          "give the folder of checkpoint.save"));
}

/// The configuration of the run that wrote it; its rules reckon with the ranks of that run.
Config saved_config(const CheckpointReader& reader) {
  LoadOptions options;
  options.check_rules = false;
  return load_config_text(reader.read_text("resolved.yaml"), reader.folder() + "/resolved.yaml", options).config;
}

}  // namespace

bool is_outer_model(const std::string& path) {
  return is_huggingface_folder(path);
}

ModelSource ModelSource::open(const std::string& path, std::optional<int64_t> step, const std::string& option) {
  ModelSource source;
  if (is_outer_model(path)) {
    if (step) throw UsageError(str_cat(option, " ", path, ": the model of another program has no steps"));
    source.outer_ = std::make_shared<OuterModel>(open_huggingface(path));
    source.config_ = source.outer_->config;
    announce(*source.outer_);
  } else {
    source.checkpoint_ = std::make_shared<CheckpointReader>(open_checkpoint(path, step, option));
    source.config_ = saved_config(*source.checkpoint_);
  }
  return source;
}

std::string ModelSource::kind() const {
  if (checkpoint_) return "checkpoint";
  return outer_->naming == Naming::kGguf ? "GGUF" : "Hugging Face";
}

const std::string& ModelSource::path() const {
  return checkpoint_ ? checkpoint_->folder() : outer_->path;
}

std::unique_ptr<Tokenizer> ModelSource::tokenizer() const {
  TokenizerSpec spec;
  spec.tokenizer_type = config_.data.tokenizer_type;
  const std::string folder = path();
  spec.tokenizer_model = path_join(folder, "tokenizer.json");
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
