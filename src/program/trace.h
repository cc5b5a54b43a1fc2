// Building a program: modules call Trace while they run their forward; every emit infers and checks at once.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "program/op_kind.h"
#include "program/program.h"

namespace megatron {

class Trace {
 public:
  /// `training` asks modules for dropout and for what the backward needs.
  explicit Trace(Program& program, bool training = false) : program_(program), training_(training) {}

  bool training() const { return training_; }
  Program& program() { return program_; }
  const Mesh& mesh() const { return program_.mesh; }
  const ValueInfo& info(Value v) const { return program_.value(v.id); }
  const Dims& shape(Value v) const { return info(v).shape; }
  DType dtype(Value v) const { return info(v).dtype; }
  /// All axes replicated.
  Placement replicated() const { return Placement(program_.mesh.axes.size()); }

  /// Declares persistent or host-written values. A second declaration of one name returns the first value and checks
  /// that the type is the same (tied embeddings, sums used by several modules).
  Value parameter(const std::string& name, DType dtype, const Dims& shape, const Placement& placement,
                  const Init& init);
  Value state(const std::string& name, DType dtype, const Dims& shape, const Placement& placement);
  Value input(const std::string& name, DType dtype, const Dims& shape, const Placement& placement, int sample_dim = -1);
  /// Another name and placement of the memory of `of`, a parameter or state: for what an operation makes of it in
  /// place, such as the sum of a partial value, or this rank's block of that. With a flat axis that `of` does not have
  /// it is the rank's own block, else the whole. A state for all programs that declare it.
  Value alias(const std::string& name, Value of, const Placement& placement);

  /// Boundaries of pipeline stages: a value that the stage before sends, and one that goes to the stage behind.
  Value receive(const std::string& name, DType dtype, const Dims& shape, const Placement& placement,
                int sample_dim = -1);
  void send(const std::string& name, Value v);
  /// What another stage writes, without making it a boundary: the gradient of what is sent.
  Value received(const std::string& name, DType dtype, const Dims& shape, const Placement& placement,
                 int sample_dim = -1);

  /// Appends one operation and returns its results. Throws InternalError naming module, operands with placements, the
  /// op that made a value partial, and the remedy, when the operands do not fit.
  std::vector<Value> emit(std::shared_ptr<const OpKind> kind, const std::vector<Value>& operands);
  /// The same for kinds whose first result is what callers want.
  Value emit1(std::shared_ptr<const OpKind> kind, const std::vector<Value>& operands) {
    return emit(std::move(kind), operands).front();
  }

  /// Makes result `v` of an operation add to `state`; returns the sum's handle. The kind must accumulate.
  void accumulate_into(Value v, Value state);
  void loss(Value value, Value seed) { program_.losses.push_back({value.id, seed.id}); }
  void output(const std::string& name, Value v) { program_.outputs.push_back({name, v.id}); }
  void rename(Value v, const std::string& name) { program_.value(v.id).name = name; }

  /// Phase that emitted operations are appended to (forward unless a pass changes it).
  void set_phase(Phase phase) { phase_ = phase; }
  Phase phase() const { return phase_; }

  /// Module path of the operations emitted now; "" at top level.
  const std::string& scope() const { return scope_; }
  void set_scope(std::string scope) { scope_ = std::move(scope); }
  /// `scope` + "." + name.
  std::string path(const std::string& name) const { return scope_.empty() ? name : scope_ + "." + name; }

  /// Enters module `name` for as long as the object lives.
  class Scope {
   public:
    Scope(Trace& trace, const std::string& name) : trace_(trace), saved_(trace.scope()) {
      trace.set_scope(trace.path(name));
    }
    ~Scope() { trace_.set_scope(saved_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Trace& trace_;
    std::string saved_;
  };

 private:
  Value declare(const ValueInfo& info);

  Program& program_;
  bool training_;
  Phase phase_ = Phase::kForward;
  std::string scope_;
};

/// What OpKind::backward works with: the operands and results of the forward operation and the gradients of its
/// results.
class BackwardContext {
 public:
  BackwardContext(Trace& trace, OpId op, std::vector<Value> result_gradients);

  Trace& trace() { return trace_; }
  Value operand(int i) const;
  Value result(int i) const;
  /// Gradient of result i, or absent when nothing depends on it.
  Value gradient(int i) const { return result_gradients_[static_cast<size_t>(i)]; }
  /// Does anybody want the gradient of operand i?
  bool wants(int i) const;
  /// Gives the gradient of operand i. Absent values are ignored.
  void set(int i, Value gradient);

  const std::vector<std::pair<ValueId, ValueId>>& contributions() const { return contributions_; }
  void set_wanted(std::vector<bool> wanted) { wanted_ = std::move(wanted); }

 private:
  Trace& trace_;
  OpId op_;
  std::vector<Value> result_gradients_;
  std::vector<bool> wanted_;  ///< per operand
  std::vector<std::pair<ValueId, ValueId>> contributions_;
};

}  // namespace megatron
