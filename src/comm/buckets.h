// Collectives over many values at once, for gradients and weights of data-parallel ranks: one operation, one group of
// calls. Values go by the flat placement F: what other axes leave of a tensor as one row, of which every rank holds a
// block (tensor/placement.h). Nothing is copied together; a rank's block of a whole tensor is a view of it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "program/trace.h"

namespace megatron {

/// R -> F: this rank's block, as a view.
Value flat_slice(Trace& t, Value x, const std::string& axis);

/// R -> R, a view: marks where ranks use a weight of which each of them keeps a block of the gradient. Adjoint: of a P
/// gradient reduce_scatter_flat, of an R gradient flat_slice.
Value share_flat(Trace& t, Value x, const std::string& axis, bool bf16 = false);

/// F -> R. Adjoint: of a P gradient reduce_scatter_flat, of an R gradient flat_slice. `bf16`: of sums, here and in
/// adjoints, terms travel and are added as bf16; types stay.
std::vector<Value> all_gather_flat(Trace& t, const std::vector<Value>& blocks, const std::string& axis,
                                   bool bf16 = false);
/// P -> F: sums, each rank keeps its blocks. Adjoint: all_gather_flat.
std::vector<Value> reduce_scatter_flat(Trace& t, const std::vector<Value>& partial, const std::string& axis,
                                       bool bf16 = false);

/// The same into memory that is there already, one target for each source of the same type but for the placement.
/// Targets are updated; nothing comes out. Source and target may be one memory (Trace::alias).
/// P -> R.
void all_reduce_into(Trace& t, const std::vector<Value>& partial, const std::vector<Value>& sums,
                     const std::string& axis, bool bf16 = false);
/// P -> F.
void reduce_scatter_into(Trace& t, const std::vector<Value>& partial, const std::vector<Value>& blocks,
                         const std::string& axis, bool bf16 = false);
/// F -> R.
void all_gather_into(Trace& t, const std::vector<Value>& blocks, const std::vector<Value>& wholes,
                     const std::string& axis);

/// For passes that put several such operations together: the kind for `count` values when `kind` is one of
/// all_gather_flat() or reduce_scatter_flat(), else null.
std::shared_ptr<const OpKind> all_gather_flat_of(const OpKind& kind, size_t count);
std::shared_ptr<const OpKind> reduce_scatter_flat_of(const OpKind& kind, size_t count);

}  // namespace megatron
