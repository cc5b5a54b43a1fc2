// Models of other programs: a folder of Hugging Face's transformers, or a GGUF file of llama.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file_io.h"
#include "checkpoint/manifest.h"
#include "config/config.h"
#include "models/weight_rules.h"
#include "tensor/dtype.h"

namespace megatron {

/// Tensors of a file, or of several that belong together. Const functions may be called from several threads.
class OuterTensors {
 public:
  struct Entry {
    std::string type;            ///< as the format calls it: "BF16", "Q8_0"
    std::vector<int64_t> shape;  ///< row-major
    std::string file;
  };
  virtual ~OuterTensors() = default;
  const std::map<std::string, Entry>& entries() const { return entries_; }
  /// All elements of a tensor, converted to `dtype` (floating).
  virtual void read(const std::string& name, DType dtype, std::span<std::byte> out) const = 0;

 protected:
  std::map<std::string, Entry> entries_;
};

/// A model as another program left it. What it says of itself and its tensors agree: each parameter has its parts, of
/// the right shapes.
struct OuterModel {
  std::string path;
  Family family = Family::kLlama;
  Naming naming = Naming::kHuggingFace;
  Config config;  ///< complete; run, data and training are placeholders but for the tokenizer
  std::vector<WeightRule> rules;
  std::shared_ptr<const OuterTensors> tensors;
  std::map<std::string, std::string> texts;  ///< small files that belong to it: config.json, tokenizer.json, ...
  std::vector<std::string> unknown;          ///< keys of its description that mean nothing to us
  std::vector<std::string> unused;           ///< tensors that are no parameter
  bool mixed_types = false;                  ///< its tensors have several element types

  /// Null where there is no such parameter.
  const WeightRule* find(const std::string& name) const;
  /// A box of a parameter, as CheckpointReader::read_box, in the type that the record names. DataError when the shapes
  /// differ. The whole parameter is in memory meanwhile.
  void read_box(const TensorRecord& record, const Box& box, std::span<std::byte> out) const;
};

/// True for a folder with config.json, or a file that begins as GGUF does.
bool is_huggingface_folder(const std::string& path);
bool is_gguf_file(const std::string& path);

/// DataError naming file and place for everything that is missing, damaged or not supported.
OuterModel open_huggingface(const std::string& folder);
OuterModel open_gguf(const std::string& file);
OuterModel open_gguf(FileReader file);

/// What the log says of it: family, parameters, element types, and each key and tensor that was not used.
void announce(const OuterModel& model);

namespace detail {
/// Gives `model` its rules, after its config, naming and tensors are there; checks parts against tensors. `prefixes`
/// are left out of, or put before, names of parts where a file does not have them ("model.").
void bind_rules(OuterModel& model, const std::vector<std::string>& prefixes, const std::vector<std::string>& ignored);
/// `count` elements of type `from` become `to`.
void convert_elements(DType from, const std::byte* source, DType to, std::byte* target, int64_t count);
}  // namespace detail

/// A box of row-major `whole` of `shape`.
void copy_box(std::span<const std::byte> whole, const std::vector<int64_t>& shape, const Box& box,
              int64_t element_bytes, std::span<std::byte> out);

}  // namespace megatron
