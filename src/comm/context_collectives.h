// Exchanges of context parallelism as operations of a program: each rank holds a part of the sequence (dimension 0).
#pragma once

#include <string>
#include <vector>

#include "program/trace.h"

namespace megatron {

/// S(0) -> S(0): every rank gets the parts of the rank `steps` places before it on the ring of the axis, and sends its
/// own as far ahead; negative steps go back. All ranks hold parts of one size. Adjoint: the same way back.
std::vector<Value> ring_shift(Trace& t, const std::vector<Value>& values, const std::string& axis, int steps);

/// S(0) -> S(dim): from a part of dimension 0 with all of dimension `dim` to all of dimension 0 with a part of `dim`
/// (Jacobs et al. 2023, arXiv:2309.14509). Both sizes are divisible. Where other axes cut `dim` already, each of their
/// blocks is cut again. Adjoint: sequence_for_heads().
Value heads_for_sequence(Trace& t, Value x, const std::string& axis, int dim);
/// S(dim) -> S(0), back.
Value sequence_for_heads(Trace& t, Value x, const std::string& axis, int dim);

}  // namespace megatron
