// CPU kernels of attention. Work is cut in blocks of queries of one head; the scores of one block (rows x visible keys)
// are the only ones in memory. The gradient owns dk and dv of one (sample, group) per task, so that sums have one
// order.
#include <algorithm>
#include <limits>

#include "base/strings.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/block_gemm.h"
#include "kernels/attention/key_range.h"
#include "kernels/attention/row_math.h"
#include "kernels/attention/scratch.h"
#include "kernels/random/dropout_mask.h"
#include "kernels/vector_math.h"

namespace megatron {
namespace {

/// Queries of one block: the scores of a block should stay in the second-level cache.
int64_t block_rows(const AttentionArgs& args) {
  constexpr int64_t kScores = 65536, kLeast = 8, kMost = 64;
  const int64_t keys = std::max<int64_t>(args.k.shape[0], 1), queries = std::max<int64_t>(args.q.shape[0], 1);
  return std::min(std::clamp(kScores / keys, kLeast, kMost), queries);
}

/// Rows [begin, begin + count) of dimension 0 of x at fixed other indices, as a matrix over dimensions 0 and last.
template <typename T>
Matrix<T> rows_of(const Tensor& x, int64_t begin, int64_t count, int64_t b, int64_t g, int64_t h = 0) {
  int64_t offset = begin * x.strides[0] + b * x.strides[1] + g * x.strides[2];
  if (x.shape.rank() == 5) offset += h * x.strides[3];
  return {x.as<T>() + offset, count, x.shape.back(), x.strides[0]};
}

/// The matrix itself where it is in the accumulator's type, else a copy of it in `copy`.
template <typename T, typename A>
Matrix<const A> widened(const Matrix<T>& x, A* copy) {
  if constexpr (std::is_same_v<T, A>) {
    return x.readable();
  } else {
    for (int64_t i = 0; i < x.rows; ++i) {
      const T* from = x.row(i);
      A* to = copy + i * x.columns;
      for (int64_t j = 0; j < x.columns; ++j) to[j] = static_cast<A>(from[j]);
    }
    return {copy, x.rows, x.columns, x.columns};
  }
}

/// Where a product for x is to be written: x itself, or the wide copy.
template <typename T, typename A>
Matrix<A> wide_target(const Matrix<T>& x, A* copy) {
  if constexpr (std::is_same_v<T, A>) {
    return x;
  } else {
    return {copy, x.rows, x.columns, x.columns};
  }
}

template <typename T, typename A>
void narrow_rows(const Matrix<A>& wide, const Matrix<T>& x) {
  if constexpr (!std::is_same_v<T, A>) {
    for (int64_t i = 0; i < x.rows; ++i) {
      const A* from = wide.row(i);
      T* to = x.row(i);
      for (int64_t j = 0; j < x.columns; ++j) to[j] = static_cast<T>(from[j]);
    }
  }
}

template <typename A>
void fill_rows(const Matrix<A>& x, A value) {
  for (int64_t i = 0; i < x.rows; ++i) std::fill_n(x.row(i), x.columns, value);
}

template <typename T>
constexpr int64_t copies(int64_t count) {
  return std::is_same_v<T, Accumulator<T>> ? 0 : count;
}

/// Dropout of the probabilities of one row.
class RowDropout {
 public:
  explicit RowDropout(const AttentionArgs& args) : args_(args), active_(args.options.dropout > 0) {
    if (!active_) return;
    step_ = *args.step.as<int64_t>();
    name_hash_ = hash_name(args.options.name);
    threshold_ = dropout_threshold(args.options.dropout);
    kept_ = 1.0 / (1.0 - args.options.dropout);
  }
  bool active() const { return active_; }
  /// multipliers[j] = 0 or 1 / (1 - p) for keys [range.begin, range.end), which multipliers[0] is the first of.
  template <typename A>
  void fill(int64_t s, int64_t b, int64_t g, int64_t h, const KeyRange& range, A* multipliers) const {
    const auto head =
        static_cast<uint64_t>((args_.first_group + g) * args_.sizes.heads_per_group + args_.first_head + h);
    const int64_t sample = args_.sample.as<int64_t>()[b * args_.sample.strides[0]];
    const Dims& strides = args_.position.strides;
    const int32_t position = args_.position.as<int32_t>()[s * strides[0] + b * strides[1]];
    const DropoutToken token =
        dropout_token(dropout_key(args_.options.seed, name_hash_, head), step_, sample, position);
    const RowPlaces& places = args_.key_places;
    const int64_t split = std::clamp(places.split, range.begin, range.end);
    fill_places(token, {range.begin + places.low, split + places.low}, multipliers);
    fill_places(token, {split + places.high, range.end + places.high}, multipliers + (split - range.begin));
  }

