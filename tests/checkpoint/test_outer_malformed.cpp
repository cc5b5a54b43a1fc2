// Broken Hugging Face folders and GGUF files: each is refused with a DataError that says where and what; none crashes,
// hangs or takes memory that the file only claims to need.
#include <chrono>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/philox.h"
#include "checkpoint/gguf.h"
#include "checkpoint/outer_model.h"
#include "tests/checkpoint/helpers.h"

using namespace megatron;
using namespace megatron::testing;
using nlohmann::json;

namespace {

const std::string kGolden = std::string(MEGATRON_SOURCE_DIR) + "/tests/golden/";

/// The message of the DataError that `open` throws within five seconds.
template <typename Open>
std::string refusal(const Open& open) {
  const auto start = std::chrono::steady_clock::now();
  std::string message = "nothing was thrown";
  try {
    open();
  } catch (const DataError& error) {
    message = error.what();
  }
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
  return message;
}

void check_names(const std::string& message, const std::string& place, const std::string& expected) {
  INFO(message);
  CHECK(message.find(place) != std::string::npos);
  CHECK(message.find(expected) != std::string::npos);
}

/// A key of the golden llama2's config.json set to something else; "-" takes it away.
struct ConfigCase {
  std::string key, value, expected;
};

/// A table, longer than other functions may be.
std::vector<ConfigCase> config_cases() {
  const std::string rope = R"({"rope_type": "llama3", "rope_theta": 1e4, )";
  return {
      {"model_type", "-", "model_type: '' is not supported"},
      {"model_type", "5", "a string is expected"},
      {"model_type", "\"bert\"", "'bert' is not supported; gpt2, llama"},
      {"model_type", "[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]", "nested deeper than 16"},
      {"hidden_size", "-", "'hidden_size' is missing"},
      {"hidden_size", "null", "'hidden_size' is missing"},
      {"hidden_size", "0", "outside of [1"},
      {"hidden_size", "-48", "outside of [1"},
      {"hidden_size", "48.0", "an integer is expected"},
      {"hidden_size", "\"48\"", "an integer is expected"},
      {"hidden_size", "9223372036854775807", "outside of [1"},
      {"hidden_size", "18446744073709551615", "outside of [1"},
      {"hidden_size", "1048577", "is more than"},
      {"hidden_size", "47", "the model's description makes it"},
      {"num_hidden_layers", "-", "'num_hidden_layers' is missing"},
      {"num_hidden_layers", "0", "outside of [1"},
      {"num_hidden_layers", "1000000000", "is more than"},
      {"num_hidden_layers", "4", "'model.layers.3.input_layernorm.weight' is missing"},
      {"num_hidden_layers", "10000", "is missing"},
      {"num_attention_heads", "-", "'num_attention_heads' is missing"},
      {"num_attention_heads", "7", "does not divide"},
      {"num_attention_heads", "100000", "is more than"},
      {"num_attention_heads", "12", "the model's description makes it"},
      {"num_key_value_heads", "4", "does not divide"},
      {"num_key_value_heads", "true", "an integer is expected"},
      {"num_key_value_heads", "3", "self_attn.k_proj.weight' is [48, 48], the model's description makes it [24, 48]"},
      {"head_dim", "0", "outside of [1"},
      {"head_dim", "7", "rotated channels"},
      {"head_dim", "1", "rotated channels"},
      {"head_dim", "65536", "the model's description makes it"},
      {"intermediate_size", "-", "'intermediate_size' is missing"},
      {"intermediate_size", "81", "gate_proj.weight' is [80, 48]"},
      {"intermediate_size", "99999999", "is more than"},
      {"vocab_size", "-", "'vocab_size' is missing"},
      {"vocab_size", "1", "vocab_size"},
      {"vocab_size", "98", "embed_tokens.weight' is [97, 48]"},
      {"vocab_size", "99999999999", "is more than"},
      {"max_position_embeddings", "{}", "an integer is expected"},
      {"rms_norm_eps", "\"1e-5\"", "a number is expected"},
      {"rms_norm_eps", "0", "norm_epsilon"},
      {"rms_norm_eps", "-1", "norm_epsilon"},
      {"rms_norm_eps", "1e999", "JSON"},
      {"hidden_act", "\"mish\"", "activation 'mish' is not supported"},
      {"hidden_act", "[]", "a string is expected"},
      {"tie_word_embeddings", "1", "true or false is expected"},
      {"use_mrope", "true", "use_mrope: only false is supported"},
      {"attention_bias", "true", "supported together or not at all"},
      {"mlp_bias", "\"no\"", "true or false is expected"},
      {"dtype", "\"float8\"", "'float8' is not float32"},
      {"dtype", "32", "a string is expected"},
      {"quantization_config", "{\"bits\": 4}", "quantised weights are not supported"},
      {"rope_parameters", "5", "an object is expected"},
      {"rope_parameters", "{\"rope_type\": \"dynamic\"}", "'dynamic' is not supported"},
      {"rope_parameters", "{\"rope_theta\": 0}", "rotary_base"},
      {"rope_parameters", "{\"rope_theta\": \"x\"}", "a number is expected"},
      {"rope_parameters", rope + "\"factor\": 0}", "rope_scaling_factor"},
      {"rope_parameters", rope + "\"low_freq_factor\": 2}", "low_freq_factor: 2 is not supported"},
      {"rope_parameters", rope + "\"original_max_position_embeddings\": 4096}", "4096 is not supported"},
      {"rope_parameters", R"({"rope_type": "linear", "factor": 0})", "rotary_seq_len_interpolation_factor"},
      {"rope_parameters", R"({"rope_type": "yarn", "factor": 0.5})", "yarn_rotary_scaling_factor"},
      {"rope_parameters", R"({"rope_type": "yarn", "factor": 4, "attention_factor": 2})", "attention_factor: 2"},
      {"rope_parameters", R"({"rope_type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 2})", "beta_fast"},
  };
}

