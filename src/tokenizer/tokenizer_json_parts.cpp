#include "tokenizer/tokenizer_json_parts.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/file_io.h"
#include "base/strings.h"

namespace megatron {
namespace {

std::vector<TokenId> template_ids(const JsonNode& processor, const JsonNode& special) {
  const JsonNode name = special.at("id");
  const JsonNode ids = processor.at("special_tokens").at(name.string()).at("ids");
  std::vector<TokenId> result;
  for (size_t i = 0; i < ids.array_size(); ++i) {
    const int64_t id = ids.item(i).integer();
    if (id < 0 || id > INT32_MAX) ids.item(i).fail(str_cat("the id ", id, " is outside 0 to ", INT32_MAX));
    result.push_back(static_cast<TokenId>(id));
  }
  return result;
}

/// Content of a token that a config file names: a string, or an object with `content`.
std::optional<std::string> named_token(const JsonNode& root, const std::string& key) {
  const std::optional<JsonNode> node = root.get(key);
  if (!node) return std::nullopt;
  return node->value().is_object() ? node->at("content").string() : node->string();
}

}  // namespace

void refuse_part(const JsonNode& node, const std::string& what) {
  node.fail(str_cat(what,
                    " is not supported. Supported are byte-level BPE tokenizers (GPT-2, LLaMA 3, Qwen and alike) "
                    "and BPE with byte_fallback (LLaMA 2, Mistral)"));
}

void for_each_added_token(const JsonNode& root, const std::function<void(const JsonNode&, const AddedToken&)>& use) {
  const std::optional<JsonNode> list = root.get("added_tokens");
  if (!list) return;
  const size_t count = list->array_size();
  for (size_t i = 0; i < count; ++i) {
    const JsonNode node = list->item(i);
    AddedToken token;
    const int64_t id = node.at("id").integer();
    if (id < 0 || id > INT32_MAX) node.at("id").fail(str_cat("the id ", id, " is outside 0 to ", INT32_MAX));
    token.id = static_cast<TokenId>(id);
    token.content = node.at("content").string();
    token.special = node.boolean("special", false);
    token.single_word = node.boolean("single_word", false);
    token.lstrip = node.boolean("lstrip", false);
    token.rstrip = node.boolean("rstrip", false);
    token.normalized = node.boolean("normalized", !token.special);
    use(node, token);
  }
}

void read_post_processor(const JsonNode& node, std::vector<TokenId>& prefix, std::vector<TokenId>& suffix) {
  const std::string type = node.type();
  if (type == "ByteLevel") return;  // concerns offsets only
  if (type == "Sequence") {
    const JsonNode list = node.at("processors");
    for (size_t i = 0; i < list.array_size(); ++i) read_post_processor(list.item(i), prefix, suffix);
    return;
  }
  if (type != "TemplateProcessing") refuse_part(node.at("type"), str_cat("the post-processor ", type));
  std::vector<TokenId> before, after;
  bool behind_text = false;
  const JsonNode list = node.at("single");
  for (size_t i = 0; i < list.array_size(); ++i) {
    const JsonNode item = list.item(i);
    if (item.get("Sequence")) {
      if (behind_text) item.fail("a template for a single text must hold it once");
      behind_text = true;
      continue;
    }
    const std::vector<TokenId> ids = template_ids(node, item.at("SpecialToken"));
    std::vector<TokenId>& target = behind_text ? after : before;
    target.insert(target.end(), ids.begin(), ids.end());
  }
  if (!behind_text) list.fail("the template does not hold the text");
  prefix.insert(prefix.begin(), before.begin(), before.end());
  suffix.insert(suffix.end(), after.begin(), after.end());
}

EndTokens find_end_tokens(const std::string& path, const std::vector<AddedToken>& added,
                          const std::function<std::optional<TokenId>(const std::string&)>& find) {
  EndTokens result;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::string file = path_join(parent_directory(path), name);
    if (!path_exists(file)) continue;
    const nlohmann::json document = parse_json_file(file);
    const JsonNode root(document, file, "");
    for (const auto& [key, id] : {std::pair{"eos_token", &result.eod}, std::pair{"pad_token", &result.pad}}) {
      const std::optional<std::string> token = named_token(root, key);
      if (!token || *id) continue;
      *id = find(*token);
      if (!*id) {
        root.fail(str_cat("the ", key, " '", *token, "' is not in ", path, ". The two files do not belong together"));
      }
    }
  }
  for (const char* usual : {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"}) {
    for (const AddedToken& token : added) {
      if (!result.eod && token.special && token.content == usual) result.eod = token.id;
    }
  }
  return result;
}

}  // namespace megatron
