#include <algorithm>

#include "base/strings.h"
#include "config/field.h"
#include "config/megatron_args.h"

namespace megatron {
namespace {

constexpr MegatronOption kTable[] = {
#include "config/megatron_args.inc"
};

std::string_view key_without_value(std::string_view key) {
  return key.substr(0, key.find(':'));
}

}  // namespace

const std::vector<MegatronOption>& megatron_options() {
  static const std::vector<MegatronOption> table(std::begin(kTable), std::end(kTable));
  return table;
}

const MegatronOption* find_megatron_option(std::string_view option) {
  std::string wanted(option);
  std::replace(wanted.begin(), wanted.end(), '_', '-');
  for (const MegatronOption& row : megatron_options()) {
    for (std::string& spelling : split(row.options, ' ')) {
      std::replace(spelling.begin(), spelling.end(), '_', '-');
      if (spelling == wanted) return &row;
    }
  }
  return nullptr;
}

std::vector<std::string> options_of_key(const std::string& key) {
  std::vector<std::string> options;
  for (const MegatronOption& row : megatron_options()) {
    if (key_without_value(row.key) == key) options.push_back(split(row.options, ' ').front());
  }
  return options;
}

bool is_planned_key(const std::string& key) {
  Config config;
  if (find_field(config, key)) return false;
  for (const MegatronOption& row : megatron_options()) {
    if (key_without_value(row.key) == key) return true;
  }
  return false;
}

}  // namespace megatron
