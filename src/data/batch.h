// What a micro-batch holds, and the thread that prepares micro-batches ahead of the step.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "data/dataset.h"

namespace megatron {

/// How samples become training inputs. The defaults are Megatron-LM's.
struct BatchOptions {
  std::optional<TokenId> eod;         ///< needed by the three switches
  bool eod_mask_loss = false;         ///< loss weight 0 where the input token is the end-of-document id
  bool reset_position_ids = false;    ///< positions count from 0 again after an end-of-document id
  bool reset_attention_mask = false;  ///< tokens after an end-of-document id don't see it, nor what is before it
  int64_t context_rank = 0, context_ranks = 1;  ///< the part of each sequence that this rank takes: base/zigzag.h
};

/// One micro-batch of B samples, of each of which it has S tokens: all, or this rank's part. All [S, B] arrays are
/// sequence-first: element (s, b) is at s * B + b.
struct Batch {
  int64_t seq_length = 0, micro_batch_size = 0;
  std::vector<TokenId> tokens;          ///< [S, B] inputs
  std::vector<TokenId> labels;          ///< [S, B] the token after each input
  std::vector<float> loss_weights;      ///< [S, B] 0 or 1
  std::vector<int32_t> position_ids;    ///< [S, B]
  std::vector<int32_t> token_index;     ///< [S, B] place of each token in its sample
  std::vector<int32_t> document_start;  ///< [S, B] first position that a token may attend to; empty unless
                                        ///< reset_attention_mask, then query i sees keys document_start[i] .. i
  std::vector<int64_t> sample_ids;      ///< [B] global sample numbers
  double loss_weight_sum = 0;           ///< over whole samples: this batch's part of the divisor of the loss
  std::vector<double> sample_weights;   ///< [B] loss_weight_sum by sample
};

/// Puts together the samples `sample_ids`, or this rank's part of each: chunks context_rank and 2 * context_ranks - 1 -
/// context_rank of 2 * context_ranks. UsageError when a switch needs an end-of-document id that isn't there.
Batch make_batch(const Dataset& dataset, const std::vector<int64_t>& sample_ids, const BatchOptions& options);

/// A rank's share of the global samples. Micro-batch k of the loader holds the samples
///   first_sample + k * stride + offset + j,  j = 0 .. micro_batch_size - 1.
/// Under data parallelism stride = micro_batch_size * ranks and offset = micro_batch_size * rank: the ranks together
/// take consecutive samples, whatever their number.
struct SampleShare {
  int64_t micro_batch_size = 1;
  int64_t offset = 0;
  int64_t stride = 1;
};

SampleShare data_parallel_share(int64_t micro_batch_size, int64_t rank, int64_t ranks);

/// Global samples of micro-batch `index` counted from `first_sample`.
std::vector<int64_t> samples_of(const SampleShare& share, int64_t first_sample, int64_t index);

/// Prepares up to `prefetch` micro-batches ahead on a thread of its own; with 0 next() prepares its batch itself. Not
/// thread-safe: one thread calls it.
class BatchLoader {
 public:
  BatchLoader(DatasetPtr dataset, const BatchOptions& options, const SampleShare& share, int64_t first_sample,
              int prefetch);
  ~BatchLoader();
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  /// The next micro-batch. What went wrong on the thread is thrown here, at the batch that it belongs to, and again at
  /// each further call until seek().
  Batch next();

  /// Goes on at another place, perhaps with another share; batches prepared so far are dropped.
  void seek(int64_t first_sample);
  void seek(int64_t first_sample, const SampleShare& share);

  /// Seconds that next() has taken since the loader was made.
  double wait_seconds() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace megatron
