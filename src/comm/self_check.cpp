#include "comm/self_check.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "base/strings.h"
#include "tensor/placement.h"

namespace megatron {
namespace {

using Numbers = std::vector<int64_t>;

/// Element i of what rank r holds: -4 to 4, so that sums over 16 ranks are exact even in bf16; 0 to 8 in uint8.
int64_t held(int rank, int64_t i, DType dtype) {
  return (i * 7 + rank * 5 + i / 9) % 9 - (dtype == DType::kU8 ? 0 : 4);
}

template <typename Body>
void with_type(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kI64:
      return body(int64_t{});
    case DType::kI32:
      return body(int32_t{});
    case DType::kU8:
      return body(uint8_t{});
    default:
      return dispatch_floating("check_comm", dtype, body);
  }
}

class Checker {
 public:
  Checker(Comm& comm, Device& device) : comm_(comm), device_(device) {}

  CommCheck run() {
    for (const DType dtype :
         {DType::kF64, DType::kF32, DType::kBF16, DType::kF16, DType::kI64, DType::kI32, DType::kU8}) {
      dtype_ = dtype;
      for (const int64_t count : {0, 1, 2, 5, 1000, 70001}) check_count(count);
    }
    dtype_ = DType::kF32;
    check_split();
    comm_.barrier(device_.stream());
    return std::move(result_);
  }

 private:
  int n() const { return comm_.size(); }
  int me() const { return comm_.rank(); }

  Numbers numbers(int rank, int64_t count, int64_t begin = 0) const {
    Numbers values;
    for (int64_t i = 0; i < count; ++i) values.push_back(held(rank, begin + i, dtype_));
    return values;
  }

  Tensor upload(Buffer& buffer, const Numbers& values) {
    const int64_t count = static_cast<int64_t>(values.size());
    buffer = Buffer(device_, std::max<int64_t>(1, count) * size_of(dtype_));
    const Tensor t = make_tensor(buffer.data(), dtype_, {count});
    with_type(dtype_, [&](auto tag) {
      using T = decltype(tag);
      std::vector<T> typed;
      for (const int64_t v : values) typed.push_back(static_cast<T>(static_cast<float>(v)));
      device_.copy_to_device(t.data, typed.data(), t.bytes());
    });
    return t;
  }

  void compare(const std::string& what, const Tensor& got, const Numbers& wanted) {
    ++result_.cases;
    device_.synchronize();
    with_type(dtype_, [&](auto tag) {
      using T = decltype(tag);
      std::vector<T> values(wanted.size());
      device_.copy_to_host(values.data(), got.data, got.bytes());
      for (size_t i = 0; i < wanted.size(); ++i) {
        const auto value = static_cast<double>(values[i]);
        if (value == static_cast<double>(wanted[i])) continue;
        result_.failures.push_back(str_cat(comm_.name(), " rank ", me(), ": ", what, " (", name_of(dtype_), ", ",
                                           wanted.size(), " elements): element ", i, " is ", value, ", not ",
                                           wanted[i]));
        return;
      }
    });
  }

  Numbers reduced(Reduction reduction, int64_t count) const {
    Numbers values = numbers(0, count);
    for (int r = 1; r < n(); ++r) {
      for (int64_t i = 0; i < count; ++i) {
        int64_t& v = values[static_cast<size_t>(i)];
        const int64_t other = held(r, i, dtype_);
        v = reduction == Reduction::kMax ? std::max(v, other) : v + other;
      }
    }
    return values;
  }

  void check_count(int64_t count) {
    for (const Reduction reduction : {Reduction::kSum, Reduction::kMax}) {
      const std::string name = reduction == Reduction::kMax ? "all_reduce(max)" : "all_reduce(sum)";
      Buffer a, b;
      const Tensor source = upload(a, numbers(me(), count)), target = upload(b, Numbers(static_cast<size_t>(count), 9));
      comm_.all_reduce(source, target, reduction, device_.stream());
      compare(name, target, reduced(reduction, count));
      comm_.all_reduce(source, reduction, device_.stream());
      compare(name + " in place", source, reduced(reduction, count));
    }
    for (const bool even : {true, false}) check_blocks(count, even);
    check_all_to_all(count);
    for (int root = 0; root < n(); ++root) {
      Buffer a;
      const Tensor values = upload(a, numbers(me(), count));
      comm_.broadcast(values, root, device_.stream());
      compare(str_cat("broadcast from ", root), values, numbers(root, count));
    }
    check_transfers(count);
  }

  /// `total` elements cut evenly (rounded up to a multiple) or in growing blocks, of which the first is empty.
  Numbers counts_of(int64_t total, bool even) const {
    Numbers counts;
    for (int r = 0; r < n(); ++r) counts.push_back(even ? div_ceil(total, n()) : total * r / n());
    return counts;
  }

