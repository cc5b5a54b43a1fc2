#include "checkpoint/outer_model.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "base/check.h"
#include "base/error.h"
#include "base/log.h"
#include "base/strings.h"
#include "checkpoint/strict_json.h"
#include "models/model_spec.h"

namespace megatron {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::vector<std::string> words;
  for (int64_t extent : shape) words.push_back(std::to_string(extent));
  return "[" + join(words, ", ") + "]";
}

/// The name under which a file has a part; checks its shape.
std::string resolve(const OuterModel& model, const OuterTensor& part, const std::vector<std::string>& prefixes) {
  const auto& entries = model.tensors->entries();
  auto found = entries.find(part.name);
  for (size_t i = 0; found == entries.end() && i < prefixes.size(); ++i) {
    if (starts_with(part.name, prefixes[i])) found = entries.find(part.name.substr(prefixes[i].size()));
  }
  if (found == entries.end()) fail_at(model.path, str_cat("the tensor '", part.name, "' is missing"));
  if (found->second.shape != part.shape) {
    fail_at(found->second.file, str_cat("tensor '", found->first, "' is ", shape_text(found->second.shape),
                                        ", the model's description makes it ", shape_text(part.shape)));
  }
  return found->first;
}

}  // namespace

void detail::bind_rules(OuterModel& model, const std::vector<std::string>& prefixes,
                        const std::vector<std::string>& ignored) {
  ModelSpec spec = make_model_spec(model.config, *model.config.model.vocab_size);
  model.rules = weight_rules(model.family, model.naming, spec);
  std::set<std::string> used, types;
  for (WeightRule& rule : model.rules) {
    for (OuterTensor& part : rule.parts) {
      part.name = resolve(model, part, prefixes);
      used.insert(part.name);
      types.insert(model.tensors->entries().at(part.name).type);
    }
  }
  model.mixed_types = types.size() > 1;
  for (const auto& [name, entry] : model.tensors->entries()) {
    const auto ends = [&, &tensor = name](const std::string& end) { return ends_with(tensor, end); };
    if (!used.contains(name) && std::none_of(ignored.begin(), ignored.end(), ends)) model.unused.push_back(name);
  }
}

void detail::convert_elements(DType from, const std::byte* source, DType to, std::byte* target, int64_t count) {
  if (from == to) {
    std::memcpy(target, source, static_cast<size_t>(count * size_of(from)));
    return;
  }
  dispatch_floating("convert_elements", from, [&](auto from_tag) {
    using From = decltype(from_tag);
    dispatch_floating("convert_elements", to, [&](auto to_tag) {
      using To = decltype(to_tag);
      for (int64_t i = 0; i < count; ++i) {
        From value;
        std::memcpy(&value, source + i * static_cast<int64_t>(sizeof(From)), sizeof value);
        const To result = static_cast<To>(static_cast<Accumulator<From>>(value));
        std::memcpy(target + i * static_cast<int64_t>(sizeof(To)), &result, sizeof result);
      }
    });
  });
}

void copy_box(std::span<const std::byte> whole, const std::vector<int64_t>& shape, const Box& box,
              int64_t element_bytes, std::span<std::byte> out) {
  // Runs of the box: everything behind the last dimension that it cuts.
  size_t cut = shape.size();
  int64_t run = element_bytes;
  while (cut > 0 && box.extent[cut - 1] == shape[cut - 1]) run *= shape[--cut];
  if (cut > 0) run *= box.extent[cut - 1];
  std::vector<int64_t> strides(shape.size());
  int64_t stride = element_bytes;
  for (size_t d = shape.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= shape[d];
  }
  std::vector<int64_t> index(shape.size(), 0);
  for (size_t written = 0; written < out.size(); written += static_cast<size_t>(run)) {
    int64_t offset = 0;
    for (size_t d = 0; d < shape.size(); ++d) offset += (box.offset[d] + index[d]) * strides[d];
    std::memcpy(out.data() + written, whole.data() + offset, static_cast<size_t>(run));
    for (size_t d = cut > 0 ? cut - 1 : 0; d-- > 0;) {
      if (++index[d] < box.extent[d]) break;
      index[d] = 0;
    }
  }
}

const WeightRule* OuterModel::find(const std::string& name) const {
  for (const WeightRule& rule : rules) {
    if (rule.name == name) return &rule;
  }
  return nullptr;
}

void OuterModel::read_box(const TensorRecord& record, const Box& box, std::span<std::byte> out) const {
  const WeightRule* rule = find(record.name);
  if (rule == nullptr) fail_at(path, str_cat("holds no parameter '", record.name, "'"));
  if (rule->shape != record.shape) {
    fail_at(path, str_cat("parameter '", record.name, "' is ", shape_text(rule->shape), ", this run's model makes it ",
                          shape_text(record.shape), "; change section model of the configuration"));
  }
  const int64_t size = size_of(record.dtype);
  std::vector<std::vector<std::byte>> parts;
  for (const OuterTensor& part : rule->parts) {
    parts.emplace_back(static_cast<size_t>(element_count(part.shape) * size));
    tensors->read(part.name, record.dtype, parts.back());
  }
  std::vector<std::byte> whole(static_cast<size_t>(element_count(rule->shape) * size));
  assemble(*rule, record.dtype, {parts.begin(), parts.end()}, whole);
  copy_box(whole, rule->shape, box, size, out);
}

void announce(const OuterModel& model) {
  std::map<std::string, int64_t> types;
  int64_t elements = 0;
  for (const WeightRule& rule : model.rules) {
    elements += element_count(rule.shape);
    for (const OuterTensor& part : rule.parts) ++types[model.tensors->entries().at(part.name).type];
  }
  std::vector<std::string> words;
  for (const auto& [type, count] : types) words.push_back(str_cat(count, " ", type));
  log_info(str_cat(model.path, ": ", model.naming == Naming::kGguf ? "GGUF" : "Hugging Face", " model of family ",
                   name_of(model.family), ", ", format_count(static_cast<double>(elements)),
                   " parameters, tensors: ", join(words, ", ")));
  if (model.mixed_types) {
    log_warn(str_cat(model.path, ": its tensors have several element types; all become ",
                     model.config.precision.params_dtype));
  }
  if (!model.unknown.empty()) {
    log_warn(str_cat(model.path, ": these keys of its description are not known here; if one changes what the model ",
                     "computes, the result is wrong: ", join(model.unknown, ", ")));
  }
  if (!model.unused.empty()) {
    const size_t shown = std::min<size_t>(model.unused.size(), 20);
    log_warn(str_cat(model.path, ": ", model.unused.size(),
                     " tensors are no parameters of this model and are left out: ",
                     join({model.unused.begin(), model.unused.begin() + static_cast<std::ptrdiff_t>(shown)}, ", "),
                     shown < model.unused.size() ? ", ..." : ""));
  }
}

}  // namespace megatron
