// Sums whose bits depend on the order of the addition: the same on every backend.
#pragma once

#include <cmath>

#include "base/hash.h"
#include "comm/thread_comm.h"
#include "tests/program/rig.h"

namespace megatron {

/// A hash of everything that sums over `comm` give on this rank, in all floating types and several sizes.
inline std::string bits_of_sums(Comm& comm) {
  Xxh64 hash;
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t count : {1, 7, 1000, 40001}) {
      dispatch_floating("bits_of_sums", dtype, [&](auto tag) {
        using T = decltype(tag);
        std::vector<T> values, part;
        const std::string name = "sum" + std::to_string(comm.rank());
        for (int64_t i = 0; i < count; ++i) {
          values.push_back(static_cast<T>(tiny::number(name, i) * std::exp2(static_cast<double>(i % 17))));
        }
        std::vector<int64_t> counts;
        for (int r = 0; r < comm.size(); ++r) counts.push_back(count * (r + 1) / comm.size() - count * r / comm.size());
        part.resize(static_cast<size_t>(counts[static_cast<size_t>(comm.rank())]));
        const Tensor whole = make_tensor(values.data(), dtype, {count});
        const Tensor piece = make_tensor(part.data(), dtype, {static_cast<int64_t>(part.size())});
        comm.reduce_scatter(whole, piece, counts.data());
        comm.all_reduce(whole);
        std::vector<T> gathered(values.size());
        comm.all_gather(piece, make_tensor(gathered.data(), dtype, {count}), counts.data());
        hash.update(std::as_bytes(std::span(values)));
        hash.update(std::as_bytes(std::span(gathered)));
      });
    }
  }
  return hex64(hash.digest());
}

}  // namespace megatron
