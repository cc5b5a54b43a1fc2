// Communication as operations of a program. Modules write them, through the parallel context; nothing inserts them.
// Each changes the placement over one mesh axis, and has an adjoint.
#pragma once

#include <string>

#include "program/trace.h"

namespace megatron {

/// P -> R: sum over the ranks of the axis. Adjoint: of an R gradient the gradient itself, of a P gradient its
/// all_reduce.
Value all_reduce(Trace& t, Value x, const std::string& axis);

/// P -> S(0): sum, each rank keeps its block of dimension 0. Adjoint: all_gather.
Value reduce_scatter(Trace& t, Value x, const std::string& axis);

/// S(0) -> R: every rank gets all blocks. Adjoint: of a P gradient reduce_scatter, of an R gradient slice.
Value all_gather(Trace& t, Value x, const std::string& axis);

/// R -> S(0): each rank keeps its block. Adjoint: all_gather.
Value slice(Trace& t, Value x, const std::string& axis);

/// R -> R: marks where replicated work becomes sharded. Adjoint: of a P gradient all_reduce, of an R gradient itself.
Value enter(Trace& t, Value x, const std::string& axis);

}  // namespace megatron
