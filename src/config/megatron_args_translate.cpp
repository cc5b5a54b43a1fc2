#include <cctype>
#include <map>

#include "base/error.h"
#include "base/strings.h"
#include "config/field.h"
#include "config/megatron_args.h"
#include "config/scalar.h"

namespace megatron {
namespace {

struct Seen {
  const MegatronOption* row = nullptr;
  std::string spelling;
  std::vector<std::string> values;
};

class Translator {
 public:
  TranslatedArgs run(const std::vector<std::string>& words) {
    gather(words);
    for (const Seen& seen : seen_) translate(seen);
    adjust_query_groups();
    adjust_activation();
    adjust_loss();
    if (!errors_.empty()) throw UsageError(join(errors_, "\n"));
    result_.yaml = yaml();
    return std::move(result_);
  }

 private:
  void gather(const std::vector<std::string>& words) {
    for (size_t i = 0; i < words.size();) {
      std::string word = words[i++];
      if (!starts_with(word, "--") || word == "--") {
        if (!seen_.empty()) errors_.push_back(str_cat("'", word, "' stands where an option was expected"));
        continue;
      }
      Seen seen;
      const size_t equals = word.find('=');
      if (equals != std::string::npos) seen.values.push_back(word.substr(equals + 1));
      seen.spelling = word.substr(0, equals);
      seen.row = find_megatron_option(seen.spelling);
      if (seen.row == nullptr) {
        unknown(seen.spelling);
        while (i < words.size() && !starts_with(words[i], "--")) ++i;
        continue;
      }
      const bool more = seen.row->values == '+' || (seen.row->values == '1' && seen.values.empty());
      const size_t most = seen.row->values == '+' ? words.size() : 1;
      for (size_t n = 0; more && n < most && i < words.size() && !starts_with(words[i], "--"); ++n) {
        seen.values.push_back(words[i++]);
      }
      if (seen.row->values != '0' && seen.values.empty()) errors_.push_back(seen.spelling + " has no value");
      seen_.push_back(std::move(seen));
    }
  }

  void unknown(const std::string& spelling) {
    std::vector<std::string> names;
    for (const MegatronOption& row : megatron_options()) {
      for (const std::string& name : split(row.options, ' ')) names.push_back(name);
    }
    const std::string near = closest_match(spelling, names);
    errors_.push_back(str_cat("unknown option ", spelling, near.empty() ? "" : str_cat(" (did you mean ", near, "?)")));
  }

  bool given(const std::string& option) const {
    for (const Seen& seen : seen_) {
      if (seen.row == find_megatron_option(option)) return true;
    }
    return false;
  }

  void translate(const Seen& seen) {
    const std::string as_given = seen.values.empty() ? seen.spelling : seen.spelling + " " + join(seen.values, " ");
    if (seen.row->key.empty()) {
      const std::string note(seen.row->note.empty() ? "a detail of Python, PyTorch or the launcher" : seen.row->note);
      result_.no_counterpart.push_back(as_given + ": " + note);
      return;
    }
    const size_t colon = seen.row->key.find(':');
    const std::string key(seen.row->key.substr(0, colon));
    std::optional<Field> field = find_field(config_, key);
    if (!field) {
      result_.not_supported.push_back(str_cat(as_given, " (", key, ")"));
    } else if (seen.row->values == '0') {
      const std::string value(colon == std::string_view::npos ? "true" : trim(seen.row->key.substr(colon + 1)));
      // --use-megatron-fsdp brings a default, which --data-parallel-sharding-strategy may stand before or behind.
      const bool given_already = key == "parallel.data_parallel_sharding_strategy" && values_.count(key) > 0;
      if (!given_already) values_[key] = value;
    } else if (!seen.values.empty()) {
      convert(*field, key, seen, as_given);
    }
  }

