// The running softmax of a warp with 16 rows, on the accumulators of tensor-core products (mma.cuh).
#pragma once

#include "kernels/attention/attention_view.cuh"
#include "kernels/attention/mma.cuh"

namespace megatron::cuda {

constexpr float kLog2e = 1.44269504088896340736f;

/// The running softmax of the two rows that a lane has a part of.
template <int NO>
struct ForwardState {
  Keys keys[2];
  DropoutToken token[2];
  float top[2], sum[2];
  float out[NO][4];
};

/// Scores become probabilities (times the dropout factor); the sums so far are scaled to the new maximum.
template <int NO, int NT>
__device__ __forceinline__ void softmax_tile(const AttentionView& p, ForwardState<NO>& state, float (&scores)[NT][4],
                                             int first_key, bool masked) {
  const int column = 2 * (static_cast<int>(threadIdx.x) % 4);
  const float scale = static_cast<float>(p.scale) * kLog2e;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float highest = -INFINITY;
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& score = scores[n][2 * i + j];
        const int key = first_key + 8 * n + column + j;
        if (masked && (key < state.keys[i].begin || key >= state.keys[i].end)) {
          score = -INFINITY;
        } else {
          score *= scale;  // in base 2 from here on; a scale below 0 must not turn minus infinity around
        }
        highest = fmaxf(highest, score);
      }
    }
    highest = fmaxf(highest, __shfl_xor_sync(kFullWarp, highest, 1));
    highest = fmaxf(highest, __shfl_xor_sync(kFullWarp, highest, 2));
    const float top = fmaxf(state.top[i], highest), shift = top == -INFINITY ? 0.0f : top;
    const float decay = power_of_two(state.top[i] - shift);  // 0 at first
    float sum = 0;
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& score = scores[n][2 * i + j];
        score = power_of_two(score - shift);
        sum += score;
        if (p.dropout) score *= dropout_factor<float>(p, state.token[i], first_key + 8 * n + column + j);
      }
    }
    state.top[i] = top;
    state.sum[i] = state.sum[i] * decay + sum;  // of this lane's columns
#pragma unroll
    for (int n = 0; n < NO; ++n) {
      state.out[n][2 * i] *= decay;
      state.out[n][2 * i + 1] *= decay;
    }
  }
}

}  // namespace megatron::cuda
