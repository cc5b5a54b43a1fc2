// Rules about data and tokenizer, and the two small grammars of that section.
#include <cmath>
#include <filesystem>

#include "base/strings.h"
#include "config/rules.h"
#include "config/scalar.h"

namespace megatron {
namespace {

using Answer = std::optional<std::string>;

std::optional<double> number(const std::string& text) {
  const PlainKind kind = classify_plain(text);
  if (kind != PlainKind::kInt && kind != PlainKind::kFloat) return std::nullopt;
  return parse_float(text);
}

bool has_split_lists(const DataConfig& d) {
  return !d.train_data_path.empty() || !d.valid_data_path.empty() || !d.test_data_path.empty();
}

Answer one_source(const RuleContext& c) {
  const DataConfig& d = c.config.data;
  std::vector<std::string> on;
  if (!d.data_path.empty()) on.push_back("data_path");
  if (has_split_lists(d)) on.push_back("train_/valid_/test_data_path");
  if (d.mock_data) on.push_back("mock_data");
  if (on.size() > 1) return str_cat(join(on, " and "), " exclude each other");
  if (on.empty()) return "no data: set data_path, train_data_path or mock_data";
  return {};
}

Answer training_source(const RuleContext& c) {
  const DataConfig& d = c.config.data;
  if (!has_split_lists(d) || !d.train_data_path.empty() || c.config.training.skip_train) return {};
  return "valid_data_path or test_data_path without train_data_path";
}

Answer split_unused(const RuleContext& c) {
  const DataConfig& d = c.config.data;
  if (d.split.empty() || !has_split_lists(d)) return {};
  return "split divides data_path; train_data_path and the like are whole, leave split out";
}

Answer split_syntax(const RuleContext& c) {
  const std::string& split = c.config.data.split;
  if (split.empty() || parse_split(split)) return {};
  return str_cat("split \"", split,
                 "\" is not up to three shares, none negative, their sum above zero, as in \"98,2,0\"");
}

Answer blend_weights(const RuleContext& c) {
  const DataConfig& d = c.config.data;
  for (const auto* path : {&d.data_path, &d.train_data_path, &d.valid_data_path, &d.test_data_path}) {
    if (Answer problem = blend_problem(parse_blend(*path))) return problem;
  }
  return {};
}

/// Types that read the file or folder tokenizer_model.
bool reads_model(const std::string& type) {
  return type == "HuggingFaceTokenizer" || type == "SentencePieceTokenizer" || type == "GPTSentencePieceTokenizer" ||
         type == "Llama2Tokenizer";
}

Answer tokenizer_files(const RuleContext& c) {
  const DataConfig& d = c.config.data;
  if (d.tokenizer_type == "HuggingFaceTokenizer" && d.tokenizer_model.empty()) {
    return "HuggingFaceTokenizer needs tokenizer_model: a tokenizer.json or its folder";
  }
  if (reads_model(d.tokenizer_type) && d.tokenizer_model.empty()) {
    return d.tokenizer_type + " needs tokenizer_model: a SentencePiece model (tokenizer.model) or its folder";
  }
  if (d.tokenizer_type == "GPT2BPETokenizer" && (d.vocab_file.empty() || d.merge_file.empty())) {
    return "GPT2BPETokenizer needs vocab_file and merge_file";
  }
  return {};
}

Answer tokenizer_unused_files(const RuleContext& c) {
  const DataConfig& d = c.config.data;
  const std::string type = d.tokenizer_type.empty() ? "no tokenizer_type" : d.tokenizer_type;
  if (!d.tokenizer_model.empty() && !reads_model(d.tokenizer_type)) {
    return str_cat("tokenizer_model is for HuggingFaceTokenizer and SentencePiece tokenizers; there is ", type);
  }
  if ((!d.vocab_file.empty() || !d.merge_file.empty()) && d.tokenizer_type != "GPT2BPETokenizer") {
    return str_cat("vocab_file and merge_file are for GPT2BPETokenizer; there is ", type);
  }
  return {};
}

Answer vocabulary(const RuleContext& c) {
  const DataConfig& d = c.config.data;
  if (c.config.model.vocab_size) return {};
  if (d.tokenizer_type == "NullTokenizer") return "NullTokenizer needs model.vocab_size";
  if (d.tokenizer_type.empty()) return "how many token ids are there? Set data.tokenizer_type or model.vocab_size";
  return {};
}

Answer document_end(const RuleContext& c) {
  const DataConfig& d = c.config.data;
  if (!d.tokenizer_type.empty()) return {};
  if (d.eod_mask_loss) return "eod_mask_loss needs a tokenizer_type that knows the end-of-document token";
  if (d.reset_position_ids) return "reset_position_ids needs a tokenizer_type that knows the end-of-document token";
  if (d.reset_attention_mask) return "reset_attention_mask needs a tokenizer_type that knows the end-of-document token";
  return {};
}

std::vector<std::string> blend_words(const std::vector<std::string>& data_path) {
  if (data_path.size() != 1) return data_path;
  std::vector<std::string> words;
  for (const std::string& word : split(data_path[0], ' ')) {
    if (!word.empty()) words.push_back(word);
  }
  return words.size() > 1 && number(words[0]) ? words : data_path;
}

void look_for(const std::string& key, const std::string& path, std::vector<std::string>& missing) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) missing.push_back(str_cat(key, ": ", path, " does not exist"));
}

}  // namespace

