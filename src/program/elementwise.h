// The few arithmetic operations that the passes themselves emit.
#pragma once

#include <vector>

#include "program/trace.h"

namespace megatron {

/// a + b, element-wise, of equal types.
Value add(Trace& t, Value a, Value b);

/// A contiguous copy of a strided view; x itself when it is contiguous.
Value contiguous(Trace& t, Value x);

/// state += x in place; types must be equal up to dtype (x may be a 16-bit gradient of an fp32 state).
void accumulate(Trace& t, Value x, Value state);

/// Joins parts along `dim` into one value of the type of `like`; absent parts are zeros. pack() makes the parts'
/// producers write in place where they can.
Value concatenate(Trace& t, Value like, const std::vector<Value>& parts, int dim, const std::vector<int64_t>& sizes);

/// Joins parts, of one type but for the extent of `dim`.
Value join(Trace& t, const std::vector<Value>& parts, int dim);

/// True for the kind that concatenate() and join() emit; `offsets[i]` is then the begin of part i along the result's
/// dimension `dim`.
struct JoinInfo {
  int dim = 0;
  std::vector<int64_t> offsets;
};
bool is_join(const OpKind& kind, JoinInfo* info);

}  // namespace megatron
