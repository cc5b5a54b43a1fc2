// Key-value groups for more ranks than there are groups.
#pragma once

#include <cstdint>
#include <memory>

#include "program/op_kind.h"
#include "program/trace.h"

namespace megatron {

/// x [s, b, g, d] with every group `times` times in a row: [s, b, g * times, d]. With queries seen as [s, b, g * times,
/// q / times, d] attention is the same, and its groups can be shared by `times` as many ranks. g may be sharded in
/// equal blocks. The gradient is the sum over the copies, in order.
Value repeat_groups(Trace& trace, Value x, int64_t times);

std::shared_ptr<const OpKind> repeat_groups_kind(int64_t times);

}  // namespace megatron