std::vector<BlendPart> parse_blend(const std::vector<std::string>& data_path) {
  const std::vector<std::string> words = blend_words(data_path);
  bool weighted = !words.empty() && words.size() % 2 == 0;
  for (size_t i = 0; weighted && i < words.size(); i += 2) weighted = number(words[i]).has_value();
  std::vector<BlendPart> parts;
  for (size_t i = 0; i < words.size(); i += weighted ? 2 : 1) {
    parts.push_back(weighted ? BlendPart{number(words[i]), words[i + 1]} : BlendPart{{}, words[i]});
  }
  return parts;
}

std::optional<std::string> blend_problem(const std::vector<BlendPart>& parts) {
  for (const BlendPart& part : parts) {
    if (part.weight && (!(*part.weight > 0) || !std::isfinite(*part.weight))) {
      return str_cat("weight ", *part.weight, " of ", part.prefix, ": weights are finite and greater than 0");
    }
    if (number(part.prefix)) {
      return str_cat("'", part.prefix,
                     "' looks like a weight where a prefix belongs; give a weight before every prefix or none");
    }
  }
  return {};
}

std::optional<std::vector<double>> parse_split(const std::string& text) {
  std::vector<double> shares;
  double sum = 0;
  for (const std::string& part : split(text, ',')) {
    const auto value = number(std::string(trim(part)));
    if (!value || !(*value >= 0) || !std::isfinite(*value)) return std::nullopt;
    shares.push_back(*value);
    sum += *value;
  }
  if (shares.size() > 3 || sum <= 0) return std::nullopt;
  shares.resize(3, 0.0);
  for (double& share : shares) share /= sum;
  return shares;
}

std::vector<std::string> missing_files(const Config& config) {
  const DataConfig& d = config.data;
  std::vector<std::string> missing;
  if (!d.tokenizer_model.empty()) look_for("data.tokenizer_model", d.tokenizer_model, missing);
  if (!d.vocab_file.empty()) look_for("data.vocab_file", d.vocab_file, missing);
  if (!d.merge_file.empty()) look_for("data.merge_file", d.merge_file, missing);
  const auto look_for_blend = [&](const std::string& key, const std::vector<std::string>& path) {
    for (const BlendPart& part : parse_blend(path)) {
      look_for(key, part.prefix + ".idx", missing);
      look_for(key, part.prefix + ".bin", missing);
    }
  };
  look_for_blend("data.data_path", d.data_path);
  look_for_blend("data.train_data_path", d.train_data_path);
  look_for_blend("data.valid_data_path", d.valid_data_path);
  look_for_blend("data.test_data_path", d.test_data_path);
  if (!config.checkpoint.load.empty() && config.checkpoint.exit_on_missing_checkpoint) {
    look_for("checkpoint.load", config.checkpoint.load, missing);
  }
  return missing;
}

namespace detail {

void add_data_rules(std::vector<Rule>& table) {
  const std::string d = "data.";
  const std::vector<std::string> sources = {d + "data_path", d + "train_data_path", d + "valid_data_path",
                                            d + "test_data_path", d + "mock_data"};
  const std::vector<std::string> paths(sources.begin(), sources.begin() + 4);
  table.insert(
      table.end(),
      {{"one-source", sources, one_source},
       {"training-source", {d + "valid_data_path", d + "test_data_path", d + "train_data_path"}, training_source},
       {"split-unused",
        {d + "split", d + "train_data_path", d + "valid_data_path", d + "test_data_path"},
        split_unused},
       {"split-syntax", {d + "split"}, split_syntax},
       {"blend-weights", paths, blend_weights},
       {"tokenizer-files",
        {d + "tokenizer_type", d + "tokenizer_model", d + "vocab_file", d + "merge_file"},
        tokenizer_files},
       {"tokenizer-unused-files",
        {d + "tokenizer_model", d + "vocab_file", d + "merge_file", d + "tokenizer_type"},
        tokenizer_unused_files},
       {"vocabulary", {d + "tokenizer_type", "model.vocab_size"}, vocabulary},
       {"document-end",
        {d + "eod_mask_loss", d + "reset_position_ids", d + "reset_attention_mask", d + "tokenizer_type"},
        document_end}});
}

}  // namespace detail
}  // namespace megatron
