#include "checkpoint/convert.h"

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/file_io.h"
#include "base/log.h"
#include "base/strings.h"
#include "checkpoint/layout.h"
#include "checkpoint/store.h"
#include "config/load.h"

namespace megatron {
namespace {

constexpr int64_t kShardBytes = int64_t{5'000'000'000};

/// The parameters of a source as they are to be stored.
std::vector<TensorRecord> parameter_records(const ModelSource& source, DType dtype) {
  std::vector<TensorRecord> records;
  if (source.outer() != nullptr) {
    for (const WeightRule& rule : source.outer()->rules) {
      records.push_back({rule.name, StateKind::kParameter, dtype, rule.shape});
    }
    return records;
  }
  for (const StoredTensor& tensor : source.checkpoint()->manifest().tensors) {
    if (tensor.record.kind != StateKind::kParameter) continue;
    records.push_back(tensor.record);
    records.back().dtype = dtype;
  }
  return records;
}

/// The parameter that was asked for last, whole.
struct LastParameter {
  std::string name;
  std::vector<std::byte> bytes;
};

TensorSource lazily(const ModelSource& source, const TensorRecord& record, const std::shared_ptr<LastParameter>& last) {
  TensorSource tensor{record, whole_box(record.shape), {}, {}};
  tensor.read = [&source, record, last](int64_t offset, std::span<std::byte> out) {
    if (last->name != record.name) {
      last->name.clear();
      last->bytes.resize(static_cast<size_t>(element_count(record.shape) * size_of(record.dtype)));
      source.read_box(record, whole_box(record.shape), last->bytes);
      last->name = record.name;
    }
    std::copy_n(last->bytes.begin() + offset, out.size(), out.begin());
  };
  return tensor;
}

void write_checkpoint(const ModelSource& source, const std::string& to, const std::string& dtype) {
  if (!list_checkpoints(to).empty()) throw UsageError(str_cat("--to ", to, ": holds checkpoints already"));
  Config config = source.config();
  if (!dtype.empty()) config.precision.params_dtype = dtype;
  CheckpointContent content;
  content.iteration = source.checkpoint() != nullptr ? source.checkpoint()->iteration() : 0;
  if (source.checkpoint() != nullptr) content.tokenizer = source.checkpoint()->manifest().tokenizer;
  content.state[kConvertedFrom] = source.foreign() && source.checkpoint() != nullptr
                                      ? source.checkpoint()->state_string(kConvertedFrom)
                                      : source.kind();  // and no progress: a run starts from the weights alone
  content.texts = source.texts();
  content.texts["resolved.yaml"] = to_yaml(config);
  const auto last = std::make_shared<LastParameter>();
  for (const TensorRecord& record : parameter_records(source, parse_dtype(config.precision.params_dtype))) {
    content.tensors.push_back(lazily(source, record, last));
  }
  const SaveResult result = CheckpointStore(to).save(content);
  log_info(str_cat("wrote ", result.folder, ": ", content.tensors.size(), " parameters, ",
                   format_bytes(static_cast<double>(result.bytes))));
}

}  // namespace

std::string_view name_of(ModelFormat format) {
  switch (format) {
    case ModelFormat::kMegatron:
      return "megatron";
    case ModelFormat::kHuggingFace:
      return "huggingface";
    case ModelFormat::kGguf:
      return "gguf";
  }
  return "?";
}

std::optional<ModelFormat> parse_model_format(std::string_view name) {
  for (ModelFormat format : {ModelFormat::kMegatron, ModelFormat::kHuggingFace, ModelFormat::kGguf}) {
    if (name == name_of(format)) return format;
  }
  return std::nullopt;
}

ModelFormat target_format(const ModelSource& source, const std::string& to) {
  if (to.ends_with(".gguf")) return ModelFormat::kGguf;
  return source.checkpoint() != nullptr ? ModelFormat::kHuggingFace : ModelFormat::kMegatron;
}

void convert_model(const ModelSource& source, const std::string& to, ModelFormat format, const std::string& dtype) {
  if (format == ModelFormat::kGguf) return detail::write_gguf(source, to, dtype);
  if (dtype == "q8_0") throw UsageError("--dtype q8_0: only GGUF files have it");
  if (format == ModelFormat::kMegatron) return write_checkpoint(source, to, dtype);
  detail::write_huggingface(source, to, dtype, kShardBytes);
}

}  // namespace megatron
