#include "nn/context_attention.h"

#include <numeric>

#include "base/check.h"
#include "kernels/attention_merge/attention_merge.h"
#include "kernels/repeat_groups/repeat_groups.h"
#include "kernels/zigzag_order/zigzag_order.h"
#include "program/elementwise.h"
#include "program/views.h"

namespace megatron {
namespace {

/// The queries, keys and values that attention takes.
struct Heads {
  Value q, k, v;
};

const MeshAxis& axis_of(Trace& t, const std::string& name) {
  return t.mesh().axes[static_cast<size_t>(t.mesh().find(name))];
}

// ------------------------------------------------------------------------------------------------------------ gathered

Value gathered_attention(Trace& t, const ParallelContext& parallel, const std::string& axis, const Heads& x,
                         AttentionOptions options, const AttentionExtras& extras) {
  const MeshAxis& ranks = axis_of(t, axis);
  options.parts = {ranks.size, ranks.coordinate, -1};
  const auto whole = [&](Value part) {
    return zigzag_order(t, parallel.gather_sequence(t, contiguous(t, part), axis), ranks.size, SequenceOrder::kNatural);
  };
  return attention(t, x.q, whole(x.k), whole(x.v), options, extras).out;
}

// ---------------------------------------------------------------------------------------------------------------- ring

/// One rank's view of the ring, kept for the gradient.
struct Ring {
  ParallelContext parallel;
  std::string axis;
  int ranks = 1, rank = 0;
  AttentionOptions options;
  int64_t length = 0;  ///< of the whole sequence

