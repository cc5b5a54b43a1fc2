#include "program/elementwise.h"

#include <algorithm>

#include "base/check.h"
#include "base/strings.h"
#include "base/thread_pool.h"
#include "program/strided.h"
#include "program/views.h"
#ifdef MEGATRON_HAVE_CUDA
#include "program/elementwise_cuda.h"
#endif

namespace megatron {

void copy_strided(const Tensor& from, const Tensor& to) {
  const int64_t size = size_of(from.dtype);
  MEGATRON_CHECK(from.dtype == to.dtype && from.shape == to.shape, "copy between unequal types");
  const auto* source = static_cast<const std::byte*>(from.data);
  auto* target = static_cast<std::byte*>(to.data);
  for_each_row(from.shape, from.strides, to.strides, [&](int64_t a, int64_t b, int64_t length) {
    std::copy_n(source + a * size, length * size, target + b * size);
  });
}

namespace {

constexpr char kLetters[] = "abcdefgh";

std::string letters_for(const ValueInfo* v) {
  return std::string(kLetters, static_cast<size_t>(v->shape.rank()));
}

class Add final : public OpKind {
 public:
  std::string name() const override { return "add"; }
  Signature signature(const Operands& operands) const override {
    const std::string l = letters_for(operands[0]);
    Signature s = parse_signature(l + "," + l + "->" + l, operands[0]->dtype);
    s.linear = {{0, 1}};
    return s;
  }
  bool accumulates(int) const override { return true; }
  int overwrites(int) const override { return 0; }
  void backward(BackwardContext& context) const override {
    context.set(0, context.gradient(0));
    context.set(1, context.gradient(0));
  }
  void run_cpu(const RunContext& c) const override {
    dispatch_floating("add", c.in(0).dtype, [&](auto tag) {
      using T = decltype(tag);
      const T* a = c.in(0).as<T>();
      const T* b = c.in(1).as<T>();
      T* y = c.out(0).as<T>();
      const bool adds = c.adds(0);
      c.pool->parallel_for(c.in(0).numel(), 1 << 15, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          Accumulator<T> sum = static_cast<Accumulator<T>>(a[i]) + static_cast<Accumulator<T>>(b[i]);
          if (adds) sum += static_cast<Accumulator<T>>(y[i]);
          y[i] = static_cast<T>(sum);
        }
      });
    });
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    add_cuda(c.in(0), c.in(1), c.out(0), c.adds(0), c.stream);
  }
#endif
};

class Contiguous final : public OpKind {
 public:
  std::string name() const override { return "contiguous"; }
  Signature signature(const Operands& operands) const override {
    const std::string l = letters_for(operands[0]);
    Signature s = parse_signature(l + "->" + l, operands[0]->dtype);
    s.linear = {{0}};
    return s;
  }
  bool takes_strided(int) const override { return true; }
  void backward(BackwardContext& context) const override { context.set(0, context.gradient(0)); }
  void run_cpu(const RunContext& c) const override { copy_strided(c.in(0), c.out(0)); }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    copy_strided_cuda(c.in(0), c.out(0), c.stream);
  }
#endif
};

class Accumulate final : public OpKind {
 public:
  std::string name() const override { return "accumulate"; }
  Signature signature(const Operands& operands) const override {
    const std::string l = letters_for(operands[0]);
    Signature s = parse_signature(l + "," + l + "->" + l, operands[1]->dtype);
    s.results.clear();
    s.linear = {{0, 1}};
    return s;
  }
  std::vector<int> updates() const override { return {1}; }
  bool takes_strided(int i) const override { return i == 0; }
  Cost cost(const RunContext& c) const override {
    return {static_cast<double>(c.in(0).numel()), static_cast<double>(c.in(0).bytes() + 2 * c.in(1).bytes()), 0};
  }
  void run_cpu(const RunContext& c) const override {
    dispatch_floating("accumulate", c.in(0).dtype, [&](auto source_tag) {
      using S = decltype(source_tag);
      dispatch_floating("accumulate", c.in(1).dtype, [&](auto target_tag) {
        using T = decltype(target_tag);
        const S* x = c.in(0).as<S>();
        T* sum = c.in(1).as<T>();
        for_each_row(c.in(0).shape, c.in(0).strides, c.in(1).strides, [&](int64_t a, int64_t b, int64_t length) {
          for (int64_t i = 0; i < length; ++i) {
            sum[b + i] =
                static_cast<T>(static_cast<Accumulator<T>>(sum[b + i]) + static_cast<Accumulator<T>>(x[a + i]));
          }
        });
      });
    });
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    accumulate_cuda(c.in(0), c.in(1), c.stream);
  }
#endif
};