 private:
  /// Of keys at consecutive places.
  template <typename A>
  void fill_places(const DropoutToken& token, const KeyRange& places, A* multipliers) const {
    if (places.empty()) return;
    for (int64_t group = places.begin / 4; group * 4 < places.end; ++group) {
      const Philox4 words = dropout_words(token, static_cast<uint32_t>(group));
      const int64_t first = std::max(places.begin, group * 4), last = std::min(places.end, group * 4 + 4);
      for (int64_t j = first; j < last; ++j) {
        multipliers[j - places.begin] = words.v[j % 4] >= threshold_ ? static_cast<A>(kept_) : A(0);
      }
    }
  }

  const AttentionArgs& args_;
  bool active_;
  int64_t step_ = 0;
  uint64_t name_hash_ = 0, threshold_ = 0;
  double kept_ = 1.0;
};

/// One block of queries of one head: rows [first, first + rows), and the keys that any of them sees.
struct QueryBlock {
  int64_t b, g, h, first, rows;
  KeyRange keys;
};

QueryBlock make_block(const AttentionArgs& args, int64_t b, int64_t g, int64_t h, int64_t first, int64_t rows) {
  QueryBlock block{b, g, h, first, rows, {}};
  for (int64_t i = 0; i < rows; ++i) {
    const KeyRange row = visible_keys(args, first + i, b);
    if (row.empty()) continue;
    if (block.keys.empty()) block.keys = row;
    block.keys.begin = std::min(block.keys.begin, row.begin);
    block.keys.end = std::max(block.keys.end, row.end);
  }
  return block;
}

template <typename A>
A* lse_at(const AttentionArgs& args, const QueryBlock& block, int64_t i) {
  const Dims& strides = args.lse.strides;
  return args.lse.as<A>() + (block.first + i) * strides[0] + block.b * strides[1] + block.g * strides[2] +
         block.h * strides[3];
}

// ---------------------------------------------------------------------------------------------------------- forward

template <typename T>
struct ForwardScratch {
  using A = Accumulator<T>;
  A *scores, *mask, *inverse, *q, *k, *v, *out;
  ForwardScratch(Scratch& scratch, const AttentionArgs& args) {
    const int64_t rows = block_rows(args), keys = args.k.shape[0], d = args.q.shape.back(), e = args.v.shape.back();
    scores = scratch.take<A>(rows * keys);
    mask = scratch.take<A>(args.options.dropout > 0 ? keys : 0);
    inverse = scratch.take<A>(rows);
    q = scratch.take<A>(copies<T>(rows * d));
    k = scratch.take<A>(copies<T>(keys * d));
    v = scratch.take<A>(copies<T>(keys * e));
    out = scratch.take<A>(copies<T>(rows * e));
  }
};

/// Scores become exp(score - maximum), zero outside the visible keys; row sums give lse and the factors of the output.
template <typename A>
void softmax_rows(const AttentionArgs& args, const RowDropout& dropout, const QueryBlock& block,
                  const Matrix<A>& scores, A* inverse, A* mask) {
  for (int64_t i = 0; i < block.rows; ++i) {
    const KeyRange range = visible_keys(args, block.first + i, block.b);
    A* row = scores.row(i);
    A lse = std::numeric_limits<A>::lowest();
    inverse[i] = 0;
    if (range.empty()) {
      std::fill_n(row, scores.columns, A(0));
    } else {
      const int64_t begin = range.begin - block.keys.begin, end = range.end - block.keys.begin;
      const A top = row_max(row + begin, end - begin);
      const A sum = exp_sum(row + begin, end - begin, top);
      std::fill_n(row, begin, A(0));
      std::fill_n(row + end, scores.columns - end, A(0));
      inverse[i] = A(1) / sum;
      lse = top + std::log(sum);
      if (dropout.active()) {
        dropout.fill(block.first + i, block.b, block.g, block.h, range, mask);
        for (int64_t j = begin; j < end; ++j) row[j] *= mask[j - begin];
      }
    }
    if (args.lse) *lse_at<A>(args, block, i) = lse;
  }
}

template <typename T>
void forward_block(const AttentionArgs& args, const RowDropout& dropout, const QueryBlock& block, Scratch memory) {
  using A = Accumulator<T>;
  ForwardScratch<T> scratch(memory, args);
  const int64_t keys = block.keys.end - block.keys.begin;
  const Matrix<A> scores{scratch.scores, block.rows, keys, keys};
  if (keys > 0) {
    const auto q = widened(rows_of<T>(args.q, block.first, block.rows, block.b, block.g, block.h), scratch.q);
    const auto k = widened(rows_of<T>(args.k, block.keys.begin, keys, block.b, block.g), scratch.k);
    block_gemm<A>(false, true, static_cast<A>(args.options.softmax_scale), q, k, A(0), scores);
  }
  softmax_rows(args, dropout, block, scores, scratch.inverse, scratch.mask);
  if (!args.out) return;
  const Matrix<T> out = rows_of<T>(args.out, block.first, block.rows, block.b, block.g, block.h);
  const Matrix<A> wide = wide_target(out, scratch.out);
  if (keys > 0) {
    const auto v = widened(rows_of<T>(args.v, block.keys.begin, keys, block.b, block.g), scratch.v);
    block_gemm<A>(false, false, A(1), scores.readable(), v, A(0), wide);
    for (int64_t i = 0; i < block.rows; ++i) {
      A* row = wide.row(i);
      for (int64_t j = 0; j < wide.columns; ++j) row[j] *= scratch.inverse[i];
    }
  } else {
    fill_rows(wide, A(0));
  }
  narrow_rows(wide, out);
}

// --------------------------------------------------------------------------------------------------------- backward

template <typename T>
struct BackwardScratch {
  using A = Accumulator<T>;
  A *p, *dp, *mask, *q, *k, *v, *out, *dout, *dq, *dk, *dv;
  BackwardScratch(Scratch& scratch, const AttentionArgs& args) {
    const int64_t rows = block_rows(args), keys = args.k.shape[0], d = args.q.shape.back(), e = args.v.shape.back();
    p = scratch.take<A>(rows * keys);
    dp = scratch.take<A>(rows * keys);
    mask = scratch.take<A>(args.options.dropout > 0 ? keys : 0);
    q = scratch.take<A>(copies<T>(rows * d));
    k = scratch.take<A>(copies<T>(keys * d));
    v = scratch.take<A>(copies<T>(keys * e));
    out = scratch.take<A>(copies<T>(rows * e));
    dout = scratch.take<A>(copies<T>(rows * e));
    dq = scratch.take<A>(copies<T>(rows * d));
    dk = scratch.take<A>(copies<T>(keys * d));
    dv = scratch.take<A>(copies<T>(keys * e));
  }
};

/// p holds scores and becomes the probabilities (times the dropout mask); dp becomes the gradient of the scores.
template <typename A>
void softmax_gradient_rows(const AttentionArgs& args, const RowDropout& dropout, const QueryBlock& block,
                           const Matrix<const A>& out, const Matrix<const A>& dout, const Matrix<A>& p,
                           const Matrix<A>& dp, A* mask) {
  const A scale = static_cast<A>(args.options.softmax_scale);
  for (int64_t i = 0; i < block.rows; ++i) {
    const KeyRange range = visible_keys(args, block.first + i, block.b);
    A *p_row = p.row(i), *dp_row = dp.row(i);
    if (range.empty()) {
      std::fill_n(p_row, p.columns, A(0));
      std::fill_n(dp_row, p.columns, A(0));
      continue;
    }
    const int64_t begin = range.begin - block.keys.begin, end = range.end - block.keys.begin;
    for (A* row : {p_row, dp_row}) {
      std::fill_n(row, begin, A(0));
      std::fill_n(row + end, p.columns - end, A(0));
    }
    const A lse = *lse_at<A>(args, block, i);
    const A mean = row_dot(dout.row(i), out.row(i), out.columns);
    if (dropout.active()) {
      dropout.fill(block.first + i, block.b, block.g, block.h, range, mask);
      for (int64_t j = begin; j < end; ++j) {
        const A probability = vector_exp(p_row[j] - lse);
        p_row[j] = probability * mask[j - begin];
        dp_row[j] = probability * (dp_row[j] * mask[j - begin] - mean) * scale;
      }
    } else {
      for (int64_t j = begin; j < end; ++j) {
        p_row[j] = vector_exp(p_row[j] - lse);
        dp_row[j] = p_row[j] * (dp_row[j] - mean) * scale;
      }
    }
  }
}

template <typename T>
struct GroupGradient {
  using A = Accumulator<T>;
  Matrix<const A> k, v;
  Matrix<A> dk, dv;  ///< data null: not wanted
};

template <typename T>
void backward_block(const AttentionBackwardArgs& args, const RowDropout& dropout, const QueryBlock& block,
                    const GroupGradient<T>& group, const BackwardScratch<T>& scratch) {
  using A = Accumulator<T>;
  const AttentionArgs& f = args.forward;
  const auto rows = [&](const Tensor& x) { return rows_of<T>(x, block.first, block.rows, block.b, block.g, block.h); };
  const int64_t keys = block.keys.end - block.keys.begin;
  if (keys == 0) {
    if (args.dq) fill_rows(rows(args.dq), T(A(0)));
    return;
  }
  const auto part = [&](auto m) {
    m.data += block.keys.begin * m.stride;
    m.rows = keys;
    return m;
  };
  const auto q = widened(rows(f.q), scratch.q);
  const auto out = widened(rows(f.out), scratch.out), dout = widened(rows(args.dout), scratch.dout);
  const Matrix<A> p{scratch.p, block.rows, keys, keys}, dp{scratch.dp, block.rows, keys, keys};
  block_gemm<A>(false, true, static_cast<A>(f.options.softmax_scale), q, part(group.k), A(0), p);
  block_gemm<A>(false, true, A(1), dout, part(group.v), A(0), dp);
  softmax_gradient_rows(f, dropout, block, out, dout, p, dp, scratch.mask);
  if (group.dv.data != nullptr) block_gemm<A>(true, false, A(1), p.readable(), dout, A(1), part(group.dv));
  if (group.dk.data != nullptr) block_gemm<A>(true, false, A(1), dp.readable(), q, A(1), part(group.dk));
  if (args.dq) {
    const Matrix<T> dq = rows(args.dq);
    const Matrix<A> wide = wide_target(dq, scratch.dq);
    block_gemm<A>(false, false, A(1), dp.readable(), part(group.k), A(0), wide);
    narrow_rows(wide, dq);
  }
}

template <typename T>
void backward_group(const AttentionBackwardArgs& args, const RowDropout& dropout, int64_t b, int64_t g,
                    Scratch memory) {
  using A = Accumulator<T>;
  const AttentionArgs& f = args.forward;
  BackwardScratch<T> scratch(memory, f);
  const int64_t keys = f.k.shape[0], queries = f.q.shape[0], heads = f.q.shape[3], step = block_rows(f);
  GroupGradient<T> group;
  group.k = widened(rows_of<T>(f.k, 0, keys, b, g), scratch.k);
  group.v = widened(rows_of<T>(f.v, 0, keys, b, g), scratch.v);
  Matrix<T> dk, dv;
  if (args.dk) {
    dk = rows_of<T>(args.dk, 0, keys, b, g);
    group.dk = wide_target(dk, scratch.dk);
    fill_rows(group.dk, A(0));
  }
  if (args.dv) {
    dv = rows_of<T>(args.dv, 0, keys, b, g);
    group.dv = wide_target(dv, scratch.dv);
    fill_rows(group.dv, A(0));
  }
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t first = 0; first < queries; first += step) {
      backward_block<T>(args, dropout, make_block(f, b, g, h, first, std::min(step, queries - first)), group, scratch);
    }
  }
  if (args.dk) narrow_rows(group.dk, dk);
  if (args.dv) narrow_rows(group.dv, dv);
}

