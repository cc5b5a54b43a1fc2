// From the order in which ranks hold a sequence that they share to the order of the sequence, and back.
#pragma once

#include <cstdint>
#include <memory>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

enum class SequenceOrder : uint8_t { kNatural, kZigzag };

/// x [s, ...] holds the parts of `ranks` ranks one after the other (base/zigzag.h: chunk r, chunk 2 ranks - 1 - r). The
/// result has the 2 * ranks chunks in the order `to`; x has them in the other. Any type. Where s is sharded, this is
/// done to the rows of every rank by themselves. Their number is a multiple of 2 * ranks.
Value zigzag_order(Trace& trace, Value x, int64_t ranks, SequenceOrder to);

std::shared_ptr<const OpKind> zigzag_order_kind(int64_t ranks, SequenceOrder to);

}  // namespace megatron
