// The passes that turn a traced forward into a program that can run. Each takes a program and changes it; each ends
// with verify().
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "program/program.h"

namespace megatron {

/// Adds the backward of program.losses in list B. Gradients of parameters become fp32 (fp64 for fp64) state named
/// "gradient/<parameter>", accumulated by the operations that make them; gradients of values used several times are
/// summed, inside the producing operation where its kind can. At boundaries of pipeline stages gradients come in and go
/// out: Boundary::gradient of program.sent and program.received.
void differentiate(Program& program);

/// Name of the gradient state of a parameter.
std::string gradient_name(const std::string& parameter);

/// Drops the values for which `drop` is true after the forward: their producers are emitted again in B, right before
/// the first backward use. Operations that change state, or read state that the program changes, are never emitted
/// again, and their results are kept. Returns the number of values dropped.
int recompute(Program& program, const std::function<bool(const Program&, ValueId)>& drop);

/// Moves operations that only make parameter gradients, and those that read what they make, from B to W (for schedules
/// that fill bubbles with them).
void move_weight_gradients(Program& program);

/// Cuts operations that `choose` names along dimension 0 of their first operand and of their only result, where that
/// operand is joined from parts that communication makes, or that result is taken by communication in parts: events
/// are derived from bytes, so that each piece waits for its own part alone. `choose` may name operations whose rows do
/// not depend on each other and whose other operands have none. Sums over rows (weight gradients) stay whole. Returns
/// the number of operations that were cut. The last pass before pack().
int split_rows(Program& program, const std::function<bool(const Program&, OpId)>& choose);

/// Removes operations whose results nobody reads and that change no state; unread results of the others stay and are
/// passed to kernels as null.
void remove_dead_ops(Program& program);

/// Infers every operation again and compares with what is recorded; checks that operands are made before they are used.
/// Throws InternalError.
void verify(const Program& program);

/// True when the operation changes persistent memory.
bool changes_state(const Program& program, const Op& op);

}  // namespace megatron
