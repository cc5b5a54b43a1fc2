#include "config/rules.h"

#include "base/error.h"
#include "base/strings.h"
#include "config/derive.h"
#include "config/load.h"

namespace megatron {

std::vector<Rule> rules() {
  std::vector<Rule> table;
  detail::add_model_rules(table);
  detail::add_layer_rules(table);
  detail::add_parallel_rules(table);
  detail::add_data_rules(table);
  detail::add_training_rules(table);
  detail::add_optimizer_rules(table);
  detail::add_checkpoint_rules(table);
  return table;
}

std::vector<RuleFailure> broken_rules(const RuleContext& context, const std::set<std::string>& skip) {
  std::vector<RuleFailure> failures;
  for (const Rule& rule : rules()) {
    bool judged = true;
    for (const std::string& key : rule.keys) judged = judged && skip.count(key) == 0;
    if (!judged) continue;
    if (auto message = rule.check(context)) failures.push_back({rule.name, rule.keys, *message});
  }
  return failures;
}

void validate(const Config& config, int64_t world_size) {
  // Writing and reading back judges ranges, choices and required keys with the one reader there is.
  LoadOptions options;
  options.world_size = world_size;
  load_config_text(to_yaml(config), "<config>", options);
}

}  // namespace megatron
