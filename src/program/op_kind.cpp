#include "program/op_kind.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "program/planned_call.h"
#include "program/trace.h"

namespace megatron {

Signature parse_signature(const std::string& text, DType result_dtype) {
  const size_t arrow = text.find("->");
  MEGATRON_CHECK(arrow != std::string::npos, "a signature has '->': " + text);
  Signature signature;
  if (arrow > 0) signature.operands = split(text.substr(0, arrow), ',');
  const std::string right = text.substr(arrow + 2);
  for (std::string& letters : split(right, ',')) signature.results.push_back({std::move(letters), result_dtype});
  return signature;
}

std::vector<ValueInfo> OpKind::infer(const Operands& operands, const Mesh& mesh) const {
  return infer_by_signature(signature(operands), operands, mesh);
}

void OpKind::backward(BackwardContext&) const {
  fail_check(__FILE__, __LINE__, "backward", "operation '" + name() + "' has no gradient");
}

Cost OpKind::cost(const RunContext& shapes) const {
  Cost cost;
  for (const Tensor& t : shapes.operands) cost.bytes += static_cast<double>(t.bytes());
  for (size_t i = 0; i < shapes.results.size(); ++i) {
    const bool adds = i < shapes.accumulate.size() && shapes.accumulate[i] != 0;  // read, then written
    cost.bytes += (adds ? 2.0 : 1.0) * static_cast<double>(shapes.results[i].bytes());
  }
  if (comm_axis().empty()) return cost;
  MEGATRON_CHECK(shapes.place.ranks > 0, "operation '" + name() + "': how many ranks communicate is not known");
  for (const PlannedCall& call : calls(shapes, DeviceKind::kCpu)) {
    cost.wire_bytes += megatron::wire_bytes(call, shapes.place.ranks);
  }
  return cost;
}

std::vector<PlannedCall> OpKind::calls(const RunContext&, DeviceKind) const {
  MEGATRON_CHECK(comm_axis().empty(), "operation '" + name() + "' does not declare its collectives");
  return {};
}

int64_t OpKind::workspace(const RunContext&, DeviceKind) const {
  return 0;
}

void OpKind::run_cpu(const RunContext&) const {
  throw DeviceError("operation '" + name() + "' has no CPU version; every operation must have one");
}

void OpKind::run_cuda(const RunContext&) const {
  throw DeviceError("operation '" + name() + "' has no CUDA version; use run.device: cpu");
}

namespace {

/// Sizes of all letters; throws PlacementError when two operands disagree.
class LetterSizes {
 public:
  void bind(char letter, int64_t size, int operand) {
    for (Entry& e : entries_) {
      if (e.letter != letter) continue;
      if (e.size != size) {
        throw PlacementError{str_cat("dimension '", letter, "' is ", e.size, " in operand ", e.operand, " but ", size,
                                     " in operand ", operand),
                             "give operands of matching shapes"};
      }
      return;
    }
    entries_.push_back({letter, size, operand});
  }
  int64_t size(char letter) const {
    for (const Entry& e : entries_) {
      if (e.letter == letter) return e.size;
    }
    fail_check(__FILE__, __LINE__, "letter", str_cat("result dimension '", letter, "' has no size"));
  }

