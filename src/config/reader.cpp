#include "config/reader.h"

#include <cmath>
#include <type_traits>

#include "base/strings.h"
#include "config/megatron_args.h"
#include "config/scalar.h"

namespace megatron {
namespace {

std::string shown(const Tree& tree) {
  if (tree.kind == Tree::Kind::kMap) return "a map";
  if (tree.kind == Tree::Kind::kList) return "a list";
  return tree.quoted ? str_cat("the string \"", tree.text, "\"") : (tree.text.empty() ? "nothing" : tree.text);
}

/// Reads one value into its place; every error is reported with what was expected.
class ValueReader {
 public:
  /// `nullable`: "not set" is a state of the key, so `null` may take back what an earlier layer set.
  ValueReader(const Field& field, std::string key, bool nullable, Diagnostics& diagnostics)
      : field_(field), key_(std::move(key)), nullable_(nullable), diagnostics_(diagnostics) {}

  /// False when an error was reported; the place then keeps what it had.
  bool read(const Tree& tree) {
    if (tree.is_null()) return reset(tree);
    return std::visit([&](auto* value) { return read_into(*value, tree); }, field_.ref);
  }

 private:
  bool fail(const Tree& tree, const std::string& what) {
    diagnostics_.add(tree.place, key_, what);
    return false;
  }

  bool expected(const Tree& tree, const std::string& hint = "") {
    return fail(tree, str_cat("expected ", expected_text(field_), ", got ", shown(tree), hint));
  }

  bool reset(const Tree& tree) {
    if (!nullable_) return expected(tree, " (this key always has a value)");
    std::visit([](auto* value) { *value = {}; }, field_.ref);
    return true;
  }

  /// Complains about spellings that YAML versions disagree on; true when there is nothing to complain about.
  bool check_spelling(const Tree& tree, PlainKind kind) {
    if (kind == PlainKind::kLeadingZeros) {
      return fail(tree, str_cat(tree.text, " has a leading zero, which some readers take for octal; write ",
                                "it without, or 0o for octal"));
    }
    if (kind == PlainKind::kUnderscores)
      return fail(tree, "numbers have no underscores here; write " + plain(tree.text));
    return true;
  }

  static std::string plain(const std::string& text) {
    std::string out;
    for (const char c : text) {
      if (c != '_') out += c;
    }
    return out;
  }

  PlainKind kind_of(const Tree& tree) const {
    if (tree.kind != Tree::Kind::kScalar || tree.quoted) return PlainKind::kString;
    return classify_plain(tree.text);
  }

  bool read_into(bool& out, const Tree& tree) {
    const PlainKind kind = kind_of(tree);
    if (kind == PlainKind::kOldBool) return expected(tree, "; write true or false");
    if (kind != PlainKind::kBool) return expected(tree);
    out = parse_bool(tree.text);
    return true;
  }

  bool read_into(int64_t& out, const Tree& tree) {
    const PlainKind kind = kind_of(tree);
    if (!check_spelling(tree, kind)) return false;
    if (kind == PlainKind::kFloat) {
      const auto value = parse_float(tree.text);
      const bool whole = value && std::abs(*value) < 1e15 && *value == std::floor(*value);
      return expected(tree, whole ? str_cat("; write ", static_cast<int64_t>(*value)) : "");
    }
    if (kind != PlainKind::kInt) return expected(tree, tree.quoted ? "; leave the quotes out" : "");
    const auto value = parse_int(tree.text);
    if (!value) return fail(tree, tree.text + " does not fit 64 bits");
    if (!in_range(static_cast<double>(*value))) return expected(tree);
    out = *value;
    return true;
  }

  bool read_into(double& out, const Tree& tree) {
    const PlainKind kind = kind_of(tree);
    if (!check_spelling(tree, kind)) return false;
    if (kind != PlainKind::kInt && kind != PlainKind::kFloat) {
      return expected(tree, tree.quoted ? "; leave the quotes out" : "");
    }
    const auto value = parse_float(tree.text);
    if (!value || !std::isfinite(*value)) return fail(tree, tree.text + " is not a finite number");
    if (!in_range(*value)) return expected(tree);
    out = *value;
    return true;
  }

