#include "config/field.h"

#include <array>
#include <charconv>
#include <cmath>
#include <type_traits>

#include "base/strings.h"
#include "config/scalar.h"

namespace megatron {
namespace {

template <typename T>
struct Unwrap {
  using type = T;
};
template <typename T>
struct Unwrap<std::optional<T>> {
  using type = T;
};
template <typename T>
using Unwrapped = typename Unwrap<T>::type;

template <typename T>
constexpr const char* kind_name() {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_same_v<T, int64_t>) return "integer";
  if constexpr (std::is_same_v<T, double>) return "number";
  if constexpr (std::is_same_v<T, std::string>) return "string";
  if constexpr (std::is_same_v<T, std::vector<int64_t>>) return "list of integers";
  if constexpr (std::is_same_v<T, std::vector<std::string>>) return "list of strings";
  return "list of maps";
}

std::string text_of(bool value) {
  return value ? "true" : "false";
}
std::string text_of(int64_t value) {
  return std::to_string(value);
}
std::string text_of(double value) {
  return number_text(value);
}
std::string text_of(const std::string& value) {
  return yaml_string(value);
}
std::string text_of(const LayerOverride& value);

template <typename T>
std::string text_of(const std::vector<T>& values) {
  std::vector<std::string> parts;
  for (const T& value : values) parts.push_back(text_of(value));
  return "[" + join(parts, ", ") + "]";
}

template <typename T>
std::string text_of(const std::optional<T>& value) {
  return value ? text_of(*value) : "null";
}

std::string text_of(const LayerOverride& value) {
  LayerOverride copy = value;
  std::vector<std::string> parts;
  for (const Field& field : fields(copy)) {
    if (!is_unset(field)) parts.push_back(field.name + ": " + value_text(field.ref));
  }
  return "{" + join(parts, ", ") + "}";
}

std::string bound_text(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return std::to_string(static_cast<int64_t>(value));
  return number_text(value);
}

}  // namespace

std::string number_text(double value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  std::array<char, 32> buffer{};
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  std::string text(buffer.data(), result.ptr);
  const size_t exponent = text.find('e');
  if (text.find('.') == std::string::npos) text.insert(exponent == std::string::npos ? text.size() : exponent, ".0");
  return text;
}

std::string yaml_string(const std::string& text) {
  bool plain = !text.empty() && classify_plain(text) == PlainKind::kString;
  for (const char c : text) {
    const bool safe = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                      c == '-' || c == '/' || c == '.' || c == '+' || static_cast<unsigned char>(c) >= 0x80;
    if (!safe) plain = false;
  }
  if (plain && text.front() != '-') return text;
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      constexpr std::string_view kHex = "0123456789abcdef";
      const auto byte = static_cast<unsigned char>(c);
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string type_name(const Field& field) {
  return std::visit(
      [](auto* value) -> std::string { return kind_name<Unwrapped<std::remove_pointer_t<decltype(value)>>>(); },
      field.ref);
}

std::string expected_text(const Field& field) {
  const std::string type = type_name(field);
  if (!field.choices.empty()) {
    return str_cat(starts_with(type, "list") ? "list of: " : "one of: ", join(field.choices, ", "));
  }
  std::vector<std::string> limits;
  if (std::isfinite(field.min))
    limits.push_back((field.min_exclusive ? "above " : "at least ") + bound_text(field.min));
  if (std::isfinite(field.max)) limits.push_back((field.max_exclusive ? "below " : "at most ") + bound_text(field.max));
  return limits.empty() ? type : str_cat(type, ", ", join(limits, " and "));
}

std::string value_text(const FieldRef& ref) {
  return std::visit([](const auto* value) { return text_of(*value); }, ref);
}

bool is_unset(const Field& field) {
  return std::visit(
      [&field](const auto* value) {
        using T = std::remove_cv_t<std::remove_pointer_t<decltype(value)>>;
        if constexpr (std::is_same_v<T, bool> || std::is_same_v<T, double>) {
          return field.is_required && *value == T{};
        } else if constexpr (std::is_same_v<T, int64_t>) {
          return *value == 0 && (field.is_derived || field.is_required);
        } else if constexpr (!std::is_same_v<T, Unwrapped<T>>) {
          return !value->has_value();
        } else {
          return value->empty();
        }
      },
      field.ref);
}

std::vector<Section> sections(Config& config) {
  std::vector<Section> result;
  result.push_back({"run", "The process: where it writes, on what it runs, when it stops.", fields(config.run)});
  result.push_back({"model", "The architecture.", fields(config.model)});
  result.push_back({"parallel", "How the model is spread over ranks.", fields(config.parallel)});
  result.push_back({"data", "Training data and tokenizer.", fields(config.data)});
  result.push_back({"training", "Batches, length, evaluation, recomputation.", fields(config.training)});
  result.push_back({"optimizer", "Optimizer, learning rate, weight decay.", fields(config.optimizer)});
  result.push_back({"precision", "Number formats and loss scaling.", fields(config.precision)});
  result.push_back({"checkpoint", "Saving and loading.", fields(config.checkpoint)});
  result.push_back({"logging", "What is printed and recorded.", fields(config.logging)});
  result.push_back({"profile", "Profiling.", fields(config.profile)});
  result.push_back({"machine", "Speed of the GPUs and of their links, for `megatron plan`.", fields(config.machine)});
  return result;
}

std::optional<Field> find_field(Config& config, const std::string& key) {
  for (Section& section : sections(config)) {
    for (Field& field : section.fields) {
      if (section.name + "." + field.name == key) return std::move(field);
    }
  }
  return std::nullopt;
}

}  // namespace megatron
