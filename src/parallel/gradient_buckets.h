// Gradients and weights between data-parallel ranks, in buckets: one group of collectives each, in place.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "parallel/parallel_context.h"
#include "program/trace.h"

namespace megatron {

/// State `id` of another program, declared in this one.
Value declare_state(Trace& t, const Program& from, ValueId id);

/// The gradients of all parameters of `train` as an update reads them, in their order: summed over every axis that they
/// are partial over, and where the optimizer's state is shared, this rank's block (F over dp). The sums are made in the
/// memory of the gradients: first over dp, in buckets from the last parameter to the first, which is the order in
/// which a backward finishes them, then over the others. InternalError for a parameter without gradient.
std::vector<Value> reduce_gradients(Trace& t, const Program& train, const DataParallel& data);

/// Declares the sums that `from` makes of the gradient of `parameter` itself, in a program that stands for several and
/// has that gradient as `gradient`: reduce_gradients() then takes them as made.
void declare_sums_of(Trace& t, const Program& from, const ParameterInfo& parameter, Value gradient);

/// The sums over `axis` of the gradients of some parameters of `train`, in one operation emitted into `t`.
void sum_gradients(Trace& t, const Program& train, const std::vector<size_t>& parameters, const std::string& axis,
                   const DataParallel& data);

/// Collects blocks of parameters that were updated and gathers them in buckets.
class GatherBuckets {
 public:
  GatherBuckets(Trace& t, const DataParallel& data) : t_(t), data_(data) {}

  /// `whole`, or this rank's part of it where `placement` is flat over an axis over which `whole` is replicated.
  Value own_part(Value whole, const Placement& placement);
  /// `part` is up to date: its ranks' parts become `whole`, now or with later ones. Nothing where both are one.
  void add(Value part, Value whole);
  void finish();

 private:
  Trace& t_;
  const DataParallel& data_;
  std::vector<Value> parts_, wholes_;
  int64_t elements_ = 0;
};

}  // namespace megatron