  bool in_range(double value) const {
    const bool low = field_.min_exclusive ? value > field_.min : value >= field_.min;
    const bool high = field_.max_exclusive ? value < field_.max : value <= field_.max;
    return low && high;
  }

  bool check_choice(const Tree& tree) {
    if (field_.choices.empty()) return true;
    for (const std::string& choice : field_.choices) {
      if (choice == tree.text) return true;
    }
    std::string near = closest_match(tree.text, field_.choices);
    for (const std::string& choice : field_.choices) {
      if (lower(choice) == lower(tree.text)) near = choice;
    }
    return expected(tree, near.empty() ? "" : str_cat(" (did you mean ", near, "?)"));
  }

  bool read_into(std::string& out, const Tree& tree) {
    if (field_.name == "layers") return read_layers(out, tree);
    if (tree.kind != Tree::Kind::kScalar) return expected(tree);
    const PlainKind kind = kind_of(tree);
    const bool is_text = tree.quoted || kind == PlainKind::kString;
    if (!is_text && field_.choices.empty())
      return expected(tree, str_cat("; write \"", tree.text, "\" if you mean text"));
    if (!check_choice(tree)) return false;
    out = tree.text;
    return true;
  }

  /// `layers` of an override: 3, "0-3,7" or [0, 1].
  bool read_layers(std::string& out, const Tree& tree) {
    if (tree.kind == Tree::Kind::kScalar) {
      out = tree.text;
      return true;
    }
    if (tree.kind == Tree::Kind::kMap || tree.items.empty()) return expected(tree);
    std::vector<std::string> parts;
    for (const Tree& item : tree.items) {
      if (item.kind != Tree::Kind::kScalar) return expected(item);
      parts.push_back(item.text);
    }
    out = join(parts, ",");
    return true;
  }

  bool read_into(std::vector<int64_t>& out, const Tree& tree) { return read_list(out, tree); }

  bool read_into(std::vector<std::string>& out, const Tree& tree) {
    // An element such as the weight of a blend is a number by its looks and text for us.
    std::vector<std::string> values;
    const std::vector<Tree> alone{tree};
    for (const Tree& item : tree.kind == Tree::Kind::kList ? tree.items : alone) {
      if (item.kind != Tree::Kind::kScalar || item.is_null()) return expected(item);
      if (!check_choice(item)) return false;
      values.push_back(item.text);
    }
    out = std::move(values);
    return true;
  }

  /// A list; a single value counts as a list of one.
  template <typename T>
  bool read_list(std::vector<T>& out, const Tree& tree) {
    std::vector<T> values;
    const std::vector<Tree> alone{tree};
    bool good = true;
    for (const Tree& item : tree.kind == Tree::Kind::kList ? tree.items : alone) {
      T value{};
      good = read_into(value, item) && good;
      values.push_back(std::move(value));
    }
    if (good) out = std::move(values);
    return good;
  }

  template <typename T>
  bool read_into(std::optional<T>& out, const Tree& tree) {
    T value{};
    if (!read_into(value, tree)) return false;
    out = std::move(value);
    return true;
  }

  bool read_into(std::vector<LayerOverride>& out, const Tree& tree) {
    if (tree.kind != Tree::Kind::kList) return expected(tree);
    std::vector<LayerOverride> values;
    bool good = true;
    for (size_t i = 0; i < tree.items.size(); ++i) {
      LayerOverride value;
      good = read_override(value, tree.items[i], str_cat(key_, "[", i, "]")) && good;
      values.push_back(std::move(value));
    }
    if (good) out = std::move(values);
    return good;
  }

