// A trained model on storage, in whatever form: a checkpoint of ours, a Hugging Face folder, a GGUF file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "checkpoint/outer_model.h"
#include "checkpoint/reader.h"
#include "config/config.h"
#include "tokenizer/tokenizer.h"

namespace megatron {

/// True when `path` is a model of another program; the kinds are told apart by their files.
bool is_outer_model(const std::string& path);

/// State of a converted checkpoint: the kind() that it was made of.
inline constexpr char kConvertedFrom[] = "converted_from";

class ModelSource {
 public:
  /// `path`: a folder of checkpoints (the newest complete one is taken, or `step`), one iter_* folder, a run folder, a
  /// Hugging Face folder, or a GGUF file. DataError, beginning with `option`, where there is none.
  static ModelSource open(const std::string& path, std::optional<int64_t> step, const std::string& option);

  /// A checkpoint that is open already.
  explicit ModelSource(CheckpointReader checkpoint);

  /// "checkpoint", "Hugging Face", "GGUF".
  std::string kind() const;
  /// Where it lies: the iter_* folder, the folder, the file.
  const std::string& path() const;
  /// Configuration of the run that wrote it; for other programs' models one that describes them.
  const Config& config() const { return config_; }
  /// One of ours: null for the others.
  const CheckpointReader* checkpoint() const { return checkpoint_.get(); }
  /// Another program's: null for ours.
  const OuterModel* outer() const { return outer_.get(); }

  /// True when the weights are another program's, converted or not: they expect what their tokenizer puts around a
  /// text.
  bool foreign() const;
  std::unique_ptr<Tokenizer> tokenizer() const;
  /// Small files that go with the model wherever it goes: tokenizer, config.json, ...
  std::map<std::string, std::string> texts() const;
  /// As CheckpointReader::read_box.
  void read_box(const TensorRecord& record, const Box& box, std::span<std::byte> out) const;

 private:
  ModelSource() = default;

  std::shared_ptr<const CheckpointReader> checkpoint_;
  std::shared_ptr<const OuterModel> outer_;
  Config config_;
};

}  // namespace megatron