/// The golden llama2 in a folder of its own, to be spoilt.
struct SpoiltFolder {
  TempFolder folder;
  SpoiltFolder() {
    overwrite(config(), read_file(kGolden + "huggingface/llama2/config.json"));
    overwrite(weights(), read_file(kGolden + "huggingface/llama2/model.safetensors"));
  }
  std::string config() const { return folder.file("config.json"); }
  std::string weights() const { return folder.file("model.safetensors"); }
  std::string index() const { return folder.file("model.safetensors.index.json"); }
  std::string refused() const {
    return refusal([&] { open_huggingface(folder.path()); });
  }
};

/// The pieces of a GGUF file, one after the other.
class Bytes {
 public:
  template <typename T>
  Bytes& put(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Bytes& raw(const std::string& bytes) {
    text_ += bytes;
    return *this;
  }
  Bytes& text(const std::string& value) { return put<uint64_t>(value.size()).raw(value); }
  Bytes& head(uint64_t tensors, uint64_t pairs) { return raw("GGUF").put<uint32_t>(3).put(tensors).put(pairs); }
  Bytes& pair(const std::string& key, uint32_t type) { return text(key).put(type); }
  Bytes& tensor(const std::string& name, const std::vector<uint64_t>& extents, uint32_t type, uint64_t offset) {
    text(name).put<uint32_t>(static_cast<uint32_t>(extents.size()));
    for (uint64_t extent : extents) put(extent);
    return put(type).put(offset);
  }
  /// Zeroes up to the next multiple of 32, then `count` more bytes.
  Bytes& data(size_t count) {
    text_.resize((text_.size() + 31) / 32 * 32 + count, '\0');
    return *this;
  }
  operator std::string() const { return text_; }

 private:
  std::string text_;
};

struct GgufCase {
  std::string bytes, expected;
};

constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();

/// Before the table of tensors.
std::vector<GgufCase> gguf_head_cases() {
  return {
      {"", "byte 0: 4 bytes are expected"},
      {"GGU", "byte 0: 4 bytes are expected"},
      {"GGML" + std::string(40, '\0'), "does not begin with GGUF"},
      {"GGUF", "byte 4: 4 bytes are expected"},
      {Bytes().raw("GGUF").put<uint32_t>(0), "version 0"},
      {Bytes().raw("GGUF").put<uint32_t>(1), "version 1"},
      {Bytes().raw("GGUF").put<uint32_t>(4), "version 4"},
      {Bytes().raw("GGUF").put<uint32_t>(0x03000000), "little-endian"},
      {Bytes().raw("GGUF").put<uint32_t>(3), "byte 8: 8 bytes are expected"},
      {Bytes().raw("GGUF").put<uint32_t>(3).put<uint64_t>(0), "byte 16: 8 bytes are expected"},
      {Bytes().head(kHuge, 0), "byte 8: 18446744073709551615 tensors"},
      {Bytes().head(1000, 0), "1000 tensors do not fit"},
      {Bytes().head(0, kHuge), "byte 16: 18446744073709551615 key-value pairs"},
      {Bytes().head(0, 1), "1 key-value pairs do not fit"},
      {Bytes().head(0, 1).put(kHuge).raw("abcdefgh"), "byte 24: 18446744073709551615 bytes of text"},
      {Bytes().head(0, 1).put<uint64_t>(100).raw("abcdefgh"), "100 bytes of text do not fit"},
      {Bytes().head(0, 1).text("abcdef"), "byte 38: 4 bytes are expected"},
      {Bytes().head(0, 1).pair("ab", 13).put<uint64_t>(0), "unknown type of value 13"},
      {Bytes().head(0, 1).pair("ab", 0xffffffff).put<uint64_t>(0), "unknown type of value"},
      {Bytes().head(0, 1).pair("a", 10).raw("abcd"), "8 bytes are expected, the file has 4 more"},
      {Bytes().head(0, 1).pair("a", 10).put(kHuge), "the number 18446744073709551615 is too large"},
      {Bytes().head(0, 1).pair("a", 7).put<uint8_t>(2), "a truth value is 0 or 1, not 2"},
      {Bytes().head(0, 1).pair("a", 8).put(kHuge), "bytes of text"},
      {Bytes().head(0, 1).pair("a", 9).put<uint32_t>(4), "8 bytes are expected"},
      {Bytes().head(0, 1).pair("a", 9).put<uint32_t>(99).put<uint64_t>(1), "unknown type of value 99"},
      {Bytes().head(0, 1).pair("a", 9).put<uint32_t>(9).put<uint64_t>(1), "lists of lists"},
      {Bytes().head(0, 1).pair("a", 9).put<uint32_t>(0).put(kHuge), "items of a list"},
      {Bytes().head(0, 1).pair("a", 9).put<uint32_t>(12).put<uint64_t>(2).put(0.5), "2 items of a list do not fit"},
      {Bytes().head(0, 1).pair("a", 9).put<uint32_t>(8).put<uint64_t>(1).put(kHuge), "bytes of text"},
      {Bytes().head(0, 2).pair("a", 0).raw("x").pair("a", 0).raw("x").data(64), "the key 'a' appears twice"},
  };
}

/// The table of tensors, and what it says of the data.
std::vector<GgufCase> gguf_tensor_cases() {
  const uint64_t wide = uint64_t{1} << 40;
  const auto one = [](const std::vector<uint64_t>& extents, uint32_t type, uint64_t offset, size_t data) {
    return std::string(Bytes().head(1, 0).tensor("a", extents, type, offset).data(data));
  };
  const auto aligned = [](uint32_t alignment) {
    return std::string(Bytes().head(0, 1).pair("general.alignment", 4).put(alignment).data(64));
  };
  return {
      {Bytes().head(1, 0).tensor("", {1}, 0, 0).data(64), "empty name"},
      {Bytes().head(1, 0).text("abcdefghijkl").put<uint32_t>(1), "8 bytes are expected"},
      {one({}, 0, 0, 64), "0 dimensions"},
      {one({1, 1, 1, 1, 1}, 0, 0, 64), "5 dimensions"},
      {one({kHuge}, 0, 0, 64), "dimension 18446744073709551615 is too large"},
      {one({wide, wide}, 0, 0, 64), "does not fit 62 bits"},
      {one({wide, wide, wide, wide}, 0, 0, 64), "does not fit 62 bits"},
      {one({8}, 6, 0, 64), "element type 6 is not supported"},
      {one({8}, 4, 0, 64), "element type 4 is not supported"},
      {one({8}, 0xffffffff, 0, 64), "is not supported"},
      {one({33}, 8, 0, 64), "rows of 33 elements are no whole blocks of 32 (Q8_0)"},
      {one({128}, 12, 0, 200), "no whole blocks of 256 (Q4_K)"},
      {one({8}, 0, kHuge, 64), "is beyond the end"},
      {one({8}, 0, 4, 64), "does not begin at a multiple of 32"},
      {one({8}, 0, 96, 64), "it is truncated"},
      {one({8}, 0, 0, 31), "has 32 bytes, the file ends at"},
      {one({wide}, 0, 0, 64), "it is truncated"},
      {one({1024}, 30, 0, 64), "it is truncated"},
      {Bytes().head(2, 0).tensor("a", {8}, 0, 0).tensor("a", {8}, 0, 32).data(64), "tensor 'a' appears twice"},
      {Bytes().head(2, 0).tensor("a", {16}, 0, 0).tensor("b", {8}, 0, 32).data(128), "'b' overlaps the one before"},
      {Bytes().head(2, 0).tensor("a", {8}, 0, 0).tensor("b", {8}, 0, 0).data(128), "overlaps the one before"},
      {aligned(0), "general.alignment"},
      {aligned(24), "general.alignment"},
      {aligned(0x80000000), "general.alignment"},
      {Bytes().head(0, 1).pair("general.alignment", 8).text("32").data(64), "general.alignment"},
  };
}

/// A file with one of its first `head` bytes changed, or its end cut off.
std::string spoilt(const std::string& good, uint64_t key, uint64_t i, size_t head) {
  std::string bytes = good;
  const auto draw = [&](uint64_t n, size_t range) {
    return static_cast<size_t>(philox_uniform(key, 4 * i + n) * static_cast<double>(range));
  };
  if (draw(0, 8) == 0) return bytes.substr(0, draw(1, bytes.size()));
  bytes[draw(1, head)] = static_cast<char>(draw(2, 256));
  return bytes;
}

}  // namespace