  bool read_override(LayerOverride& out, const Tree& tree, const std::string& prefix) {
    if (tree.kind != Tree::Kind::kMap) {
      diagnostics_.add(tree.place, prefix,
                       str_cat("expected a map with `layers` and the keys to set, got ", shown(tree)));
      return false;
    }
    bool good = true;
    std::vector<Field> known = fields(out);
    std::vector<std::string> names;
    for (const Field& field : known) names.push_back(field.name);
    for (const Tree::Entry& entry : tree.entries) {
      const Field* field = nullptr;
      for (const Field& candidate : known) {
        if (candidate.name == entry.key) field = &candidate;
      }
      if (field != nullptr) {
        good =
            ValueReader(*field, prefix + "." + entry.key, !field->is_required, diagnostics_).read(entry.value) && good;
        continue;
      }
      good = false;
      const std::string near = closest_match(entry.key, names);
      diagnostics_.add(entry.place, prefix + "." + entry.key,
                       str_cat("cannot differ from layer to layer", near.empty() ? "" : " (did you mean " + near + "?)",
                               "; keys that can: ", join(names, ", ")));
    }
    if (good && out.layers.empty()) {
      diagnostics_.add(tree.place, prefix, "`layers` is missing: which layers are meant, such as \"0-3\"");
      good = false;
    }
    return good;
  }

  const Field& field_;
  std::string key_;
  bool nullable_;
  Diagnostics& diagnostics_;
};

/// Why `section.key` is unknown, and what may have been meant.
std::string unknown_key_text(const std::vector<Section>& all, const std::string& section, const std::string& key) {
  std::vector<std::string> here;
  for (const Section& candidate : all) {
    for (const Field& field : candidate.fields) {
      if (candidate.name == section) here.push_back(field.name);
      if (candidate.name != section && field.name == key) {
        return str_cat("unknown key; it belongs to section `", candidate.name, "` (did you mean ", candidate.name, ".",
                       key, "?)");
      }
    }
  }
  if (is_planned_key(section + "." + key)) return "not supported yet";
  const std::string near = closest_match(key, here);
  if (!near.empty()) return str_cat("unknown key (did you mean ", near, "?)");
  return str_cat("unknown key; `megatron config explain ", section, "` lists the keys of this section");
}

}  // namespace

void read_key(const std::string& section, const std::string& key, const Place& key_place, const Tree& value,
              ReadState& state) {
  const std::string name = section + "." + key;
  std::vector<Section> all = sections(state.config);
  for (Section& candidate : all) {
    if (candidate.name != section) continue;
    for (Field& field : candidate.fields) {
      if (field.name != key) continue;
      Config defaults;
      const bool nullable = value.is_null() && !field.is_required && is_unset(*find_field(defaults, name));
      if (ValueReader(field, name, nullable, *state.diagnostics).read(value)) {
        if (value.is_null()) {
          state.places.erase(name);
        } else {
          state.places[name] = value.place;
        }
      } else {
        state.bad_keys.insert(name);
      }
      return;
    }
    state.diagnostics->add(key_place, name, unknown_key_text(all, section, key));
    return;
  }
  std::vector<std::string> names;
  for (const Section& candidate : all) names.push_back(candidate.name);
  const std::string near = closest_match(section, names);
  state.diagnostics->add(key_place, section,
                         str_cat("unknown section", near.empty() ? "" : " (did you mean " + near + "?)",
                                 "; sections: ", join(names, ", ")));
}

void read_sections(const Tree& tree, ReadState& state) {
  std::vector<Section> all = sections(state.config);
  for (const Tree::Entry& section : tree.entries) {
    if (section.key == "extends") continue;
    bool known = false;
    for (const Section& candidate : all) known = known || candidate.name == section.key;
    if (!known) {
      std::string owner;
      for (const Section& candidate : all) {
        for (const Field& field : candidate.fields) {
          if (field.name == section.key) owner = candidate.name;
        }
      }
      if (!owner.empty()) {
        state.diagnostics->add(section.place, section.key,
                               str_cat("a key stands in a section; put it below `", owner, ":`"));
      } else {
        read_key(section.key, "", section.place, section.value, state);
      }
      continue;
    }
    if (section.value.is_null()) continue;
    if (section.value.kind != Tree::Kind::kMap) {
      state.diagnostics->add(section.value.place, section.key, "a section holds keys: `key: value` lines below it");
      continue;
    }
    for (const Tree::Entry& entry : section.value.entries) {
      read_key(section.key, entry.key, entry.place, entry.value, state);
    }
  }
}

}  // namespace megatron
