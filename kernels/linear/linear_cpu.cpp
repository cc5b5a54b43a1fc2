// CPU kernels of the linear layers. fp64 and fp32 go straight to the BLAS; 16-bit types go through fp32 copies: the
// weight as a whole, the rows in panels of fixed height, so that the workspace does not grow with the number of tokens.
#include <algorithm>

#include "kernels/common.h"
#include "kernels/linear/gemm_cpu.h"
#include "kernels/linear/linear.h"

namespace megatron {
namespace {

constexpr int64_t kPanelRows = 1024;
constexpr int64_t kBiasBlocks = 64;

template <typename T>
constexpr bool is_wide = sizeof(T) >= sizeof(float);

bool needs_panels(DType dtype) {
  return size_of(dtype) < 4;
}

template <typename T>
void widen(const T* source, float* target, int64_t count, ThreadPool* pool) {
  for_elements(pool, count, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) target[i] = static_cast<float>(source[i]);
  });
}

template <typename T>
void narrow_to(const float* source, T* target, int64_t count, bool add, ThreadPool* pool) {
  for_elements(pool, count, [&](int64_t begin, int64_t end) {
    if (add) {
      for (int64_t i = begin; i < end; ++i) target[i] = T(static_cast<float>(target[i]) + source[i]);
    } else {
      for (int64_t i = begin; i < end; ++i) target[i] = T(source[i]);
    }
  });
}

/// Fills the rows of y with the bias, which the product is then added to.
template <typename A, typename T>
void spread_bias(const T* bias, A* y, int64_t rows, int64_t out, ThreadPool* pool) {
  pool->parallel_for(rows, rows_per_block(out), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t j = 0; j < out; ++j) y[r * out + j] = static_cast<A>(bias[j]);
    }
  });
}

template <typename A>
void multiply_rows(const A* x, const A* w, A* y, int64_t rows, int64_t in, int64_t out, bool add, ThreadPool* pool) {
  gemm(GemmArgs<A>{false, true, rows, out, in, x, in, w, in, y, out, add ? A(1) : A(0)}, pool);
}

template <typename A>
void multiply_gradient(const A* dy, const A* w, A* dx, int64_t rows, int64_t in, int64_t out, bool add,
                       ThreadPool* pool) {
  gemm(GemmArgs<A>{false, false, rows, in, out, dy, out, w, in, dx, in, add ? A(1) : A(0)}, pool);
}

template <typename A>
void multiply_weight(const A* dy, const A* x, A* dw, int64_t rows, int64_t in, int64_t out, bool add,
                     ThreadPool* pool) {
  gemm(GemmArgs<A>{true, false, out, in, rows, dy, out, x, in, dw, in, add ? A(1) : A(0)}, pool);
}

}  // namespace

int64_t linear_workspace_cpu(DType dtype, int64_t rows, int64_t in, int64_t out) {
  if (!needs_panels(dtype)) return 0;
  return 4 * (in * out + std::min(rows, kPanelRows) * (in + out));
}

int64_t weight_gradient_workspace_cpu(DType dtype, int64_t rows, int64_t in, int64_t out) {
  return needs_panels(dtype) ? 4 * std::min(rows, kPanelRows) * (in + out) : 0;
}

int64_t bias_gradient_workspace_cpu(DType dtype, int64_t, int64_t out) {
  return kBiasBlocks * out * size_of(accumulation_dtype(dtype));
}

void linear_cpu(const LinearArgs& args, void* workspace, ThreadPool* pool) {
  dispatch_floating("linear", args.x.dtype, [&](auto type) {
    using T = decltype(type);
    const T *x = args.x.as<T>(), *w = args.weight.as<T>();
    T* y = args.y.as<T>();
    const T* bias = args.bias ? args.bias.as<T>() : nullptr;
    if constexpr (is_wide<T>) {
      if (bias) spread_bias(bias, y, args.rows, args.out, pool);
      multiply_rows(x, w, y, args.rows, args.in, args.out, bias != nullptr, pool);
    } else {
      float* wide_w = static_cast<float*>(workspace);
      float* wide_x = wide_w + args.in * args.out;
      float* wide_y = wide_x + std::min(args.rows, kPanelRows) * args.in;
      widen(w, wide_w, args.in * args.out, pool);
      for (int64_t row = 0; row < args.rows; row += kPanelRows) {
        const int64_t rows = std::min(kPanelRows, args.rows - row);
        widen(x + row * args.in, wide_x, rows * args.in, pool);
        if (bias) spread_bias(bias, wide_y, rows, args.out, pool);
        multiply_rows(wide_x, wide_w, wide_y, rows, args.in, args.out, bias != nullptr, pool);
        narrow_to(wide_y, y + row * args.out, rows * args.out, false, pool);
      }
    }
  });
}