TEST_CASE("malformed: config.json of Hugging Face") {
  const SpoiltFolder folder;
  const json good = json::parse(read_file(folder.config()));
  REQUIRE(config_cases().size() > 50);
  for (const ConfigCase& c : config_cases()) {
    CAPTURE(c.key, c.value);
    json changed = good;
    changed.erase(c.key);
    std::string text = changed.dump();
    if (c.value != "-") text = str_cat("{\"", c.key, "\": ", c.value, ", ", text.substr(1));
    overwrite(folder.config(), text);
    const std::string message = folder.refused();
    check_names(message, folder.folder.path(), c.expected);
  }
  for (const std::string& text : {std::string(), std::string("null"), std::string("[]"), std::string("{"),
                                  std::string("{}"), std::string(100000, '['), std::string("{\"a\": 1, \"a\": 2}"),
                                  std::string("\xff\xfe{}"), std::string("{\"model_type\": \"llama\"}")}) {
    CAPTURE(text.substr(0, 50));
    overwrite(folder.config(), text);
    check_names(folder.refused(), folder.config(), "");
  }
}

TEST_CASE("config.json: keys that mean nothing here are listed, harmless ones are not") {
  const SpoiltFolder folder;
  json config = json::parse(read_file(folder.config()));
  config["use_cache"] = false;
  config["rope_parameters"]["new_rule"] = 1;
  config["logit_scale"] = 2.0;
  config["auto_map"] = {{"AutoModel", "model.Model"}};
  overwrite(folder.config(), config.dump());
  const std::vector<std::string> expected = {"rope_parameters.new_rule", "auto_map", "logit_scale"};
  CHECK(open_huggingface(folder.folder.path()).unknown == expected);
}