  /// Writes the value in the form that our field reads.
  void convert(const Field& field, const std::string& key, const Seen& seen, const std::string& as_given) {
    const std::string type = type_name(field);
    const std::string& first = seen.values.front();
    if (key == "logging.log_level") {
      // Python's numbers: 10 debug, 20 info, 30 warning, 40 error.
      const std::map<std::string, std::string> levels = {{"0", "debug"},    {"10", "debug"}, {"20", "info"},
                                                         {"30", "warning"}, {"40", "error"}, {"50", "error"}};
      const auto level = levels.find(first);
      if (level == levels.end()) return errors_.push_back(as_given + ": expected 10, 20, 30 or 40");
      values_[key] = level->second;
    } else if (starts_with(type, "list")) {
      std::vector<std::string> items;
      for (const std::string& value : seen.values) {
        for (const std::string& item : type == "list of integers" ? integers(value) : std::vector{value}) {
          items.push_back(type == "list of integers" ? item : yaml_string(item));
        }
      }
      if (items.empty()) {
        return result_.not_supported.push_back(as_given + ": write it as a list of numbers (" + key + ")");
      }
      values_[key] = items.size() == 1 ? items[0] : "[" + join(items, ", ") + "]";
    } else if (!field.choices.empty() && !has_choice(field, first)) {
      result_.not_supported.push_back(str_cat(as_given, " (", key, " is ", expected_text(field), ")"));
    } else if (type == "string") {
      values_[key] = yaml_string(first);
    } else {
      const PlainKind kind = classify_plain(first);
      const bool good = kind == PlainKind::kInt || (type == "number" && kind == PlainKind::kFloat);
      if (!good) return errors_.push_back(str_cat(as_given, ": expected ", expected_text(field)));
      values_[key] = first;
    }
  }

  static bool has_choice(const Field& field, const std::string& value) {
    for (const std::string& choice : field.choices) {
      if (choice == value) return true;
    }
    return false;
  }

  /// "127,0", "(127, 0)" or "[1,1,0]" as words; empty when there is anything else, such as Python's "[1]*3+[0]".
  static std::vector<std::string> integers(const std::string& text) {
    std::string bare;
    for (const char c : text) {
      if (c != '(' && c != ')' && c != '[' && c != ']' && c != ' ') bare += c;
    }
    std::vector<std::string> items = split(bare, ',');
    for (const std::string& item : items) {
      if (classify_plain(item) != PlainKind::kInt) return {};
    }
    return items;
  }

  /// Upstream looks at num_query_groups only with the switch, and its default is one group.
  void adjust_query_groups() {
    const std::string key = "model.num_query_groups";
    if (given("--group-query-attention")) {
      if (values_.count(key) == 0) {
        values_[key] = "1";
        result_.notes.push_back(key + ": 1, upstream's default with --group-query-attention");
      }
    } else if (values_.erase(key) > 0) {
      result_.notes.push_back("--num-query-groups without --group-query-attention has no effect upstream; left out");
    }
  }

  /// Upstream's GELU is the tanh form only inside the fused bias kernel, which bias-free models do not use.
  void adjust_activation() {
    const std::string key = "model.activation_func";
    const bool other = given("--swiglu") || given("--squared-relu") || given("--quick-geglu") || given("--openai-gelu");
    if (other) {
      values_.erase(key);
    } else if (given("--disable-bias-linear") || given("--no-bias-gelu-fusion")) {
      values_[key] = "gelu";
      result_.notes.push_back(key + ": gelu (with erf), as upstream without its fused bias kernel");
    }
  }

  void adjust_loss() {
    if (seen_.empty() || given("--calculate-per-token-loss")) return;
    values_["training.calculate_per_token_loss"] = "false";
    result_.notes.push_back("training.calculate_per_token_loss: false, upstream's default (ours is true)");
  }

  std::string yaml() {
    std::string out;
    for (const Section& section : sections(config_)) {
      std::string body;
      for (const Field& field : section.fields) {
        const auto value = values_.find(section.name + "." + field.name);
        if (value != values_.end()) body += str_cat("  ", field.name, ": ", value->second, "\n");
      }
      if (!body.empty()) out += section.name + ":\n" + body;
    }
    return out;
  }

  Config config_;
  std::vector<Seen> seen_;
  std::map<std::string, std::string> values_;
  std::vector<std::string> errors_;
  TranslatedArgs result_;
};

}  // namespace

TranslatedArgs translate_megatron_args(const std::vector<std::string>& words) {
  return Translator().run(words);
}

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  bool in_word = false;
  char quote = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quote != 0) {
      if (c == quote) {
        quote = 0;
      } else if (c == '\\' && quote == '"' && i + 1 < text.size()) {
        word += text[++i];
      } else {
        word += c;
      }
    } else if (c == '"' || c == '\'') {
      quote = c;
      in_word = true;
    } else if (c == '\\' && i + 1 < text.size()) {
      ++i;
      if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') ++i;
      if (text[i] != '\n') word += text[i], in_word = true;
    } else if (c == '#' && !in_word) {
      while (i + 1 < text.size() && text[i + 1] != '\n') ++i;
    } else if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      if (in_word) words.push_back(word);
      word.clear();
      in_word = false;
    } else {
      word += c;
      in_word = true;
    }
  }
  if (quote != 0) throw UsageError(str_cat("a quote ", std::string(1, quote), " is not closed"));
  if (in_word) words.push_back(word);
  return words;
}

}  // namespace megatron
