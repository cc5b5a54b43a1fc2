// A Hugging Face folder from any model.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file_io.h"
#include "base/log.h"
#include "base/strings.h"
#include "checkpoint/convert.h"
#include "checkpoint/huggingface_config.h"
#include "checkpoint/huggingface_files.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/strict_json.h"
#include "config/derive.h"
#include "models/model_spec.h"

namespace megatron {

using nlohmann::json;

namespace {

struct Target {
  Family family = Family::kLlama;
  json config;
  std::vector<WeightRule> rules;
  DType dtype = DType::kF32;
};

std::optional<int64_t> end_token(const ModelSource& source) {
  try {
    return source.tokenizer()->eod();
  } catch (const Error&) {
    return std::nullopt;  // a tokenizer that we cannot run goes along as it is
  }
}

int64_t vocabulary(const ModelSource& source) {
  const Config& config = source.config();
  return config.model.vocab_size ? *config.model.vocab_size : source.tokenizer()->vocab_size();
}

/// The config.json that came with the model, as long as it still says what the model is.
std::optional<json> kept_config(const ModelSource& source, Family& family) {
  const std::map<std::string, std::string> texts = source.texts();
  const auto found = texts.find(kConfigName);
  if (found == texts.end()) return std::nullopt;
  const std::string where = path_join(source.path(), kConfigName);
  const json kept = parse_strict_json(found->second, where, 0, 16);
  const ModelDescription description = read_huggingface_config(kept, where);
  const Config complete = complete_config(description, source.config().precision.params_dtype, where);
  const std::vector<std::string> differences = model_differences(complete.model, source.config().model);
  if (!differences.empty() || *description.model.vocab_size != vocabulary(source)) {
    log_info(str_cat(where, " does not describe this model any more, a new one is written: ", join(differences, ", ")));
    return std::nullopt;
  }
  family = description.family;
  return kept;
}

Target make_target(const ModelSource& source, const std::string& dtype) {
  Target target;
  const Config& config = source.config();
  const std::string type = dtype.empty() ? config.precision.params_dtype : dtype;
  target.dtype = parse_dtype(type);
  std::optional<json> kept = kept_config(source, target.family);
  if (kept && type != config.precision.params_dtype) {
    const char* key = kept->contains("dtype") ? "dtype" : "torch_dtype";
    (*kept)[key] = type == "bf16" ? "bfloat16" : type == "fp16" ? "float16" : type == "fp64" ? "float64" : "float32";
  }
  if (!kept) target.family = choose_family(config.model);
  target.config =
      kept ? std::move(*kept)
           : write_huggingface_config(target.family, config.model, vocabulary(source), type, end_token(source));
  target.rules = weight_rules(target.family, Naming::kHuggingFace, make_model_spec(config, vocabulary(source)));
  return target;
}

/// Which rule's which part goes to which file.
struct Shard {
  std::vector<SafetensorsEntry> entries;
  std::vector<std::pair<size_t, size_t>> parts;
  int64_t bytes = 0;
};

std::vector<Shard> plan_shards(const Target& target, int64_t shard_bytes) {
  std::vector<Shard> shards(1);
  for (size_t r = 0; r < target.rules.size(); ++r) {
    for (size_t p = 0; p < target.rules[r].parts.size(); ++p) {
      const OuterTensor& part = target.rules[r].parts[p];
      const int64_t bytes = element_count(part.shape) * size_of(target.dtype);
      if (!shards.back().entries.empty() && shards.back().bytes + bytes > shard_bytes) shards.emplace_back();
      Shard& shard = shards.back();
      shard.entries.push_back({part.name, std::string(safetensors_dtype(target.dtype)), part.shape, 0, 0});
      shard.parts.emplace_back(r, p);
      shard.bytes += bytes;
    }
  }
  return shards;
}

std::string shard_name(size_t i, size_t count) {
  if (count == 1) return kModelName;
  const auto five = [](size_t n) {
    const std::string digits = std::to_string(n);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  return str_cat("model-", five(i + 1), "-of-", five(count), ".safetensors");
}

void write_shards(const ModelSource& source, const Target& target, const std::vector<Shard>& shards,
                  const std::string& folder) {
  std::vector<std::byte> parameter, bytes;
  size_t loaded = target.rules.size();
  for (size_t s = 0; s < shards.size(); ++s) {
    SafetensorsWriter writer(path_join(folder, shard_name(s, shards.size())), shards[s].entries, {{"format", "pt"}});
    for (const auto& [r, p] : shards[s].parts) {
      const WeightRule& rule = target.rules[r];
      if (loaded != r) {
        parameter.resize(static_cast<size_t>(element_count(rule.shape) * size_of(target.dtype)));
        source.read_box({rule.name, StateKind::kParameter, target.dtype, rule.shape}, whole_box(rule.shape), parameter);
        loaded = r;
      }
      bytes.resize(static_cast<size_t>(element_count(rule.parts[p].shape) * size_of(target.dtype)));
      take_apart(rule, target.dtype, p, parameter, bytes);
      writer.append(bytes);
    }
    writer.finish();
  }
}

std::string index_text(const std::vector<Shard>& shards) {
  json index;
  int64_t total = 0;
  for (size_t s = 0; s < shards.size(); ++s) {
    for (const SafetensorsEntry& entry : shards[s].entries)
      index["weight_map"][entry.name] = shard_name(s, shards.size());
    total += shards[s].bytes;
  }
  index["metadata"]["total_size"] = total;
  return index.dump(2) + "\n";
}

}  // namespace

void detail::write_huggingface(const ModelSource& source, const std::string& folder, const std::string& dtype,
                               int64_t shard_bytes) {
  if (path_exists(folder)) throw UsageError(str_cat("--to ", folder, ": exists already; name a new folder"));
  const Target target = make_target(source, dtype);
  const std::vector<Shard> shards = plan_shards(target, shard_bytes);
  std::map<std::string, std::string> texts = source.texts();
  texts[kConfigName] = target.config.dump(2) + "\n";
  const auto eos = target.config.find("eos_token_id");
  if (!texts.contains("generation_config.json") && eos != target.config.end() && !eos->is_null()) {
    texts["generation_config.json"] = json{{"_from_model_config", true}, {"eos_token_id", *eos}}.dump(2) + "\n";
  }
  if (shards.size() > 1) texts[kIndexName] = index_text(shards);
  int64_t bytes = 0;
  for (const Shard& shard : shards) bytes += shard.bytes;
  const std::string staging = folder + ".partial";
  remove_tree(staging);
  create_directories(staging);
  try {
    require_free_space(staging, bytes);
    write_shards(source, target, shards, staging);
    for (const auto& [name, text] : texts) atomic_write_file(path_join(staging, name), text);
    if (const int error = FileOps::posix().rename(staging, folder); error < 0) {
      throw_file_error("rename to", folder, -error);
    }
  } catch (...) {
    remove_tree(staging);
    throw;
  }
  sync_directory(parent_directory(folder));
  log_info(str_cat("wrote ", folder, ": Hugging Face model of family ", name_of(target.family), ", ", shards.size(),
                   shards.size() == 1 ? " file, " : " files, ", format_bytes(static_cast<double>(bytes))));
}

}  // namespace megatron