TEST_CASE("malformed: windows and layer types") {
  const SpoiltFolder folder;
  json config = json::parse(read_file(folder.config()));
  config["model_type"] = "qwen2";
  config["sliding_window"] = 4;
  const auto refused = [&](const char* key, const json& value) {
    json changed = config;
    changed[key] = value;
    overwrite(folder.config(), changed.dump());
    return folder.refused();
  };
  check_names(refused("layer_types", {"full_attention"}), "layer_types", "one entry for each of 3 layers");
  check_names(refused("layer_types", "full_attention"), "layer_types", "one entry for each of 3 layers");
  check_names(refused("layer_types", {"full_attention", "full_attention", "linear_attention"}), "layer_types",
              "'linear_attention' is not supported");
  check_names(refused("layer_types", {1, 2, 3}), "layer_types", "a string is expected");
  check_names(refused("sliding_window", 0), "sliding_window", "outside of [1");
  check_names(refused("max_window_layers", -1), "max_window_layers", "outside of [0");
  config["sliding_window"] = nullptr;
  check_names(refused("layer_types", {"full_attention", "full_attention", "sliding_attention"}), "sliding_window",
              "layers with sliding attention need it");
}

TEST_CASE("malformed: weights of Hugging Face, and their index") {
  const SpoiltFolder folder;
  const std::string good = read_file(folder.weights());
  const auto refused = [&](const std::string& index) {
    overwrite(folder.index(), index);
    return folder.refused();
  };
  check_names(refused("{"), folder.index(), "not valid JSON");
  check_names(refused("[]"), folder.index(), "weight_map");
  check_names(refused("{}"), folder.index(), "weight_map");
  check_names(refused(R"({"weight_map": []})"), folder.index(), "weight_map");
  check_names(refused(R"({"weight_map": {"a": 1}})"), folder.index(), "a string is expected");
  check_names(refused(R"({"weight_map": {"a": ""}})"), folder.index(), "not the name of a file");
  check_names(refused(R"({"weight_map": {"a": "../x"}})"), folder.index(), "not the name of a file");
  check_names(refused(R"({"weight_map": {"a": ".."}})"), folder.index(), "not the name of a file");
  check_names(refused(R"({"weight_map": {"a": "/etc/passwd"}})"), folder.index(), "not the name of a file");
  check_names(refused(R"({"weight_map": {"a": "none"}})"), folder.index(), "'none' is missing");
  check_names(refused(R"({"weight_map": {"a": "config.json"}})"), folder.config(), "byte 0");
  check_names(refused(R"({"weight_map": {"a": "model.safetensors"}})"), folder.index(), "where it is not");
  check_names(refused(R"({"weight_map": {}})"), folder.folder.path(), "");
  overwrite(folder.folder.file("more"), good);
  check_names(refused(R"({"weight_map": {"a": "model.safetensors", "b": "more"}})"), folder.folder.file("more"), "too");
  remove_tree(folder.index());
  for (size_t bytes : {size_t{0}, size_t{7}, size_t{8}, size_t{100}, good.size() / 2, good.size() - 1}) {
    CAPTURE(bytes);
    overwrite(folder.weights(), good.substr(0, bytes));
    check_names(folder.refused(), folder.weights(), "");
  }
  std::string integers = good;  // a weight of a type that is none
  for (size_t at = integers.find("\"F32\""); at != std::string::npos; at = integers.find("\"F32\"")) {
    integers.replace(at, 5, "\"I32\"");
  }
  overwrite(folder.weights(), integers);
  check_names(refusal([&] {
                const OuterModel model = open_huggingface(folder.folder.path());
                std::vector<std::byte> out(48 * 4);
                model.tensors->read("model.norm.weight", DType::kF32, out);
              }),
              folder.weights(), "is I32; F32, BF16, F16 and F64 are supported");
  remove_tree(folder.weights());
  check_names(folder.refused(), folder.folder.path(), "only safetensors are read");
}

