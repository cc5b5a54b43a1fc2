// The update of a parameter in place, for every optimizer on the GPU: reads and writes all it needs once, in packs. A
// rule says what happens to one element:
//
//   struct Rule {
//     template <typename A> struct Step { __device__ void operator()(A grad, A& state0, A& state1, A& p) const; };
//     template <typename A> __device__ Step<A> step(const UpdateScalars&) const;  // all threads of the block call it
//   };
#pragma once

#include "kernels/cuda/cuda_types.cuh"

namespace megatron::cuda {

constexpr int kUpdateThreads = 256;

/// In device memory: the program does not change with the step.
struct UpdateScalars {
  const double *lr, *weight_decay, *coefficient, *skip, *t;
};

/// Tensors of one shape. Absent: `master` of a parameter of 32 bits or more, states that the rule does not have.
struct UpdateTensors {
  Tensor param, master, state[2], grad;
};

template <typename P, typename A>
struct UpdatePointers {
  P* param;
  A *master, *state[2];
  const A* grad;
};

/// N elements from i on.
template <int N, typename P, typename A, typename Step>
__device__ __forceinline__ void update_pack(const UpdatePointers<P, A>& at, int64_t i, const Step& step) {
  constexpr bool kHasMaster = sizeof(P) < sizeof(A);
  A p[N], grad[N], state[2][N] = {};
  if constexpr (kHasMaster) {
    load_values<N>(at.master + i, p);
  } else {
    load_values<N>(at.param + i, p);
  }
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    if (at.state[s] != nullptr) load_values<N>(at.state[s] + i, state[s]);
  }
  load_values<N>(at.grad + i, grad);
#pragma unroll
  for (int k = 0; k < N; ++k) step(grad[k], state[0][k], state[1][k], p[k]);
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    if (at.state[s] != nullptr) store_values<N>(at.state[s] + i, state[s]);
  }
  if constexpr (kHasMaster) store_values<N>(at.master + i, p);
  store_values<N>(at.param + i, p);
}

template <int N, typename P, typename Rule>
__global__ void __launch_bounds__(kUpdateThreads)
    update_kernel(const UpdatePointers<P, Accumulator<P>> at, const UpdateScalars scalars, const Rule rule,
                  int64_t count) {
  if (*scalars.skip != 0) return;
  if (*scalars.t < 1) __trap();  // updates count from 1
  const auto step = rule.template step<Accumulator<P>>(scalars);
  const int64_t packs = count / N, stride = int64_t{gridDim.x} * kUpdateThreads;
  const int64_t thread = int64_t{blockIdx.x} * kUpdateThreads + threadIdx.x;
  for (int64_t i = thread; i < packs; i += stride) update_pack<N>(at, i * N, step);
  if (thread < count - packs * N) update_pack<1>(at, packs * N + thread, step);
}

template <typename Rule>
void launch_update(const char* what, const UpdateTensors& tensors, const UpdateScalars& scalars, const Rule& rule,
                   void* stream) {
  const int64_t count = tensors.param.numel();
  if (count == 0) return;
  dispatch_cuda(what, tensors.param.dtype, [&](auto tag) {
    using P = typename decltype(tag)::type;
    using A = Accumulator<P>;
    constexpr int kPack = kPerVector<A>;
    const UpdatePointers<P, A> at{data_of<P>(tensors.param),
                                  data_of<A>(tensors.master),
                                  {data_of<A>(tensors.state[0]), data_of<A>(tensors.state[1])},
                                  data_of<A>(tensors.grad)};
    bool aligned = is_aligned(at.param, sizeof(P) * kPack);
    for (const void* p : {static_cast<const void*>(at.master), static_cast<const void*>(at.state[0]),
                          static_cast<const void*>(at.state[1]), static_cast<const void*>(at.grad)})
      aligned = aligned && is_aligned(p, 16);
    const unsigned grid = grid_size(count, int64_t{kUpdateThreads} * (aligned ? kPack : 1), kFullGrid);
    const auto on = stream_of(stream);
    if (aligned) {
      update_kernel<kPack, P><<<grid, kUpdateThreads, 0, on>>>(at, scalars, rule, count);
    } else {
      update_kernel<1, P><<<grid, kUpdateThreads, 0, on>>>(at, scalars, rule, count);
    }
  });
  check_launch((std::string(what) + " " + to_string(tensors.param.shape)).c_str());
}

}  // namespace megatron::cuda
