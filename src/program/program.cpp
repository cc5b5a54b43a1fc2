#include "program/program.h"

#include "base/strings.h"

namespace megatron {

const char* name_of(Phase phase) {
  switch (phase) {
    case Phase::kForward:
      return "F";
    case Phase::kBackward:
      return "B";
    case Phase::kWeightGradient:
      return "W";
  }
  return "?";
}

std::string Program::label(ValueId id) const {
  if (id == kNone) return "-";
  const std::string& given = value(id).name;
  return str_cat("%", id, given.empty() ? "" : " ", given);
}

std::string Program::type_text(ValueId id) const {
  const ValueInfo& v = value(id);
  std::string text = str_cat(name_of(v.dtype), to_string(v.shape));
  const std::string placed = to_string(v.placement, mesh);
  if (placed != "R") text += " " + placed;
  return text;
}

}  // namespace megatron