TEST_CASE("malformed: GGUF") {
  const TempFolder folder;
  const std::string path = folder.file("x.gguf");
  size_t count = 0;
  for (const std::vector<GgufCase>& cases : {gguf_head_cases(), gguf_tensor_cases()}) {
    for (const GgufCase& c : cases) {
      CAPTURE(c.expected);
      overwrite(path, c.bytes);
      check_names(refusal([&] { read_gguf_header(FileReader(path)); }), path, c.expected);
      ++count;
    }
  }
  CHECK(count >= 55);
}

TEST_CASE("malformed: GGUF files that do not describe a model") {
  const TempFolder folder;
  const std::string path = folder.file("x.gguf");
  const auto refused = [&](const std::map<std::string, GgufValue>& metadata) {
    remove_tree(path);
    GgufWriter writer(path, metadata, {{"token_embd.weight", GgmlType::kF32, {2, 4}, 0, 0}});
    writer.append(std::vector<std::byte>(32));
    writer.finish();
    return refusal([&] { open_gguf(path); });
  };
  const auto text = [](const char* value) { return std::string(value); };
  std::map<std::string, GgufValue> keys;
  check_names(refused(keys), path, "'general.architecture' is missing");
  keys["general.architecture"] = int64_t{1};
  check_names(refused(keys), path, "'general.architecture' is missing");
  keys["general.architecture"] = text("mamba");
  check_names(refused(keys), path, "'mamba' is not supported");
  keys["general.architecture"] = text("llama");
  check_names(refused(keys), path, "'llama.block_count' is missing");
  const std::vector<std::pair<std::string, int64_t>> numbers = {
      {"block_count", 1},          {"embedding_length", 4},     {"feed_forward_length", 8},
      {"attention.head_count", 2}, {"attention.key_length", 2}, {"context_length", 16}};
  for (const auto& [key, value] : numbers) {
    const std::string name = "llama." + key;
    keys[name] = int64_t{0};
    check_names(refused(keys), path, name + ": 0 is outside of [1");
    keys[name] = int64_t{1} << 60;
    check_names(refused(keys), path, name + ": 1152921504606846976 is outside of [1");
    keys[name] = text("4");
    check_names(refused(keys), path, name + ": an integer is expected");
    keys[name] = std::vector<int64_t>{1, 2};
    check_names(refused(keys), path, name + ": layers that differ");
    keys[name] = std::vector<int64_t>{};
    check_names(refused(keys), path, name);
    keys[name] = value;
  }
  check_names(refused(keys), path, "'blk.0.attn_norm.weight' is missing");
  const auto with = [&](const std::string& key, const GgufValue& value) {
    auto changed = keys;
    changed["llama." + key] = value;
    return refused(changed);
  };
  check_names(with("rope.freq_base", NAN), path, "a finite floating-point number");
  check_names(with("rope.freq_base", int64_t{1}), path, "a finite floating-point number");
  check_names(with("rope.freq_base", 0.5), path, "rotary_base");
  check_names(with("rope.scaling.type", text("longrope")), path, "'longrope' is not supported");
  check_names(with("rope.scaling.type", int64_t{1}), path, "a text is expected");
  check_names(with("rope.dimension_count", int64_t{4}), path, "rotary_percent");
  check_names(with("attention.value_length", int64_t{4}), path, "differs from key_length");
  check_names(with("attention.head_count_kv", int64_t{3}), path, "does not divide");
  check_names(with("attention.layer_norm_rms_epsilon", 0.0), path, "norm_epsilon");
  auto split = keys;
  split["split.count"] = int64_t{2};
  check_names(refused(split), path, "one of several parts");
}