void linear_data_gradient_cpu(const LinearDataGradientArgs& args, void* workspace, ThreadPool* pool) {
  dispatch_floating("linear_dgrad", args.dy.dtype, [&](auto type) {
    using T = decltype(type);
    const T *dy = args.dy.as<T>(), *w = args.weight.as<T>();
    T* dx = args.dx.as<T>();
    if constexpr (is_wide<T>) {
      multiply_gradient(dy, w, dx, args.rows, args.in, args.out, args.add, pool);
    } else {
      float* wide_w = static_cast<float*>(workspace);
      float* wide_dy = wide_w + args.in * args.out;
      float* wide_dx = wide_dy + std::min(args.rows, kPanelRows) * args.out;
      widen(w, wide_w, args.in * args.out, pool);
      for (int64_t row = 0; row < args.rows; row += kPanelRows) {
        const int64_t rows = std::min(kPanelRows, args.rows - row);
        widen(dy + row * args.out, wide_dy, rows * args.out, pool);
        multiply_gradient(wide_dy, wide_w, wide_dx, rows, args.in, args.out, false, pool);
        narrow_to(wide_dx, dx + row * args.in, rows * args.in, args.add, pool);
      }
    }
  });
}

void linear_weight_gradient_cpu(const LinearWeightGradientArgs& args, void* workspace, ThreadPool* pool) {
  dispatch_floating("linear_wgrad", args.dy.dtype, [&](auto type) {
    using T = decltype(type);
    const T *dy = args.dy.as<T>(), *x = args.x.as<T>();
    Accumulator<T>* dw = args.dweight.as<Accumulator<T>>();
    if constexpr (is_wide<T>) {
      multiply_weight(dy, x, dw, args.rows, args.in, args.out, args.add, pool);
    } else {
      float* wide_dy = static_cast<float*>(workspace);
      float* wide_x = wide_dy + std::min(args.rows, kPanelRows) * args.out;
      if (args.rows == 0) multiply_weight(wide_dy, wide_x, dw, 0, args.in, args.out, args.add, pool);
      for (int64_t row = 0; row < args.rows; row += kPanelRows) {
        const int64_t rows = std::min(kPanelRows, args.rows - row);
        widen(dy + row * args.out, wide_dy, rows * args.out, pool);
        widen(x + row * args.in, wide_x, rows * args.in, pool);
        multiply_weight(wide_dy, wide_x, dw, rows, args.in, args.out, args.add || row > 0, pool);
      }
    }
  });
}

void bias_gradient_cpu(const BiasGradientArgs& args, void* workspace, ThreadPool* pool) {
  dispatch_floating("bias_grad", args.dy.dtype, [&](auto type) {
    using T = decltype(type);
    using A = Accumulator<T>;
    const T* dy = args.dy.as<T>();
    A* db = args.dbias.as<A>();
    A* partial = static_cast<A*>(workspace);
    const int64_t out = args.out, block = std::max<int64_t>(16, div_ceil(args.rows, kBiasBlocks));
    const int64_t blocks = div_ceil(args.rows, block);
    pool->parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        A* sum = partial + b * out;
        std::fill(sum, sum + out, A(0));
        for (int64_t r = b * block; r < std::min((b + 1) * block, args.rows); ++r) {
          for (int64_t j = 0; j < out; ++j) sum[j] += static_cast<A>(dy[r * out + j]);
        }
      }
    });
    for (int64_t j = 0; j < out; ++j) {
      A sum = args.add ? db[j] : A(0);
      for (int64_t b = 0; b < blocks; ++b) sum += partial[b * out + j];
      db[j] = sum;
    }
  });
}

}  // namespace megatron
