// Attention over sequences that several ranks share (context parallelism).
#pragma once

#include "kernels/attention/attention.h"
#include "parallel/parallel_context.h"
#include "program/trace.h"

namespace megatron {

/// attention() of q [S, B, G, Q, D], k, v [S, B, G, D], each rank holding its part of S (base/zigzag.h); the result is
/// placed as q is. Without context parallelism attention() itself. parallel.context_exchange() says how queries meet
/// the keys of other ranks:
///   gathered: every rank gets all keys and values (Llama 3, arXiv:2407.21783, section 3.3.2);
///   ring: keys and values go from rank to rank while the block that is there is attended, and the blocks' results are
///     merged (Liu et al. 2023, arXiv:2310.01889); zig-zag parts make every block the same work;
///   heads for sequence: all_to_all gives each rank whole sequences of some heads, and takes the result back (Jacobs et
///     al. 2023, arXiv:2309.14509); groups of keys are repeated where there are fewer than ranks. Within that, a ring
///     over further ranks (Fang and Zhao 2024, arXiv:2405.07719).
Value context_attention(Trace& t, const ParallelContext& parallel, Value q, Value k, Value v,
                        const AttentionOptions& options, const AttentionExtras& extras);

}  // namespace megatron
