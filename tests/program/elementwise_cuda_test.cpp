// The element-wise operations of the passes on a GPU against plain loops on the host. Without a GPU they say that
// nothing was checked.
#ifdef MEGATRON_HAVE_CUDA

#include "program/elementwise_cuda.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "base/error.h"
#include "device/device.h"
#include "program/strided.h"
#include "tests/catch.h"

namespace megatron {
namespace {

constexpr DType kFloating[] = {DType::kF64, DType::kF32, DType::kBF16, DType::kF16};
constexpr int64_t kLargestOffset = 8;

using Random = std::mt19937;

int64_t below(Random& random, int64_t limit) {
  return static_cast<int64_t>(random() % static_cast<unsigned>(limit));
}

/// A tensor in host memory and its copy in device memory.
struct Twin {
  Twin(Device& device, Random& random, DType dtype, const Dims& shape, const Dims& strides, int64_t span)
      : bytes(static_cast<size_t>((span + kLargestOffset) * size_of(dtype))),
        buffer(device, static_cast<int64_t>(bytes.size())),
        size(static_cast<int64_t>(bytes.size())) {
    const int64_t offset = below(random, 3) == 0 ? below(random, kLargestOffset) : 0;
    dispatch_floating("fill", dtype, [&](auto type) {
      using T = decltype(type);
      for (size_t i = 0; i < bytes.size() / sizeof(T); ++i) {
        const T value(static_cast<float>(below(random, 64) - 32) / 16.0f);  // sums of few are exact
        std::memcpy(bytes.data() + i * sizeof(T), &value, sizeof(T));
      }
    });
    device.copy_to_device(buffer.data(), bytes.data(), size);
    host = Tensor{bytes.data() + offset * size_of(dtype), dtype, shape, strides};
    on_device = host;
    on_device.data = buffer.data() + offset * size_of(dtype);
  }
  /// Also what lies around the tensor.
  bool agrees(Device& device) const {
    std::vector<std::byte> found(bytes.size());
    device.copy_to_host(found.data(), buffer.data(), size);
    return std::memcmp(found.data(), bytes.data(), bytes.size()) == 0;
  }

  std::vector<std::byte> bytes;
  Buffer buffer;
  int64_t size;
  Tensor host, on_device;
};

/// Strides with gaps, the outer dimensions in any order; `span`: elements from the first to beyond the last.
Dims random_strides(Random& random, const Dims& shape, int64_t* span) {
  std::vector<int> order;
  Dims strides;
  for (int d = 0; d < shape.rank(); ++d) {
    order.push_back(d);
    strides.push_back(0);
  }
  if (order.size() > 2 && below(random, 2) == 0) std::shuffle(order.begin(), order.end() - 1, random);
  int64_t at = 1;
  for (auto d = order.rbegin(); d != order.rend(); ++d) {
    strides[*d] = at;
    at *= std::max<int64_t>(1, shape[*d]);
    if (below(random, 3) == 0) at += below(random, 2) == 0 ? 16 : below(random, 5);
  }
  *span = at;
  return strides;
}

std::unique_ptr<Device> find_gpu() {
  try {
    return make_cuda_device(0);
  } catch (const DeviceError& error) {
    WARN("not checked: " << error.what());
    return nullptr;
  }
}

template <typename T>
using Wide = typename dtype_of<T>::Accumulator;

void accumulate_on_host(const Tensor& x, const Tensor& sum) {
  dispatch_floating("x", x.dtype, [&](auto source) {
    dispatch_floating("sum", sum.dtype, [&](auto target) {
      using S = decltype(source);
      using T = decltype(target);
      const S* from = x.as<S>();
      T* to = sum.as<T>();
      for_each_row(x.shape, x.strides, sum.strides, [&](int64_t a, int64_t b, int64_t length) {
        for (int64_t i = 0; i < length; ++i) {
          to[b + i] = T(static_cast<Wide<T>>(to[b + i]) + static_cast<Wide<T>>(from[a + i]));
        }
      });
    });
  });
}

TEST_CASE("strided copies, zeros and accumulation on a GPU", "[gpu]") {
  const std::unique_ptr<Device> device = find_gpu();
  if (!device) return;
  Random random(7);
  for (int round = 0; round < 300; ++round) {
    INFO("round " << round);
    Dims shape;
    const int64_t rank = below(random, 5);
    for (int64_t d = 0; d < rank; ++d) {
      shape.push_back(below(random, 9) == 0 ? 0 : below(random, 3) == 0 ? 16 : 1 + below(random, 9));
    }
    const DType source = kFloating[below(random, 4)], target = kFloating[below(random, 4)];
    int64_t span = 0, other_span = 0;
    const Dims strides = random_strides(random, shape, &span), others = random_strides(random, shape, &other_span);
    const Twin x(*device, random, source, shape, strides, span), y(*device, random, target, shape, strides, span);
    const Twin sum(*device, random, target, shape, others, other_span);
    accumulate_on_host(x.host, sum.host);
    accumulate_cuda(x.on_device, sum.on_device, device->stream());
    REQUIRE(sum.agrees(*device));
    copy_strided(y.host, sum.host);
    copy_strided_cuda(y.on_device, sum.on_device, device->stream());
    REQUIRE(sum.agrees(*device));
    for_each_row(shape, others, others, [&](int64_t at, int64_t, int64_t length) {
      std::memset(static_cast<std::byte*>(sum.host.data) + at * size_of(target), 0,
                  static_cast<size_t>(length * size_of(target)));
    });
    zero_strided_cuda(sum.on_device, device->stream());
    REQUIRE(sum.agrees(*device));
  }
}

TEST_CASE("addition on a GPU, onto itself too", "[gpu]") {
  const std::unique_ptr<Device> device = find_gpu();
  if (!device) return;
  Random random(8);
  for (int round = 0; round < 200; ++round) {
    INFO("round " << round);
    const DType dtype = kFloating[round % 4];
    const Dims shape{below(random, 5000)};
    const bool adds = below(random, 2) == 0, onto_a = below(random, 3) == 0;
    const Twin a(*device, random, dtype, shape, {1}, shape[0]), b(*device, random, dtype, shape, {1}, shape[0]);
    const Twin other(*device, random, dtype, shape, {1}, shape[0]);
    const Twin& y = onto_a ? a : other;
    dispatch_floating("add", dtype, [&](auto type) {
      using T = decltype(type);
      for (int64_t i = 0; i < shape[0]; ++i) {
        Wide<T> sum = static_cast<Wide<T>>(a.host.as<T>()[i]) + static_cast<Wide<T>>(b.host.as<T>()[i]);
        if (adds) sum += static_cast<Wide<T>>(y.host.as<T>()[i]);
        y.host.as<T>()[i] = T(sum);
      }
    });
    add_cuda(a.on_device, b.on_device, y.on_device, adds, device->stream());
    REQUIRE(y.agrees(*device));
  }
}

}  // namespace
}  // namespace megatron

#endif
