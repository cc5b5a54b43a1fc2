#include "comm/thread_comm.h"

#include <barrier>
#include <cstring>

#include "base/check.h"

namespace megatron {
namespace {

struct Shared {
  explicit Shared(int n) : barrier(n), sources(static_cast<size_t>(n)), results(static_cast<size_t>(n)) {}
  std::barrier<> barrier;
  std::vector<Tensor> sources;
  std::vector<std::vector<std::byte>> results;  ///< per rank, so that nobody overwrites what others still read
};

class ThreadComm final : public Comm {
 public:
  ThreadComm(std::shared_ptr<Shared> shared, int rank, int size)
      : shared_(std::move(shared)), rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void barrier() override { shared_->barrier.arrive_and_wait(); }

  void all_reduce(const Tensor& values, Reduction reduction) override {
    MEGATRON_CHECK(values.contiguous(), "collectives take contiguous tensors");
    publish(values);
    auto& result = shared_->results[static_cast<size_t>(rank_)];
    result.resize(static_cast<size_t>(values.bytes()));
    if (reduction == Reduction::kMax) {
      max_ranks(result.data(), values.numel(), values.dtype);
    } else {
      sum_ranks(result.data(), 0, values.numel(), values.dtype);
    }
    barrier();
    if (!result.empty()) std::memcpy(values.data, result.data(), result.size());
    barrier();
  }

  void all_gather(const Tensor& source, const Tensor& target, const int64_t* counts) override {
    publish(source);
    auto* out = static_cast<std::byte*>(target.data);
    for (int r = 0; r < size_; ++r) {
      const auto bytes = static_cast<size_t>(counts[r] * size_of(target.dtype));
      if (bytes > 0) std::memcpy(out, shared_->sources[static_cast<size_t>(r)].data, bytes);
      out += bytes;
    }
    barrier();
  }

  void reduce_scatter(const Tensor& source, const Tensor& target, const int64_t* counts) override {
    publish(source);
    int64_t begin = 0;
    for (int r = 0; r < rank_; ++r) begin += counts[r];
    sum_ranks(static_cast<std::byte*>(target.data), begin, counts[rank_], target.dtype);
    barrier();
  }

 private:
  void publish(const Tensor& t) {
    shared_->sources[static_cast<size_t>(rank_)] = t;
    barrier();
  }

  void max_ranks(std::byte* out, int64_t count, DType dtype) const {
    dispatch_floating("all_reduce_max", dtype, [&](auto tag) {
      using T = decltype(tag);
      T* target = reinterpret_cast<T*>(out);
      for (int64_t i = 0; i < count; ++i) {
        T top = shared_->sources[0].as<T>()[i];
        for (const Tensor& source : shared_->sources) {
          if (static_cast<Accumulator<T>>(source.as<T>()[i]) > static_cast<Accumulator<T>>(top))
            top = source.as<T>()[i];
        }
        target[i] = top;
      }
    });
  }

  void sum_ranks(std::byte* out, int64_t begin, int64_t count, DType dtype) const {
    dispatch_floating("all_reduce", dtype, [&](auto tag) {
      using T = decltype(tag);
      T* target = reinterpret_cast<T*>(out);
      for (int64_t i = 0; i < count; ++i) {
        Accumulator<T> sum = 0;
        for (const Tensor& source : shared_->sources) sum += static_cast<Accumulator<T>>(source.as<T>()[begin + i]);
        target[i] = static_cast<T>(sum);
      }
    });
  }

  std::shared_ptr<Shared> shared_;
  int rank_, size_;
};

}  // namespace

std::vector<std::unique_ptr<Comm>> make_thread_comms(int size) {
  auto shared = std::make_shared<Shared>(size);
  std::vector<std::unique_ptr<Comm>> comms;
  for (int r = 0; r < size; ++r) comms.push_back(std::make_unique<ThreadComm>(shared, r, size));
  return comms;
}

}  // namespace megatron