TEST_CASE("malformed: bytes of a GGUF model changed at random give a DataError or a model") {
  const TempFolder folder;
  const std::string path = folder.file("x.gguf"), good = read_file(kGolden + "gguf/llama2.gguf");
  const FileReader file(kGolden + "gguf/llama2.gguf");
  const auto head = static_cast<size_t>(read_gguf_header(file).tensors.front().offset);
  const uint64_t key = philox_key(5, hash_name("gguf"));
  int refused = 0;
  for (uint64_t i = 0; i < 400; ++i) {
    CAPTURE(i);
    overwrite(path, spoilt(good, key, i, head));
    try {
      const OuterModel model = open_gguf(path);
      CHECK(model.rules.size() > 3);
    } catch (const DataError& error) {
      CHECK(std::string(error.what()).find(path) != std::string::npos);
      ++refused;
    }
  }
  CHECK(refused > 200);
}

TEST_CASE("malformed: bytes of a Hugging Face folder changed at random give a DataError or a model") {
  const SpoiltFolder folder;
  for (const std::string& path : {folder.config(), folder.weights()}) {
    const std::string good = read_file(path);
    // The header of the weights is their first part; config.json is as small as that.
    const size_t head = std::min<size_t>(good.size(), 2500);
    const uint64_t key = philox_key(5, hash_name(path.substr(path.rfind('/'))));
    int refused = 0;
    for (uint64_t i = 0; i < 300; ++i) {
      CAPTURE(path, i);
      overwrite(path, spoilt(good, key, i, head));
      try {
        const OuterModel model = open_huggingface(folder.folder.path());
        CHECK(model.rules.size() > 3);
      } catch (const DataError& error) {
        CHECK(std::string(error.what()).find(folder.folder.path()) != std::string::npos);
        ++refused;
      }
    }
    CHECK(refused > 100);
    overwrite(path, good);
  }
}
