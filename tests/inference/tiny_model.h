// Checkpoints of tiny models with known weights, written as training writes them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "config/config.h"
#include "inference/model.h"
#include "tensor/tensor.h"

namespace megatron::testing {

class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Sets the value of element `index` of parameter `name`, whose rows (first dimension) have `row_size` elements.
using WeightFunction = std::function<double(const std::string& name, int64_t index, int64_t row_size)>;

/// Random weights, large enough that every layer decides what comes next.
double random_weight(const std::string& name, int64_t index, int64_t row_size);

/// A model that continues every byte with the next of `script`, in which no byte comes twice, and then ends the
/// document. Its layers add nothing. Needs hidden_size 64 and the ByteTokenizer.
WeightFunction scripted_weights(const std::string& script);

/// Keys of section `model` for a small LLaMA-like model; more may be appended.
extern const char kTinyModel[];

/// Writes iteration 1 to `root`. `model` and `data`: contents of these sections in YAML flow style.
void write_checkpoint(const std::string& root, const std::string& model, const std::string& data,
                      const std::string& dtype, const WeightFunction& weight);

/// One CPU thread.
InferenceModel open_model(const std::string& root);

/// -log p(label | tokens up to `position`) by the program of training without gradients: no cache, no generation code.
class Reference {
 public:
  Reference(const InferenceModel& model, int64_t length);
  ~Reference();
  /// The most likely id after tokens[0 .. position].
  TokenId argmax(const std::vector<TokenId>& tokens, int64_t position);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace megatron::testing