template <typename T, template <typename> class Layout>
int64_t slot_bytes(const AttentionArgs& args) {
  Scratch scratch;
  Layout<T> layout(scratch, args);
  static_cast<void>(layout);
  return scratch.bytes();
}

int64_t forward_tasks(const AttentionArgs& args) {
  const Dims& q = args.q.shape;
  return q[1] * q[2] * q[3] * div_ceil(q[0], block_rows(args));
}

}  // namespace

int64_t attention_workspace_cpu(const AttentionArgs& args) {
  return dispatch_floating("attention", args.q.dtype, [&](auto tag) {
    const int64_t bytes = slot_bytes<decltype(tag), ForwardScratch>(args);
    return bytes * scratch_slots(forward_tasks(args), bytes);
  });
}

int64_t attention_backward_workspace_cpu(const AttentionBackwardArgs& args) {
  return dispatch_floating("attention_backward", args.forward.q.dtype, [&](auto tag) {
    const int64_t bytes = slot_bytes<decltype(tag), BackwardScratch>(args.forward);
    return bytes * scratch_slots(args.forward.q.shape[1] * args.forward.q.shape[2], bytes);
  });
}

void attention_cpu(const AttentionArgs& args, void* workspace, ThreadPool* pool) {
  dispatch_floating("attention", args.q.dtype, [&](auto tag) {
    using T = decltype(tag);
    const Dims& q = args.q.shape;
    const int64_t step = block_rows(args), blocks = div_ceil(q[0], step);
    const RowDropout dropout(args);
    for_each_task(*pool, forward_tasks(args), workspace, slot_bytes<T, ForwardScratch>(args),
                  [&](int64_t task, Scratch m) {
                    const int64_t head = task / blocks;
                    // Later queries see more keys: they go first, so that the threads end together.
                    const int64_t first = (blocks - 1 - task % blocks) * step;
                    const int64_t h = head % q[3], g = head / q[3] % q[2], b = head / q[3] / q[2];
                    forward_block<T>(args, dropout, make_block(args, b, g, h, first, std::min(step, q[0] - first)), m);
                  });
  });
}

void attention_backward_cpu(const AttentionBackwardArgs& args, void* workspace, ThreadPool* pool) {
  dispatch_floating("attention_backward", args.forward.q.dtype, [&](auto tag) {
    using T = decltype(tag);
    const Dims& q = args.forward.q.shape;
    const RowDropout dropout(args.forward);
    for_each_task(*pool, q[1] * q[2], workspace, slot_bytes<T, BackwardScratch>(args.forward),
                  [&](int64_t task, Scratch m) { backward_group<T>(args, dropout, task / q[2], task % q[2], m); });
  });
}

}  // namespace megatron