class Join final : public OpKind {
 public:
  Join(Dims shape, int dim, std::vector<int64_t> sizes) : shape_(shape), dim_(dim), sizes_(std::move(sizes)) {}
  std::string name() const override { return "join"; }
  std::string attributes() const override { return str_cat("dim=", dim_); }
  Signature signature(const Operands&) const override {
    fail_check(__FILE__, __LINE__, "signature", "join infers itself");
  }

  std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const override {
    const ValueInfo* first = nullptr;
    for (size_t i = 0; i < operands.size(); ++i) {
      const ValueInfo* part = operands[i];
      if (part == nullptr) continue;
      if (is_flat(part->placement)) throw PlacementError{"a part is flat", "all_gather it first"};
      Dims expected = shape_;
      expected[dim_] = sizes_[i];
      if (part->shape != expected) throw PlacementError{"a part has the wrong shape", "give parts that fit"};
      if (first != nullptr && part->placement != first->placement) {
        throw PlacementError{"the parts are placed differently: " + to_string(first->placement, mesh) + " and " +
                                 to_string(part->placement, mesh),
                             "bring them to one placement first"};
      }
      first = first == nullptr ? part : first;
    }
    ValueInfo y;
    y.dtype = first->dtype;
    y.shape = shape_;
    y.placement = first->placement;
    y.sample_dim = first->sample_dim;
    return {y};
  }
  bool takes_strided(int) const override { return true; }
  void backward(BackwardContext& context) const override {
    if (!context.gradient(0)) return;
    const std::vector<Value> parts = split(context.trace(), context.gradient(0), dim_, sizes_);
    for (size_t i = 0; i < parts.size(); ++i) context.set(static_cast<int>(i), parts[i]);
  }

  void run_cpu(const RunContext& c) const override {
    for_each_part(c, [&](const Tensor& x, const Tensor& part) {
      if (x.data != nullptr) return copy_strided(x, part);
      const int64_t size = size_of(part.dtype);
      for_each_row(part.shape, part.strides, part.strides, [&](int64_t a, int64_t, int64_t length) {
        std::fill_n(static_cast<std::byte*>(part.data) + a * size, length * size, std::byte{0});
      });
    });
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    for_each_part(c, [&](const Tensor& x, const Tensor& part) {
      if (x.data != nullptr) return copy_strided_cuda(x, part, c.stream);
      zero_strided_cuda(part, c.stream);
    });
  }
#endif

  JoinInfo info() const {
    JoinInfo info{dim_, {}};
    int64_t begin = 0;
    for (int64_t size : sizes_) {
      info.offsets.push_back(begin);
      begin += size;
    }
    return info;
  }

 private:
  /// body(part as given, its place in the result) for the parts that are not in their place yet.
  template <typename Body>
  void for_each_part(const RunContext& c, Body&& body) const {
    const Tensor& y = c.out(0);
    int64_t begin = 0;
    for (size_t i = 0; i < sizes_.size(); ++i) {
      Tensor part = y;
      part.shape[dim_] = sizes_[i];
      part.data = static_cast<std::byte*>(y.data) + begin * y.strides[dim_] * size_of(y.dtype);
      begin += sizes_[i];
      const Tensor& x = c.operands[i];
      if (x.data != part.data) body(x, part);  // else its producer wrote in place
    }
  }

  Dims shape_;
  int dim_;
  std::vector<int64_t> sizes_;
};

}  // namespace

Value add(Trace& t, Value a, Value b) {
  // The kernel reads both contiguously.
  return t.emit1(std::make_shared<Add>(), {contiguous(t, a), contiguous(t, b)});
}

Value contiguous(Trace& t, Value x) {
  if (is_contiguous(t.program().local_shape(x.id), t.info(x).storage.strides)) return x;
  return t.emit1(std::make_shared<Contiguous>(), {x});
}

void accumulate(Trace& t, Value x, Value state) {
  t.emit(std::make_shared<Accumulate>(), {x, state});
}

Value concatenate(Trace& t, Value like, const std::vector<Value>& parts, int dim, const std::vector<int64_t>& sizes) {
  return t.emit1(std::make_shared<Join>(t.shape(like), dim, sizes), parts);
}

Value join(Trace& t, const std::vector<Value>& parts, int dim) {
  if (parts.size() == 1) return parts[0];
  Dims shape = t.shape(parts[0]);
  std::vector<int64_t> sizes;
  shape[dim] = 0;
  for (Value part : parts) {
    sizes.push_back(t.shape(part)[dim]);
    shape[dim] += sizes.back();
  }
  return t.emit1(std::make_shared<Join>(shape, dim, sizes), parts);
}

bool is_join(const OpKind& kind, JoinInfo* info) {
  const auto* join_kind = dynamic_cast<const Join*>(&kind);
  if (join_kind == nullptr) return false;
  *info = join_kind->info();
  return true;
}

}  // namespace megatron
