// One declaration per setting. fields(section struct) returns, for each key, where its value lies and everything there
// is to say about it; reader, writer, help, JSON schema and the resume diff only walk these lists. The default is the
// value of a freshly made struct.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "config/config.h"

namespace megatron {

/// Where a value lies. The alternatives are all the types that a key can have.
using FieldRef =
    std::variant<bool*, int64_t*, double*, std::string*, std::vector<int64_t>*, std::vector<std::string>*,
                 std::optional<bool>*, std::optional<int64_t>*, std::optional<double>*, std::optional<std::string>*,
                 std::optional<std::vector<int64_t>>*, std::vector<LayerOverride>*>;

enum class OnResume {
  kAllowed,  ///< may change when a run resumes; the change is printed
  kRefused,  ///< may not change: state would not fit, or the run would compute something else
  kIgnored,  ///< has no effect on what is computed
};

struct Field {
  std::string name;
  FieldRef ref;
  std::string doc;
  std::vector<std::string> choices;  ///< of a string, or of each element of a list of strings
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool min_exclusive = false;
  bool max_exclusive = false;
  bool is_required = false;
  bool is_derived = false;  ///< not set: derive_defaults() chooses, and says so
  OnResume on_resume = OnResume::kAllowed;

  Field& choice(std::vector<std::string> values) { return choices = std::move(values), *this; }
  Field& at_least(double value) { return min = value, *this; }
  Field& above(double value) { return min = value, min_exclusive = true, *this; }
  Field& at_most(double value) { return max = value, *this; }
  Field& below(double value) { return max = value, max_exclusive = true, *this; }
  Field& required() { return is_required = true, *this; }
  Field& derived() { return is_derived = true, *this; }
  Field& allowed() { return on_resume = OnResume::kAllowed, *this; }
  Field& refused() { return on_resume = OnResume::kRefused, *this; }
  Field& ignored() { return on_resume = OnResume::kIgnored, *this; }
};

/// Collects the fields of one struct: `list.add("num_layers", c.num_layers, "Number of layers.").required();`
class FieldList {
 public:
  explicit FieldList(OnResume on_resume) : on_resume_(on_resume) {}
  template <typename Value>
  Field& add(const char* name, Value& value, const char* doc) {
    fields_.push_back(Field{.name = name, .ref = &value, .doc = doc, .choices = {}, .on_resume = on_resume_});
    return fields_.back();
  }
  std::vector<Field> take() { return std::move(fields_); }

 private:
  OnResume on_resume_;
  std::vector<Field> fields_;
};

std::vector<Field> fields(RunConfig& config);
std::vector<Field> fields(ModelConfig& config);
std::vector<Field> fields(LayerOverride& config);
std::vector<Field> fields(ParallelConfig& config);
std::vector<Field> fields(DataConfig& config);
std::vector<Field> fields(TrainingConfig& config);
std::vector<Field> fields(OptimizerConfig& config);
std::vector<Field> fields(PrecisionConfig& config);
std::vector<Field> fields(CheckpointConfig& config);
std::vector<Field> fields(LoggingConfig& config);
std::vector<Field> fields(ProfileConfig& config);
std::vector<Field> fields(MachineConfig& config);

struct Section {
  std::string name;
  std::string doc;
  std::vector<Field> fields;
};

/// All sections in the order in which they are printed; the fields point into `config`.
std::vector<Section> sections(Config& config);

/// The field "section.key" of `config`, or nullopt.
std::optional<Field> find_field(Config& config, const std::string& key);

/// "integer", "list of strings", ...: the type without its range.
std::string type_name(const Field& field);

/// The type with choices or range in words: "one of: full, selective", "integer, at least 1".
std::string expected_text(const Field& field);

/// The value in YAML flow style ("[1, 2]", "true", "null"); round-trips through the reader.
std::string value_text(const FieldRef& ref);

/// True when the value is "not set": an empty optional, string or list, or 0 of a derived or required integer.
bool is_unset(const Field& field);

/// Text as a YAML scalar: quoted where a plain one would be read as something else.
std::string yaml_string(const std::string& text);

/// Shortest decimal text that reads back as the same double; always looks like a float.
std::string number_text(double value);

}  // namespace megatron
