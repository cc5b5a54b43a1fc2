// Config back to text: resolved.yaml, the hash, and what a resume says about changes.
#include "base/strings.h"
#include "config/field.h"
#include "config/load.h"

namespace megatron {
namespace {

/// Calls visit(section, field) for every key of `config`, in the printed order.
template <typename Visit>
void for_each_field(const Config& config, Visit&& visit) {
  Config copy = config;
  for (const Section& section : sections(copy)) {
    for (const Field& field : section.fields) visit(section, field);
  }
}

ChangeKind kind_of(OnResume on_resume) {
  switch (on_resume) {
    case OnResume::kAllowed:
      return ChangeKind::kAllowed;
    case OnResume::kRefused:
      return ChangeKind::kRefused;
    case OnResume::kIgnored:
      break;
  }
  return ChangeKind::kIgnored;
}

}  // namespace

std::string to_yaml(const Config& config) {
  std::string out;
  std::string current;
  Config defaults;
  for_each_field(config, [&](const Section& section, const Field& field) {
    if (section.name != current) out += section.name + ":\n";
    current = section.name;
    // An empty list is "not set" unless the default is something: then it says that it is empty.
    const bool unset = is_unset(field) && is_unset(*find_field(defaults, section.name + "." + field.name));
    out += str_cat("  ", field.name, ": ", unset ? "null" : value_text(field.ref), "\n");
  });
  return out;
}

std::string section_to_yaml(const Config& config, const std::string& name) {
  constexpr size_t kFlow = 4;  // entries of a list that still fit on a line
  std::string out = name + ":\n";
  Config defaults;
  for_each_field(config, [&](const Section& section, const Field& field) {
    if (section.name != name) return;
    const std::string value = value_text(field.ref);
    if (value == value_text(find_field(defaults, name + "." + field.name)->ref)) return;
    const auto* list = std::get_if<std::vector<std::string>*>(&field.ref);
    if (list == nullptr || (*list)->size() <= kFlow) {
      out += str_cat("  ", field.name, ": ", value, "\n");
      return;
    }
    out += str_cat("  ", field.name, ":\n");
    for (const std::string& entry : **list) out += str_cat("    - ", yaml_string(entry), "\n");
  });
  return out;
}

uint64_t config_hash(const Config& config) {
  std::string text;
  for_each_field(config, [&](const Section& section, const Field& field) {
    if (field.on_resume != OnResume::kRefused) return;
    text += str_cat(section.name, ".", field.name, "=", value_text(field.ref), "\n");
  });
  return hash_name(text);
}

std::vector<ConfigChange> resume_diff(const Config& saved, const Config& now) {
  Config now_copy = now;
  const std::vector<Section> now_sections = sections(now_copy);
  std::vector<ConfigChange> changes;
  size_t section_index = 0;
  size_t field_index = 0;
  for_each_field(saved, [&](const Section& section, const Field& field) {
    while (now_sections[section_index].name != section.name) ++section_index, field_index = 0;
    const std::string before = value_text(field.ref);
    const std::string after = value_text(now_sections[section_index].fields[field_index++].ref);
    if (before != after) {
      changes.push_back({section.name + "." + field.name, before, after, kind_of(field.on_resume)});
    }
  });
  return changes;
}

std::string format_changes(const std::vector<ConfigChange>& changes) {
  std::vector<std::string> lines;
  for (const ConfigChange& change : changes) {
    std::string line = str_cat(change.key, ": ", change.saved, " -> ", change.now);
    if (change.kind == ChangeKind::kRefused) line += "  (refused: may not change on resume)";
    if (change.kind == ChangeKind::kIgnored) line += "  (no effect on the training)";
    lines.push_back(line);
  }
  return join(lines, "\n");
}

}  // namespace megatron
