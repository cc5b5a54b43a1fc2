#include "config/describe.h"

#include <cmath>

#include "base/error.h"
#include "base/strings.h"
#include "config/field.h"
#include "config/megatron_args.h"

namespace megatron {
namespace {

std::string resume_text(OnResume on_resume) {
  if (on_resume == OnResume::kRefused) return "may not change when a run resumes";
  if (on_resume == OnResume::kIgnored) return "may change when a run resumes (no effect on what is computed)";
  return "may change when a run resumes";
}

std::string default_text(const Field& field) {
  if (field.is_required) return "none, it is required";
  return is_unset(field) ? "not set" : value_text(field.ref);
}

std::string explain_field(const Section& section, const Field& field) {
  const std::string key = section.name + "." + field.name;
  std::string out =
      str_cat(key, "\n  ", field.doc, "\n  value:    ", expected_text(field), "\n  default:  ", default_text(field),
              "\n  resume:   ", resume_text(field.on_resume), "\n");
  const std::vector<std::string> options = options_of_key(key);
  if (!options.empty()) out += str_cat("  Megatron: ", join(options, " "), "\n");
  if (std::holds_alternative<std::vector<LayerOverride>*>(field.ref)) {
    LayerOverride entry;
    out += "  keys of an entry:\n";
    for (const Field& inner : fields(entry)) {
      out += str_cat("    ", inner.name, ": ", expected_text(inner), ". ", inner.doc, "\n");
    }
  }
  return out;
}

std::string explain_section(const Section& section) {
  std::string out = str_cat(section.name, ": ", section.doc, "\n");
  for (const Field& field : section.fields) out += str_cat("  ", field.name, " = ", default_text(field), "\n");
  return out;
}

std::string explain_option(const std::string& option) {
  const MegatronOption* row = find_megatron_option(option);
  if (row == nullptr) throw UsageError(str_cat("no Megatron-LM option ", option));
  if (row->key.empty()) {
    return str_cat(option, " has no counterpart", row->note.empty() ? "" : ": ", std::string(row->note), "\n");
  }
  const std::string key(row->key.substr(0, row->key.find(':')));
  if (is_planned_key(key)) return str_cat(option, " becomes ", std::string(row->key), ", which is not supported yet\n");
  return str_cat(option, " becomes ", std::string(row->key), "\n", explain(key));
}

std::string json_string(const std::string& text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      out += "\\u00";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  return out + "\"";
}

/// JSON has .5 as 0.5 and no trailing ".0" problem: YAML's float text is valid JSON for finite numbers.
std::string limits_json(const Field& field) {
  std::string out;
  if (std::isfinite(field.min)) {
    out += str_cat(", \"", field.min_exclusive ? "exclusiveMinimum" : "minimum", "\": ", number_text(field.min));
  }
  if (std::isfinite(field.max)) {
    out += str_cat(", \"", field.max_exclusive ? "exclusiveMaximum" : "maximum", "\": ", number_text(field.max));
  }
  return out;
}

std::string choices_json(const Field& field) {
  std::vector<std::string> words;
  for (const std::string& choice : field.choices) words.push_back(json_string(choice));
  return words.empty() ? "" : str_cat(", \"enum\": [", join(words, ", "), "]");
}

std::string map_json(const std::vector<Field>& known, const std::string& indent);

/// The schema of one value, without its description.
std::string value_json(const Field& field, const std::string& indent) {
  const std::string type = type_name(field);
  const std::string limits = limits_json(field);
  if (field.name == "layers" && type == "string") return "\"type\": [\"string\", \"integer\", \"array\"]";
  if (type == "true or false") return "\"type\": \"boolean\"";
  if (type == "integer") return "\"type\": \"integer\"" + limits;
  if (type == "number") return "\"type\": \"number\"" + limits;
  if (type == "string") return "\"type\": \"string\"" + choices_json(field);
  if (type == "list of maps") {
    LayerOverride entry;
    return "\"type\": \"array\", \"items\": " + map_json(fields(entry), indent);
  }
  // A list of one may be written as the value alone; blends mix numbers (weights) with strings.
  const std::string item = type == "list of integers" ? "\"type\": \"integer\"" + limits
                           : field.choices.empty()    ? std::string("\"type\": [\"string\", \"number\"]")
                                                      : "\"type\": \"string\"" + choices_json(field);
  return str_cat("\"anyOf\": [{", item, "}, {\"type\": \"array\", \"items\": {", item, "}}]");
}

std::string field_json(const Field& field, const std::string& indent) {
  std::string value = value_json(field, indent);
  if (is_unset(field) && !field.is_required) value = str_cat("\"anyOf\": [{\"type\": \"null\"}, {", value, "}]");
  return str_cat("{\"description\": ", json_string(field.doc), ", ", value, "}");
}

std::string map_json(const std::vector<Field>& known, const std::string& indent) {
  std::vector<std::string> lines;
  for (const Field& field : known) {
    lines.push_back(str_cat(indent, "  ", json_string(field.name), ": ", field_json(field, indent + "  ")));
  }
  return str_cat("{\"type\": \"object\", \"additionalProperties\": false, \"properties\": {\n", join(lines, ",\n"),
                 "\n", indent, "}}");
}

}  // namespace

std::string explain(const std::string& key) {
  if (starts_with(key, "--")) return explain_option(key);
  Config defaults;
  std::string found;
  std::vector<std::string> names;
  std::string overview;
  for (const Section& section : sections(defaults)) {
    if (section.name == key) return explain_section(section);
    overview += str_cat("  ", section.name, ": ", section.doc, "\n");
    for (const Field& field : section.fields) {
      const std::string full = section.name + "." + field.name;
      if (full == key || field.name == key) found += explain_field(section, field);
      names.push_back(full);
      names.push_back(field.name);
    }
  }
  if (key.empty()) return "sections (`megatron config explain SECTION` lists the keys of one):\n" + overview;
  if (!found.empty()) return found;
  if (is_planned_key(key)) return key + " is known but not supported yet\n";
  const std::string near = closest_match(key, names);
  throw UsageError(str_cat("no key or section '", key, "'", near.empty() ? "" : str_cat("; did you mean ", near, "?")));
}

std::string json_schema() {
  Config defaults;
  std::vector<std::string> lines;
  lines.push_back(
      "    \"extends\": {\"description\": \"Files to read first, relative to this one.\", \"anyOf\": [{\"type\": "
      "\"string\"}, {\"type\": \"array\", \"items\": {\"type\": \"string\"}}]}");
  for (const Section& section : sections(defaults)) {
    const std::string map = map_json(section.fields, "    ");
    lines.push_back(str_cat("    ", json_string(section.name), ": {\"description\": ", json_string(section.doc), ", ",
                            map.substr(1)));
  }
  return str_cat("{\n  \"$schema\": \"https://json-schema.org/draft/2020-12/schema\",\n",
                 "  \"title\": \"megatron configuration\",\n  \"type\": \"object\",\n",
                 "  \"additionalProperties\": false,\n  \"properties\": {\n", join(lines, ",\n"), "\n  }\n}\n");
}

std::string show_with_origins(const LoadedConfig& loaded) {
  std::vector<std::string> lines = split(to_yaml(loaded.config), '\n');
  std::string section;
  for (std::string& line : lines) {
    if (line.empty()) continue;
    if (line[0] != ' ') {
      section = line.substr(0, line.find(':'));
      continue;
    }
    const size_t colon = line.find(':');
    const auto origin = loaded.origins.find(section + "." + std::string(trim(line.substr(0, colon))));
    const std::string text = origin == loaded.origins.end() ? "default" : origin->second;
    line += str_cat(std::string(line.size() < 60 ? 60 - line.size() : 1, ' '), " # ", text);
  }
  return join(lines, "\n");
}

}  // namespace megatron
