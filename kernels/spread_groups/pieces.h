// Which runs of memory belong together in spread_groups: the same walk on every device.
#pragma once

#include "kernels/spread_groups/spread_groups.h"

namespace megatron {

/// Calls body(run of args.groups, run of args.spread) for contiguous runs of one length, in order.
template <typename Body>
void for_each_piece(const SpreadGroupsArgs& args, const Body& body) {
  const int64_t rows = args.groups.shape[1], part_rows = args.spread.shape[1], queries = part_rows - 2;
  int64_t row = 1;
  for (int d = 2; d < args.groups.shape.rank(); ++d) row *= args.groups.shape[d];
  const auto run = [&](const Tensor& t, int64_t first_row, int64_t count) {
    return make_tensor(static_cast<std::byte*>(t.data) + first_row * row * size_of(t.dtype), t.dtype, {count * row});
  };
  for (int64_t i = 0; i < args.spread.shape[0]; ++i) {
    const int64_t group = (args.first + i) / args.parts, part = (args.first + i) % args.parts;
    body(run(args.groups, group * rows + part * queries, queries), run(args.spread, i * part_rows, queries));
    body(run(args.groups, group * rows + rows - 2, 2), run(args.spread, i * part_rows + queries, 2));
  }
}

}  // namespace megatron
