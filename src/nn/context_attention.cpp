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

/// One rank's view of the ranks that have the keys, kept for the gradient.
struct Ring {
  ParallelContext parallel;
  std::string axis;
  int ranks = 1, rank = 0;
  AttentionOptions options;
  int64_t queries = 0;  ///< of all ranks

  /// The options for the keys of rank `keys`.
  AttentionOptions block(int keys) const {
    AttentionOptions block = options;
    block.parts = {ranks, rank, keys};
    return block;
  }
  /// The rank whose keys have come `steps` places.
  int behind(int steps) const { return (rank - steps + ranks) % ranks; }
};

Ring ring_of(Trace& t, const ParallelContext& parallel, const std::string& axis, Value q,
             const AttentionOptions& options) {
  const MeshAxis& place = t.mesh().axes[static_cast<size_t>(t.mesh().find(axis))];
  return {parallel, axis, place.size, place.coordinate, options, t.shape(q)[0]};
}

/// What the gradient follows from, as operands of attention_merge().
enum Source { kQ, kK, kV, kStarts, kStep, kSample, kPosition };
std::vector<Value> sources(const Heads& x, const AttentionExtras& extras) {
  return {x.q, x.k, x.v, extras.starts, extras.step, extras.sample, extras.position};
}

/// Of the queries and one block of keys, given the statistics of all blocks: dq, dk, dv.
std::vector<Value> block_gradient(BackwardContext& c, int first, const Ring& ring, int key_rank, Value k, Value v) {
  const auto source = [&](Source i) { return c.operand(first + i); };
  const AttentionSizes sizes{ring.queries, c.trace().shape(k)[0], c.trace().shape(source(kQ))[3]};
  return c.trace().emit(attention_backward_kind(ring.block(key_rank), sizes),
                        {source(kQ), k, v, c.result(0), c.result(1), c.gradient(0), source(kStarts), source(kStep),
                         source(kSample), source(kPosition)});
}

std::vector<Value> sum(Trace& t, const std::vector<Value>& a, const std::vector<Value>& b) {
  std::vector<Value> sums;
  for (size_t i = 0; i < a.size(); ++i) sums.push_back(add(t, a[i], b[i]));
  return sums;
}

// ------------------------------------------------------------------------------------------------------------ gathered

/// The blocks of the ranks, views of what was gathered.
std::vector<Value> blocks_of(Trace& t, Value x, const Ring& ring) {
  const auto ranks = static_cast<size_t>(ring.ranks);
  return split(t, x, 0, std::vector<int64_t>(ranks, div_exact(t.shape(x)[0], ring.ranks)));
}

void gathered_gradient(BackwardContext& c, int first, const Ring& ring) {
  Trace& t = c.trace();
  const Value k = c.operand(first + kK), v = c.operand(first + kV);
  const std::vector<Value> ks = blocks_of(t, k, ring), vs = blocks_of(t, v, ring);
  std::vector<Value> dks, dvs;
  Value dq;
  for (int rank = 0; rank < ring.ranks; ++rank) {
    const auto i = static_cast<size_t>(rank);
    const std::vector<Value> g = block_gradient(c, first, ring, rank, ks[i], vs[i]);
    dq = dq ? add(t, dq, g[0]) : g[0];
    dks.push_back(g[1]);
    dvs.push_back(g[2]);
  }
  const std::vector<int64_t> sizes(dks.size(), t.shape(ks[0])[0]);
  c.set(first + kQ, dq);
  c.set(first + kK, concatenate(t, k, dks, 0, sizes));
  c.set(first + kV, concatenate(t, v, dvs, 0, sizes));
}

Value gathered_attention(Trace& t, const Ring& ring, const Heads& x, const AttentionExtras& extras) {
  const auto gather = [&](Value part) { return ring.parallel.gather_sequence(t, contiguous(t, part), ring.axis); };
  const Heads all{x.q, gather(x.k), gather(x.v)};
  const std::vector<Value> ks = blocks_of(t, all.k, ring), vs = blocks_of(t, all.v, ring);
  std::vector<AttentionResult> parts;
  for (int rank = 0; rank < ring.ranks; ++rank) {
    const auto i = static_cast<size_t>(rank);
    parts.push_back(attention(t, x.q, ks[i], vs[i], ring.block(rank), extras));
  }
  const auto gradient = [ring](BackwardContext& c, int first) { gathered_gradient(c, first, ring); };
  return attention_merge(t, parts, sources(all, extras), gradient).out;
}

// ---------------------------------------------------------------------------------------------------------------- ring

/// Keys and values go around once more, followed by their gradients, to which every rank adds its part. The block of
/// this rank's own keys comes last, so that the last transfers are under way meanwhile.
void ring_gradient(BackwardContext& c, int first, const Ring& ring) {
  Trace& t = c.trace();
  Value dq;
  const auto block = [&](int steps, const std::vector<Value>& keys) -> std::vector<Value> {
    const std::vector<Value> g = block_gradient(c, first, ring, ring.behind(steps), keys[0], keys[1]);
    dq = dq ? add(t, dq, g[0]) : g[0];
    return {g[1], g[2]};
  };
  const auto pass_on = [&](const std::vector<Value>& values) { return ring.parallel.pass_on(t, values, ring.axis); };
  const std::vector<Value> own = {c.operand(first + kK), c.operand(first + kV)};
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
  c.set(first + kQ, dq);
  c.set(first + kK, dkv[0]);
  c.set(first + kV, dkv[1]);
}

Value ring_attention(Trace& t, const Ring& ring, const Heads& x, const AttentionExtras& extras) {
  const Heads own{x.q, contiguous(t, x.k), contiguous(t, x.v)};
  std::vector<AttentionResult> parts;
  std::vector<Value> keys = {own.k, own.v};
  for (int steps = 0; steps < ring.ranks; ++steps) {  // the next keys are on their way while these are attended
    const std::vector<Value> next = steps + 1 < ring.ranks ? ring.parallel.pass_on(t, keys, ring.axis) : keys;
    parts.push_back(attention(t, x.q, keys[0], keys[1], ring.block(ring.behind(steps)), extras));
    keys = next;
  }
  const auto gradient = [ring](BackwardContext& c, int first) { ring_gradient(c, first, ring); };
  return attention_merge(t, parts, sources(own, extras), gradient).out;
}

/// Queries stay on their ranks, and meet the keys of all ranks of `axis` ("": this rank has them all).
Value keys_from_all(Trace& t, const ParallelContext& parallel, const std::string& axis, const Heads& x,
                    const AttentionOptions& options, const AttentionExtras& extras) {
  if (axis.empty()) return attention(t, x.q, x.k, x.v, options, extras).out;
  const Ring ring = ring_of(t, parallel, axis, x.q, options);
  return parallel.context_exchange().gathers ? gathered_attention(t, ring, x, extras)
                                             : ring_attention(t, ring, x, extras);
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
  const MeshAxis& axis = t.mesh().axes[static_cast<size_t>(t.mesh().find(exchange.heads_axis))];
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
