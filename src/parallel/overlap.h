// Where the collectives of data-parallel ranks stand in the lists of a training program, so that they run beside
// computation. Passes over a differentiated program, after recompute().
#pragma once

#include <functional>
#include <string>

#include "parallel/parallel_context.h"
#include "program/program.h"

namespace megatron {

/// Name of the unit, such as a layer, that a module path belongs to: what one unit needs or makes travels together.
using UnitOf = std::function<std::string(const std::string& scope)>;

/// Puts the gathers of the weights of one unit into one operation, in F and B alike, and the sums of gradients of one
/// unit into one, behind the last of them. With overlap_param_gather a unit's weights are gathered when the unit before
/// it begins; with overlap_grad_reduce what is done with the sums goes to the stream of communication too.
void bucket_by_unit(Program& train, const DataParallel& data, const UnitOf& unit_of);

/// overlap_grad_reduce where gradients are not divided: sums each bucket right after the last operation that adds to
/// one of its members, in B of the last micro-batch (move_weight_gradients() takes it along to W).
/// make_update_program() then finds them summed.
void overlap_gradient_sums(Program& train, const DataParallel& data);

/// overlap_param_gather where parameters are not divided: gathers the updated blocks of a bucket when the first reader
/// of the bucket before it runs, in F of the first micro-batch. make_update_program() then leaves them to it.
void overlap_parameter_gathers(Program& train, const DataParallel& data);

/// A program that gathers them at once, for whoever reads parameters outside of a step.
Program make_gather_program(const Program& train, const DataParallel& data);

}  // namespace megatron
