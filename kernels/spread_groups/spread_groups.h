// Gives every tensor rank its queries of a key-value group that several ranks share.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

/// A projection weight (or bias) w [G, Q + 2, ...] holds for each of G groups its Q query heads, key and value. The
/// result [G * parts, Q / parts + 2, ...] has each group `parts` times, every time with another Q / parts of its
/// queries and with the same key and value: result[e, j] = w[e / parts, j < Q / parts ? (e % parts) * (Q / parts) + j :
/// Q + j - Q / parts]. It is sharded over mesh axis `axis` on dimension 0, of w replicated there: each rank copies what
/// it needs and nothing is sent. The gradient of w is partial over the axis: keys and values get parts from several
/// ranks. Grouped queries: Ainslie et al., arXiv:2305.13245. UsageError where parts does not divide Q.
Value spread_groups(Trace& trace, Value w, int64_t parts, const std::string& axis);

/// Operand w; result as above. `axis` "": one rank has all.
std::shared_ptr<const OpKind> spread_groups_kind(int64_t parts, const std::string& axis);
/// The adjoint: [G * parts, Q / parts + 2, ...] -> [G, Q + 2, ...], adding up the parts in order.
std::shared_ptr<const OpKind> gather_groups_kind(int64_t parts, const std::string& axis);

class ThreadPool;
/// `groups` [G, Q + 2, ...], `spread`: local rows from `first` on of [G * parts, Q / parts + 2, ...]. Contiguous.
struct SpreadGroupsArgs {
  Tensor groups, spread;
  int64_t parts = 1, first = 0;
  bool add = false;  ///< gather only: groups += instead of groups =
};
void spread_groups_cpu(const SpreadGroupsArgs& args);
void gather_groups_cpu(const SpreadGroupsArgs& args, ThreadPool* pool);

}  // namespace megatron