  /// The options for the keys that have come `steps` places.
  AttentionOptions block(int steps) const {
    AttentionOptions block = options;
    block.parts = {ranks, rank, (rank - steps + ranks) % ranks};
    return block;
  }
};

std::vector<Value> sum(Trace& t, const std::vector<Value>& a, const std::vector<Value>& b) {
  std::vector<Value> sums;
  for (size_t i = 0; i < a.size(); ++i) sums.push_back(add(t, a[i], b[i]));
  return sums;
}

/// Keys and values go around once more, followed by their gradients, to which every rank adds its part. The block of
/// this rank's own keys comes last, so that the last transfers are under way meanwhile.
void ring_gradient(BackwardContext& c, int first, const Ring& ring) {
  Trace& t = c.trace();
  const auto source = [&](int i) { return c.operand(first + i); };
  const AttentionSizes sizes{ring.length, ring.length, t.shape(source(0))[3]};
  Value dq;
  const auto block = [&](int steps, const std::vector<Value>& keys) -> std::vector<Value> {
    const std::vector<Value> g = t.emit(attention_backward_kind(ring.block(steps), sizes),
                                        {source(0), keys[0], keys[1], c.result(0), c.result(1), c.gradient(0),
                                         source(3), source(4), source(5), source(6)});
    dq = dq ? add(t, dq, g[0]) : g[0];
    return {g[1], g[2]};
  };
  const auto pass_on = [&](const std::vector<Value>& values) { return ring.parallel.pass_on(t, values, ring.axis); };
  const std::vector<Value> own = {source(1), source(2)};
  std::vector<Value> keys = pass_on(own), gradients;
  for (int steps = 1; steps < ring.ranks; ++steps) {
    const std::vector<Value> next = steps + 1 < ring.ranks ? pass_on(keys) : own;
    const std::vector<Value> arrived = gradients.empty() ? gradients : pass_on(gradients);
    const std::vector<Value> fresh = block(steps, keys);
    gradients = arrived.empty() ? fresh : sum(t, arrived, fresh);
    keys = next;
  }
  const std::vector<Value> home = pass_on(gradients);
  const std::vector<Value> dkv = sum(t, home, block(0, own));
  c.set(first, dq);
  c.set(first + 1, dkv[0]);
  c.set(first + 2, dkv[1]);
}

Value ring_attention(Trace& t, const ParallelContext& parallel, const std::string& axis, const Heads& x,
                     const AttentionOptions& options, const AttentionExtras& extras) {
  const MeshAxis& place = axis_of(t, axis);
  const Ring ring{parallel, axis, place.size, place.coordinate, options, t.shape(x.q)[0]};
  const std::vector<Value> own = {contiguous(t, x.k), contiguous(t, x.v)};
  std::vector<AttentionResult> parts;
  std::vector<Value> keys = own;
  for (int steps = 0; steps < ring.ranks; ++steps) {  // the next keys are on their way while these are attended
    const std::vector<Value> next = steps + 1 < ring.ranks ? parallel.pass_on(t, keys, axis) : own;
    parts.push_back(attention(t, x.q, keys[0], keys[1], ring.block(steps), extras));
    keys = next;
  }
  return attention_merge(t, parts, {x.q, own[0], own[1], extras.starts, extras.step, extras.sample, extras.position},
                         [ring](BackwardContext& c, int first) { ring_gradient(c, first, ring); })
      .out;
}

/// Queries stay on their ranks, and meet the keys of all ranks of `axis` ("": this rank has them all).
Value keys_from_all(Trace& t, const ParallelContext& parallel, const std::string& axis, const Heads& x,
                    const AttentionOptions& options, const AttentionExtras& extras) {
  if (axis.empty()) return attention(t, x.q, x.k, x.v, options, extras).out;
  return parallel.context_exchange().gathers ? gathered_attention(t, parallel, axis, x, options, extras)
                                             : ring_attention(t, parallel, axis, x, options, extras);
}

// -------------------------------------------------------------------------------------------------- heads for sequence

/// Copies of each group of keys, so that the ranks of `axis` can share the groups of a tensor rank.
int64_t copies_of_groups(Trace& t, Value q, const MeshAxis& axis) {
  int64_t ranks = axis.size;
  const Placement& placement = t.info(q).placement;
  for (size_t a = 0; a < placement.size(); ++a) {
    if (placement[a] == AxisPlacement::S(2)) ranks *= t.mesh().axes[a].size;
  }
  return ranks / std::gcd(ranks, t.shape(q)[2]);
}

Value scattered_attention(Trace& t, const ParallelContext& parallel, const ContextExchange& exchange, Heads x,
                          AttentionOptions options, AttentionExtras extras) {
  const MeshAxis& axis = axis_of(t, exchange.heads_axis);
  const Dims shape = t.shape(x.q);
  const int64_t copies = copies_of_groups(t, x.q, axis);
  if (copies > 1) {
    const Dims cut = {shape[0], shape[1], shape[2] * copies, div_exact(shape[3], copies), shape[4]};
    x = {reshape(t, contiguous(t, x.q), cut), repeat_groups(t, x.k, copies), repeat_groups(t, x.v, copies)};
  }
  const LocalBox box = local_box(t.shape(x.q), t.info(x.q).placement, t.mesh());
  options.first_group = box.origin[2] + axis.coordinate * div_exact(box.extent[2], axis.size);
  const auto natural = [&](Value v) { return zigzag_order(t, v, axis.size, SequenceOrder::kNatural); };
  const auto scatter = [&](Value v) { return natural(parallel.heads_for_sequence(t, v, axis.name)); };
  const auto gather = [&](Value v) { return v ? natural(parallel.gather_sequence(t, v, axis.name)) : v; };
  x = {scatter(x.q), scatter(x.k), scatter(x.v)};
  extras.starts = gather(extras.starts);
  extras.position = gather(extras.position);
  const Value out = keys_from_all(t, parallel, exchange.keys_axis, x, options, extras);
  const Value back = zigzag_order(t, out, axis.size, SequenceOrder::kZigzag);
  return reshape(t, parallel.sequence_for_heads(t, back, axis.name), shape);
}

}  // namespace

Value context_attention(Trace& t, const ParallelContext& parallel, Value q, Value k, Value v,
                        const AttentionOptions& options, const AttentionExtras& extras) {
  const ContextExchange exchange = parallel.context_exchange();
  const Heads x{q, k, v};
  if (!exchange.heads_axis.empty()) return scattered_attention(t, parallel, exchange, x, options, extras);
  return keys_from_all(t, parallel, exchange.keys_axis, x, options, extras);
}

}  // namespace megatron
