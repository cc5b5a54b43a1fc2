// Models that transformers wrote: their logits, and there and back again (tests/golden/huggingface/README.md).
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "checkpoint/convert.h"
#include "checkpoint/huggingface_config.h"
#include "checkpoint/safetensors.h"
#include "inference/compare_models.h"
#include "tests/catch.h"
#include "tests/inference/tiny_model.h"

namespace megatron::testing {
namespace {

constexpr double kBound = 1e-4;  // of logits, absolute
const std::vector<std::string> kModels = {"gpt2",    "llama2", "llama3", "llama_bias",
                                          "mistral", "qwen2",  "qwen25", "qwen3"};

std::string golden(const std::string& name) {
  return std::string(MEGATRON_SOURCE_DIR) + "/tests/golden/huggingface/" + name;
}

template <typename T>
std::vector<T> read_values(const std::string& path, const std::string& name) {
  const FileReader file(path);
  for (const SafetensorsEntry& entry : read_safetensors_header(file).entries) {
    if (entry.name != name) continue;
    std::vector<T> values(static_cast<size_t>(entry.bytes) / sizeof(T));
    file.read_at(entry.offset, std::as_writable_bytes(std::span(values)));
    return values;
  }
  FAIL(path + " has no tensor " + name);
  return {};
}

/// Tensors of all safetensors of a folder, as bytes.
std::map<std::string, std::string> tensor_bytes(const std::string& folder) {
  std::map<std::string, std::string> tensors;
  for (const std::string& name : list_directory(folder)) {
    if (!name.starts_with("model") || !name.ends_with(".safetensors")) continue;
    const FileReader file(path_join(folder, name));
    for (const SafetensorsEntry& entry : read_safetensors_header(file).entries) {
      std::string bytes(static_cast<size_t>(entry.bytes), '\0');
      file.read_at(entry.offset, std::as_writable_bytes(std::span(bytes)));
      tensors[entry.name] = entry.dtype + bytes;
    }
  }
  return tensors;
}

nlohmann::json json_of(const std::string& path) {
  return nlohmann::json::parse(read_file(path));
}

/// Largest difference of our logits [S, B, V] from those of transformers [B, S, V].
double logits_error(const ModelSource& source, const std::string& name) {
  const std::string expected = golden(name) + "/expected.safetensors";
  const auto ids = read_values<int32_t>(expected, "tokens");
  const auto logits = read_values<float>(expected, "logits");
  constexpr size_t kBatch = 2;
  const size_t length = ids.size() / kBatch, vocabulary = logits.size() / ids.size();
  std::vector<std::vector<TokenId>> tokens(kBatch);
  for (size_t i = 0; i < ids.size(); ++i) tokens[i / length].push_back(ids[i]);
  const Activations values = run_model(source, tokens);
  REQUIRE(values.back().first == "logits");
  REQUIRE(values.back().second.size() == logits.size());
  double error = 0;
  for (size_t b = 0; b < kBatch; ++b) {
    for (size_t s = 0; s < length; ++s) {
      for (size_t v = 0; v < vocabulary; ++v) {
        const double ours = values.back().second[(s * kBatch + b) * vocabulary + v];
        const double d = std::abs(ours - static_cast<double>(logits[(b * length + s) * vocabulary + v]));
        error = std::isnan(d) ? INFINITY : std::max(error, d);
      }
    }
  }
  return error;
}

}  // namespace

TEST_CASE("huggingface: logits are those of transformers, read directly and after import") {
  for (const std::string& name : kModels) {
    CAPTURE(name);
    const TempFolder folder;
    const ModelSource source = ModelSource::open(golden(name), std::nullopt, "--from");
    CHECK(source.outer()->unknown.empty());
    CHECK(source.outer()->unused.empty());
    CHECK(logits_error(source, name) < kBound);
    convert_model(source, folder.path() + "/ours", ModelFormat::kMegatron, "");
    const ModelSource ours = ModelSource::open(folder.path() + "/ours", std::nullopt, "--from");
    CHECK(ours.kind() == "checkpoint");
    CHECK(logits_error(ours, name) < kBound);
  }
}

TEST_CASE("huggingface: import and export give the same tensors, bit for bit, and the same config.json") {
  for (const std::string& name : kModels) {
    CAPTURE(name);
    const TempFolder folder;
    const std::string ours = folder.path() + "/ours", back = folder.path() + "/back";
    convert_model(ModelSource::open(golden(name), std::nullopt, "--from"), ours, ModelFormat::kMegatron, "");
    convert_model(ModelSource::open(ours, std::nullopt, "--from"), back, ModelFormat::kHuggingFace, "");
    CHECK(tensor_bytes(back) == tensor_bytes(golden(name)));
    CHECK(json_of(back + "/config.json") == json_of(golden(name) + "/config.json"));
    CHECK(json_of(back + "/generation_config.json") == json_of(golden(name) + "/generation_config.json"));
    CHECK_FALSE(path_exists(back + ".partial"));
  }
}

TEST_CASE("gguf: a file that the gguf package wrote has the logits of the model it was made from") {
  const ModelSource source =
      ModelSource::open(std::string(MEGATRON_SOURCE_DIR) + "/tests/golden/gguf/llama2.gguf", std::nullopt, "--from");
  CHECK(source.kind() == "GGUF");
  CHECK(source.outer()->unknown.empty());
  CHECK(source.outer()->unused.empty());
  CHECK(logits_error(source, "llama2") < kBound);
}

TEST_CASE("gguf: all families that it has a place for, written and read again") {
  for (const std::string& name : kModels) {
    if (name == "qwen2") continue;  // a sliding window in some layers
    CAPTURE(name);
    const TempFolder folder;
    const std::string file = folder.path() + "/x.gguf", back = folder.path() + "/back";
    const ModelSource source = ModelSource::open(golden(name), std::nullopt, "--from");
    convert_model(source, file, target_format(source, file), "");
    const ModelSource gguf = ModelSource::open(file, std::nullopt, "--from");
    CHECK(gguf.outer()->unknown.empty());
    CHECK(gguf.outer()->unused.empty());
    CHECK(gguf.outer()->family == source.outer()->family);
    CHECK(model_differences(gguf.config().model, source.config().model).empty());
    CHECK(logits_error(gguf, name) < kBound);
    convert_model(gguf, back, ModelFormat::kHuggingFace, "");
    CHECK(tensor_bytes(back) == tensor_bytes(golden(name)));
  }
}

TEST_CASE("gguf: Q8_0 keeps the logits to a few parts in a thousand of the largest") {
  const TempFolder folder;
  const std::string ours = folder.path() + "/ours", file = folder.path() + "/x.gguf";
  write_checkpoint(ours,
                   "family: gpt, num_layers: 2, hidden_size: 64, ffn_hidden_size: 96, num_attention_heads: 4, "
                   "num_query_groups: 2, vocab_size: 64, seq_length: 16, position_embedding_type: rope, normalization: "
                   "RMSNorm, swiglu: true, add_bias_linear: false, untie_embeddings_and_output_weights: true",
                   "tokenizer_type: NullTokenizer", "fp32", random_weight);
  const ModelSource source = ModelSource::open(ours, std::nullopt, "--from");
  convert_model(source, file, ModelFormat::kGguf, "q8_0");
  const ModelSource gguf = ModelSource::open(file, std::nullopt, "--from");
  CHECK(gguf.outer()->tensors->entries().at("blk.1.ffn_down.weight").type == "Q8_0");
  const auto tokens = probe_tokens(64, 16);
  const Activations a = run_model(source, tokens), b = run_model(gguf, tokens);
  CHECK(compare_activations(a, b, 0.05).first_difference.empty());
  CHECK(compare_activations(a, b, 0).largest_error > 0);
}

TEST_CASE("convert: a model of ours without a config.json gets one that says the same") {
  for (const std::string& name : kModels) {
    CAPTURE(name);
    const TempFolder folder;
    const ModelSource source = ModelSource::open(golden(name), std::nullopt, "--from");
    const Config& config = source.config();
    const Family family = choose_family(config.model);
    CHECK(family == source.outer()->family);
    const nlohmann::json written =
        write_huggingface_config(family, config.model, *config.model.vocab_size, config.precision.params_dtype, 5);
    const ModelDescription read = read_huggingface_config(written, "config.json");
    CHECK(read.unknown.empty());
    CHECK(*read.dtype == config.precision.params_dtype);
    CHECK(*read.model.vocab_size == *config.model.vocab_size);
    const Config again = complete_config(read, *read.dtype, "config.json");
    CHECK(model_differences(again.model, config.model).empty());
    CHECK(again.model.max_position_embeddings == config.model.max_position_embeddings);
  }
}

TEST_CASE("compare_activations names the first value that differs") {
  const Activations a = {{"one", {1, 2}}, {"two", {3, 4}}, {"logits", {5, 6}}};
  Activations b = a;
  CHECK(compare_activations(a, b, 0).first_difference.empty());
  b[1].second[0] = 3.1F;
  b[2].second[1] = 5.0F;
  CHECK(compare_activations(a, b, 0.01).first_difference == "two");
  CHECK(compare_activations(a, b, 0.03).first_difference == "logits");
  CHECK(compare_activations(a, b, 0.2).first_difference.empty());
  b[0].second[1] = NAN;
  CHECK(compare_activations(a, b, 0.2).first_difference == "one");
}

}  // namespace megatron::testing
