#include "config/load.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "base/error.h"
#include "base/strings.h"
#include "config/derive.h"
#include "config/reader.h"
#include "config/rules.h"

namespace megatron {
namespace {

namespace fs = std::filesystem;

class Loader {
 public:
  explicit Loader(const LoadOptions& options) : options_(options), diagnostics_(sources_) {
    state_.diagnostics = &diagnostics_;
  }

  /// Reads `path` after the files that it extends. `from`: the place that names it, for messages.
  void read_file(const fs::path& path, const Place& from) {
    std::error_code error;
    fs::path identity = fs::weakly_canonical(path, error);
    if (error) identity = path.lexically_normal();
    for (const fs::path& open : open_) {
      if (open == identity) {
        diagnostics_.add(from, "extends", str_cat("goes round in a circle: ", circle(identity)));
        return;
      }
    }
    if (fs::is_directory(path, error)) {
      unread_ = true;
      diagnostics_.add(from, "", str_cat(path.string(), " is a folder, not a configuration file"));
      return;
    }
    std::ifstream stream(path, std::ios::binary);
    if (!stream) {
      unread_ = true;
      diagnostics_.add(
          from, "",
          str_cat("cannot read configuration file ", path.string(),
                  from.known() ? " (`extends` is relative to the file that says so)" : ": does it exist?"));
      return;
    }
    std::ostringstream text;
    text << stream.rdbuf();
    open_.push_back(identity);
    read_text(text.str(), path.string(), path.parent_path());
    open_.pop_back();
  }

  void read_text(const std::string& text, const std::string& name, const fs::path& folder) {
    const int source = sources_.add(name, text);
    const std::optional<Tree> parsed = parse_tree(text, source, diagnostics_);
    if (!parsed) unread_ = true;
    const Tree tree = parsed.value_or(Tree{});
    for (const Tree::Entry& entry : tree.entries) {
      if (entry.key == "extends") read_extends(entry.value, folder);
    }
    read_sections(tree, state_);
  }

  /// One word "section.key=value" from the command line.
  void read_set(const std::string& word) {
    const int source = sources_.add("<set>", word);
    const Place start{source, 1, 1};
    const size_t equals = word.find('=');
    if (equals == std::string::npos) {
      diagnostics_.add(start, "", "expected section.key=value");
      return;
    }
    const std::string path(trim(std::string_view(word).substr(0, equals)));
    const size_t dot = path.find('.');
    if (dot == std::string::npos || path.find('.', dot + 1) != std::string::npos) {
      diagnostics_.add(start, path, "expected section.key=value, such as optimizer.lr=0.001");
      return;
    }
    const std::optional<Tree> value =
        parse_tree(word.substr(equals + 1), source, diagnostics_, true, narrow_column(word.substr(0, equals + 1)));
    if (value) read_key(path.substr(0, dot), path.substr(dot + 1), start, *value, state_);
  }

  LoadedConfig finish() {
    std::set<std::string> derived;
    LoadedConfig result;
    std::set<std::string> skip = state_.bad_keys;
    // Keys that a broken file would have set are not missing, and rules about them would mislead.
    const bool judge = options_.check_rules && !unread_;
    if (judge) report_missing(skip);
    result.decisions = derive_defaults(state_.config, options_.world_size, &derived);
    if (judge) {
      for (const std::string& key : underivable()) skip.insert(key);
      for (const RuleFailure& failure : broken_rules({state_.config, options_.world_size, derived}, skip)) {
        report(failure);
      }
    }
    diagnostics_.throw_if_any();
    for (const auto& [key, place] : state_.places) result.origins[key] = sources_.at(place);
    for (const std::string& key : derived) result.origins[key] = "derived";
    result.config = std::move(state_.config);
    return result;
  }

 private:
  static int narrow_column(const std::string& before) { return static_cast<int>(before.size()); }

  std::string circle(const fs::path& again) const {
    std::vector<std::string> names;
    for (const fs::path& open : open_) names.push_back(open.filename().string());
    names.push_back(again.filename().string());
    return join(names, " -> ");
  }

  void read_extends(const Tree& value, const fs::path& folder) {
    const std::vector<Tree> alone{value};
    for (const Tree& item : value.kind == Tree::Kind::kList ? value.items : alone) {
      if (item.kind != Tree::Kind::kScalar || item.is_null()) {
        diagnostics_.add(item.place, "extends", "expected a file or a list of files");
        continue;
      }
      read_file(fs::path(item.text).is_absolute() ? fs::path(item.text) : folder / item.text, item.place);
    }
  }

  void report_missing(std::set<std::string>& skip) {
    for (const Section& section : sections(state_.config)) {
      for (const Field& field : section.fields) {
        const std::string key = section.name + "." + field.name;
        if (!field.is_required || !is_unset(field)) continue;
        if (skip.insert(key).second)
          diagnostics_.add({}, key, str_cat("is required: ", expected_text(field), ". ", field.doc));
      }
    }
  }

  /// Derived whole numbers that could not be derived because what they follow from is wrong.
  std::set<std::string> underivable() {
    std::set<std::string> keys;
    for (const Section& section : sections(state_.config)) {
      for (const Field& field : section.fields) {
        if (field.is_derived && std::holds_alternative<int64_t*>(field.ref) && is_unset(field)) {
          keys.insert(section.name + "." + field.name);
        }
      }
    }
    return keys;
  }

  /// The message stands at the first of the keys involved that a source sets, and names the places of the others.
  void report(const RuleFailure& failure) {
    Place at;
    std::vector<std::string> others;
    for (const std::string& key : failure.keys) {
      const auto found = state_.places.find(key);
      if (found == state_.places.end()) continue;
      if (!at.known()) {
        at = found->second;
      } else {
        others.push_back(key + " in " + sources_.at(found->second));
      }
    }
    diagnostics_.add(at, failure.keys.empty() ? "" : failure.keys.front(),
                     failure.message + (others.empty() ? "" : str_cat(" (", join(others, ", "), ")")));
  }

  LoadOptions options_;
  Sources sources_;
  Diagnostics diagnostics_;
  ReadState state_;
  std::vector<fs::path> open_;
  bool unread_ = false;  ///< a file is missing or is not YAML
};

}  // namespace

LoadedConfig load_config(const std::vector<std::string>& files, const std::vector<std::string>& sets,
                         const LoadOptions& options) {
  Loader loader(options);
  for (const std::string& file : files) loader.read_file(file, {});
  for (const std::string& word : sets) loader.read_set(word);
  return loader.finish();
}

LoadedConfig load_config_text(const std::string& text, const std::string& name, const LoadOptions& options) {
  Loader loader(options);
  loader.read_text(text, name, std::filesystem::path(name).parent_path());
  return loader.finish();
}

}  // namespace megatron