 private:
  struct Entry {
    char letter;
    int64_t size;
    int operand;
  };
  std::vector<Entry> entries_;
};

LetterSizes bind_letters(const Signature& signature, const Operands& operands) {
  if (operands.size() != signature.operands.size()) {
    throw PlacementError{str_cat("takes ", signature.operands.size(), " operands, got ", operands.size()),
                         "see the header"};
  }
  LetterSizes sizes;
  for (const auto& [letter, size] : signature.sizes) sizes.bind(letter, size, -1);
  for (size_t i = 0; i < operands.size(); ++i) {
    if (operands[i] == nullptr) continue;
    const std::string& letters = signature.operands[i];
    const Dims& shape = operands[i]->shape;
    if (static_cast<int>(letters.size()) != shape.rank()) {
      throw PlacementError{
          str_cat("operand ", i, " has rank ", shape.rank(), ", '", letters, "' wants ", letters.size()),
          "reshape the operand"};
    }
    for (int d = 0; d < shape.rank(); ++d) sizes.bind(letters[static_cast<size_t>(d)], shape[d], static_cast<int>(i));
  }
  return sizes;
}

AxisPlacement place_letter(const std::string& letters, char letter) {
  const size_t dim = letters.find(letter);
  return dim == std::string::npos ? AxisPlacement::P() : AxisPlacement::S(static_cast<int>(dim));
}

/// Every operand that is no scalar must be flat, and every result of their shape then is.
std::vector<AxisPlacement> place_flat(const Signature& signature, const Operands& operands, size_t axis,
                                      const std::string& axis_name) {
  const PlacementError refusal{str_cat("an operand is flat over axis ", axis_name), "all_gather it first"};
  std::string letters;
  for (size_t i = 0; i < operands.size(); ++i) {
    if (operands[i] == nullptr) continue;
    if (signature.operands[i].empty() && operands[i]->placement[axis].replicated()) continue;  // a scalar
    if (letters.empty()) letters = signature.operands[i];
    const AxisPlacement& p = operands[i]->placement[axis];
    if (signature.operands[i] != letters) throw refusal;
    if (!p.flat()) {
      throw PlacementError{
          str_cat("operand ", i, " is not flat over ", axis_name, " while others are"),
          p.partial() ? "reduce_scatter_flat the partial operand first" : "take its own block with flat_slice"};
    }
  }
  for (const ResultType& result : signature.results) {
    if (result.letters != letters) throw refusal;
  }
  if (!signature.whole.empty()) throw refusal;
  return std::vector<AxisPlacement>(signature.results.size(), AxisPlacement::F());
}

/// Rule for one mesh axis; returns the placement of every result.
std::vector<AxisPlacement> place_on_axis(const Signature& signature, const Operands& operands, size_t axis,
                                         const std::string& axis_name) {
  for (const ValueInfo* operand : operands) {
    if (operand != nullptr && operand->placement[axis].flat()) {
      return place_flat(signature, operands, axis, axis_name);
    }
  }
  char letter = 0;
  int sharded_operand = -1;
  std::vector<int> partial;
  for (size_t i = 0; i < operands.size(); ++i) {
    if (operands[i] == nullptr) continue;
    const AxisPlacement& p = operands[i]->placement[axis];
    if (p.partial()) partial.push_back(static_cast<int>(i));
    if (!p.sharded()) continue;
    const char here = signature.operands[i][static_cast<size_t>(p.dim)];
    if (letter != 0 && letter != here) {
      throw PlacementError{str_cat("operands ", sharded_operand, " and ", i, " are sharded on '", letter, "' and '",
                                   here, "' over axis ", axis_name),
                           "gather one of them, or shard both on the same dimension"};
    }
    letter = here;
    sharded_operand = static_cast<int>(i);
  }
  std::vector<AxisPlacement> placements(signature.results.size());
  if (letter != 0) {
    if (!partial.empty()) {
      throw PlacementError{str_cat("operand ", partial[0], " is partial over ", axis_name, " while operand ",
                                   sharded_operand, " is sharded"),
                           "all_reduce or reduce_scatter the partial operand first"};
    }
    if (signature.whole.find(letter) != std::string::npos) {
      throw PlacementError{str_cat("operand ", sharded_operand, " is sharded on '", letter, "' over axis ", axis_name,
                                   ", which the operation needs whole"),
                           "all_gather it first"};
    }
    for (size_t i = 0; i < operands.size(); ++i) {
      if (operands[i] == nullptr || operands[i]->placement[axis].sharded()) continue;
      if (signature.operands[i].find(letter) != std::string::npos) {
        throw PlacementError{str_cat("operand ", i, " is replicated over ", axis_name, " but operand ", sharded_operand,
                                     " is sharded on their common dimension '", letter, "'"),
                             "slice it over the axis (or declare it sharded)"};
      }
    }
    for (size_t r = 0; r < placements.size(); ++r) placements[r] = place_letter(signature.results[r].letters, letter);
    return placements;
  }
  if (partial.empty()) return placements;
  if (std::find(signature.linear.begin(), signature.linear.end(), partial) == signature.linear.end()) {
    throw PlacementError{
        str_cat("operand ", partial[0], " is partial over ", axis_name, " and the operation is not linear in it"),
        "all_reduce or reduce_scatter it first"};
  }
  for (AxisPlacement& p : placements) p = AxisPlacement::P();
  return placements;
}

}  // namespace

std::vector<ValueInfo> infer_by_signature(const Signature& signature, const Operands& operands, const Mesh& mesh) {
  const LetterSizes sizes = bind_letters(signature, operands);
  std::vector<ValueInfo> results(signature.results.size());
  for (size_t r = 0; r < results.size(); ++r) {
    results[r].dtype = signature.results[r].dtype;
    for (char letter : signature.results[r].letters) results[r].shape.push_back(sizes.size(letter));
    results[r].placement.resize(mesh.axes.size());
  }
  for (size_t axis = 0; axis < mesh.axes.size(); ++axis) {
    const std::vector<AxisPlacement> placed = place_on_axis(signature, operands, axis, mesh.axes[axis].name);
    for (size_t r = 0; r < results.size(); ++r) results[r].placement[axis] = placed[r];
  }
  for (size_t i = 0; i < operands.size(); ++i) {  // which dimension counts samples follows the letter
    if (operands[i] == nullptr || operands[i]->sample_dim < 0) continue;
    const char letter = signature.operands[i][static_cast<size_t>(operands[i]->sample_dim)];
    for (size_t r = 0; r < results.size(); ++r) {
      const size_t dim = signature.results[r].letters.find(letter);
      if (dim != std::string::npos) results[r].sample_dim = static_cast<int>(dim);
    }
  }
  return results;
}

}  // namespace megatron
