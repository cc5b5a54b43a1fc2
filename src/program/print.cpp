#include "base/strings.h"
#include "program/op_kind.h"
#include "program/plan.h"

namespace megatron {

std::string print_program(const Program& program) {
  std::string text = "program " + program.name + "\n";
  for (const auto& [name, id] : program.by_name) {
    const char* kind = program.value(id).lifetime == Lifetime::kParameter  ? "parameter"
                       : program.value(id).lifetime == Lifetime::kState    ? "state"
                       : program.value(id).lifetime == Lifetime::kReceived ? "received"
                                                                           : "input";
    text += str_cat("  ", kind, " %", id, " ", name, ": ", program.type_text(id), "\n");
  }
  for (size_t phase = 0; phase < kPhases; ++phase) {
    if (program.lists[phase].empty()) continue;
    text += str_cat(name_of(static_cast<Phase>(phase)), ":\n");
    std::string scope;
    for (OpId id : program.lists[phase]) {
      const Op& op = program.op(id);
      if (op.scope != scope) text += str_cat("  # ", scope = op.scope, "\n");
      std::vector<std::string> operands, results;
      for (ValueId v : op.operands) operands.push_back(program.label(v));
      for (size_t i = 0; i < op.results.size(); ++i) {
        const std::string sum = op.accumulate[i] == kNone ? "" : " += onto " + program.label(op.accumulate[i]);
        results.push_back(str_cat(program.label(op.results[i]), ": ", program.type_text(op.results[i]), sum));
      }
      const std::string attributes = op.kind->attributes();
      text += str_cat("  ", results.empty() ? "" : join(results, ", ") + " = ", op.kind->name(),
                      attributes.empty() ? "" : "[" + attributes + "]", "(", join(operands, ", "), ")",
                      op.recompute_of != kNone ? "  # recompute" : "", "\n");
    }
  }
  for (const NamedValue& output : program.outputs)
    text += str_cat("output ", output.name, " = ", program.label(output.value), "\n");
  return text;
}

}  // namespace megatron