  void check_blocks(int64_t total, bool even) {
    const Numbers counts = counts_of(total, even);
    const std::string kind = even ? "" : ", uneven blocks";
    const int64_t begin = std::accumulate(counts.begin(), counts.begin() + me(), int64_t{0});
    const int64_t all = std::accumulate(counts.begin(), counts.end(), int64_t{0}),
                  mine = counts[static_cast<size_t>(me())];
    Numbers together;
    for (int r = 0; r < n(); ++r) {
      const Numbers part = numbers(r, counts[static_cast<size_t>(r)]);
      together.insert(together.end(), part.begin(), part.end());
    }
    Buffer a, b;
    Tensor source = upload(a, numbers(me(), mine)), target = upload(b, Numbers(static_cast<size_t>(all), 9));
    comm_.all_gather(source, target, counts.data(), device_.stream());
    compare("all_gather" + kind, target, together);
    Numbers partly(static_cast<size_t>(all), 9);
    std::copy_n(together.begin() + begin, mine, partly.begin() + begin);
    target = upload(b, partly);
    comm_.all_gather(block(target, begin, mine), target, counts.data(), device_.stream());
    compare("all_gather in place" + kind, target, together);

    const Numbers sums = reduced(Reduction::kSum, all);
    const Numbers wanted(sums.begin() + begin, sums.begin() + begin + mine);
    source = upload(a, numbers(me(), all));
    target = upload(b, Numbers(static_cast<size_t>(mine), 9));
    comm_.reduce_scatter(source, target, counts.data(), device_.stream());
    compare("reduce_scatter" + kind, target, wanted);
    comm_.reduce_scatter(source, block(source, begin, mine), counts.data(), device_.stream());
    Numbers whole = numbers(me(), all);
    std::copy(wanted.begin(), wanted.end(), whole.begin() + begin);
    compare("reduce_scatter in place" + kind, source, whole);
  }

  static Tensor block(const Tensor& t, int64_t begin, int64_t count) {
    return make_tensor(static_cast<std::byte*>(t.data) + begin * size_of(t.dtype), t.dtype, {count});
  }

  /// Rank a sends (a + 2b) % 3 parts to rank b.
  void check_all_to_all(int64_t count) {
    const auto amount = [&](int a, int b) { return count * ((a + 2 * b) % 3) / 2; };
    Numbers sent, got, wanted;
    for (int r = 0; r < n(); ++r) {
      sent.push_back(amount(me(), r));
      got.push_back(amount(r, me()));
      int64_t begin = 0;
      for (int before = 0; before < me(); ++before) begin += amount(r, before);
      const Numbers part = numbers(r, got.back(), begin);
      wanted.insert(wanted.end(), part.begin(), part.end());
    }
    Buffer a, b;
    const Tensor source = upload(a, numbers(me(), std::accumulate(sent.begin(), sent.end(), int64_t{0})));
    const Tensor target = upload(b, Numbers(wanted.size(), 9));
    comm_.all_to_all(source, target, sent.data(), got.data(), device_.stream());
    compare("all_to_all", target, wanted);
  }

  void check_transfers(int64_t count) {
    if (n() == 1) return;
    Buffer a, b;
    const Tensor source = upload(a, numbers(me(), count)), target = upload(b, Numbers(static_cast<size_t>(count), 9));
    const int next = (me() + 1) % n(), previous = (me() + n() - 1) % n();
    comm_.exchange(source, next, target, previous, device_.stream());
    compare("exchange around the ring", target, numbers(previous, count));
    if (me() == 0) comm_.send(source, n() - 1, device_.stream());
    if (me() == n() - 1) {
      comm_.receive(target, 0, device_.stream());
      compare("receive", target, numbers(0, count));
    }
  }

  /// Odd and even ranks, in falling order.
  void check_split() {
    const auto part = comm_.split(me() % 2, -me(), comm_.name() + "-part");
    Numbers members;
    for (int r = n() - 1; r >= 0; --r) {
      if (r % 2 == me() % 2) members.push_back(r);
    }
    Buffer a, b;
    const Tensor source = upload(a, {me()}), target = upload(b, Numbers(members.size(), -1));
    part->all_gather(source, target, Numbers(members.size(), 1).data(), device_.stream());
    compare("all_gather of a split", target, members);
    ++result_.cases;
    if (part->size() == static_cast<int>(members.size()) && members[static_cast<size_t>(part->rank())] == me()) return;
    result_.failures.push_back(str_cat("split: rank ", me(), " became rank ", part->rank(), " of ", part->size()));
  }

  Comm& comm_;
  Device& device_;
  DType dtype_ = DType::kF32;
  CommCheck result_;
};

}  // namespace

CommCheck check_comm(Comm& comm, Device& device) {
  return Checker(comm, device).run();
}

}  // namespace megatron
