#include "data/batch.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "base/error.h"
#include "base/zigzag.h"

namespace megatron {
namespace {

void check_options(const BatchOptions& options) {
  if (options.eod || !(options.eod_mask_loss || options.reset_position_ids || options.reset_attention_mask)) return;
  throw UsageError(
      "data.eod_mask_loss, reset_position_ids and reset_attention_mask need a tokenizer with an end-of-document id");
}

/// Where the rows of a batch stand in their sequence.
RowPlaces places_of(const BatchOptions& options, int64_t rows) {
  if (options.context_ranks == 1) return {};
  return zigzag_places(rows, options.context_rank, options.context_ranks);
}

/// Fills column b of the batch from the tokens of its sample, one more than the sequence is long.
void fill_column(Batch& batch, int64_t b, const std::vector<TokenId>& sample, const BatchOptions& options) {
  const RowPlaces rows = places_of(options, batch.seq_length);
  int32_t start = 0;  // position after the last end-of-document id
  int64_t row = 0;    // of the batch, which may hold a part of the sequence only
  for (int64_t s = 0; s + 1 < std::ssize(sample); ++s) {
    const TokenId token = sample[static_cast<size_t>(s)];
    const bool is_eod = options.eod && token == *options.eod;
    const float weight = options.eod_mask_loss && is_eod ? 0.0f : 1.0f;
    batch.sample_weights[static_cast<size_t>(b)] += static_cast<double>(weight);
    if (row < batch.seq_length && rows.at(row) == s) {
      const size_t at = static_cast<size_t>(row++ * batch.micro_batch_size + b);
      batch.tokens[at] = token;
      batch.labels[at] = sample[static_cast<size_t>(s) + 1];
      batch.loss_weights[at] = weight;
      batch.token_index[at] = static_cast<int32_t>(s);
      batch.position_ids[at] = static_cast<int32_t>(s) - (options.reset_position_ids ? start : 0);
      if (options.reset_attention_mask) batch.document_start[at] = start;
    }
    if (is_eod) start = static_cast<int32_t>(s) + 1;
  }
  batch.loss_weight_sum += batch.sample_weights[static_cast<size_t>(b)];
}

}  // namespace

Batch make_batch(const Dataset& dataset, const std::vector<int64_t>& sample_ids, const BatchOptions& options) {
  check_options(options);
  Batch batch;
  batch.seq_length = div_exact(dataset.seq_length(), options.context_ranks);
  batch.micro_batch_size = static_cast<int64_t>(sample_ids.size());
  batch.sample_ids = sample_ids;
  const size_t count = static_cast<size_t>(batch.seq_length * batch.micro_batch_size);
  batch.tokens.resize(count);
  batch.labels.resize(count);
  batch.loss_weights.resize(count);
  batch.position_ids.resize(count);
  batch.token_index.resize(count);
  batch.sample_weights.resize(sample_ids.size());
  if (options.reset_attention_mask) batch.document_start.resize(count);
  std::vector<TokenId> sample(static_cast<size_t>(dataset.seq_length()) + 1);
  for (int64_t b = 0; b < batch.micro_batch_size; ++b) {
    dataset.read(sample_ids[static_cast<size_t>(b)], sample);
    fill_column(batch, b, sample, options);
  }
  return batch;
}

SampleShare data_parallel_share(int64_t micro_batch_size, int64_t rank, int64_t ranks) {
  MEGATRON_CHECK(micro_batch_size > 0 && rank >= 0 && rank < ranks, "no such share");
  return {micro_batch_size, micro_batch_size * rank, micro_batch_size * ranks};
}

std::vector<int64_t> samples_of(const SampleShare& share, int64_t first_sample, int64_t index) {
  std::vector<int64_t> samples;
  for (int64_t j = 0; j < share.micro_batch_size; ++j) {
    samples.push_back(first_sample + index * share.stride + share.offset + j);
  }
  return samples;
}

struct BatchLoader::State {
  DatasetPtr dataset;
  BatchOptions options;
  SampleShare share;
  int64_t first_sample = 0, next_index = 0;
  size_t prefetch = 1;
  double wait_seconds = 0;

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Batch> ready;
  std::exception_ptr error;  // belongs after `ready`
  uint64_t generation = 0;   // counts seeks: a batch begun before a seek is dropped
  bool stop = false;
  std::thread thread;

  void loop() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stop || (!error && ready.size() < prefetch); });
      if (stop) return;
      prepare(lock);
      changed.notify_all();
    }
  }

  /// One more batch, or the error that stands in its place. The lock is open meanwhile.
  void prepare(std::unique_lock<std::mutex>& lock) {
    const uint64_t mine = generation;
    const std::vector<int64_t> samples = samples_of(share, first_sample, next_index++);
    lock.unlock();
    Batch batch;
    std::exception_ptr failure;
    try {
      batch = make_batch(*dataset, samples, options);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (mine != generation) return;
    if (failure) {
      error = failure;
    } else {
      ready.push_back(std::move(batch));
    }
  }
};

BatchLoader::BatchLoader(DatasetPtr dataset, const BatchOptions& options, const SampleShare& share,
                         int64_t first_sample, int prefetch)
    : state_(std::make_unique<State>()) {
  MEGATRON_CHECK(dataset != nullptr && prefetch >= 0, "a loader needs a data set");
  check_options(options);
  state_->dataset = std::move(dataset);
  state_->options = options;
  state_->share = share;
  state_->first_sample = first_sample;
  state_->prefetch = static_cast<size_t>(prefetch);
  if (prefetch > 0) state_->thread = std::thread([state = state_.get()] { state->loop(); });
}

BatchLoader::~BatchLoader() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->changed.notify_all();
  if (state_->thread.joinable()) state_->thread.join();
}

Batch BatchLoader::next() {
  State& s = *state_;
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock lock(s.mutex);
  if (s.prefetch == 0 && !s.error) s.prepare(lock);
  s.changed.wait(lock, [&] { return !s.ready.empty() || s.error; });
  s.wait_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (s.ready.empty()) std::rethrow_exception(s.error);
  Batch batch = std::move(s.ready.front());
  s.ready.pop_front();
  s.changed.notify_all();
  return batch;
}

void BatchLoader::seek(int64_t first_sample) {
  seek(first_sample, state_->share);
}

void BatchLoader::seek(int64_t first_sample, const SampleShare& share) {
  State& s = *state_;
  {
    std::lock_guard lock(s.mutex);
    ++s.generation;
    s.ready.clear();
    s.error = nullptr;
    s.first_sample = first_sample;
    s.share = share;
    s.next_index = 0;
  }
  s.changed.notify_all();
}

double BatchLoader::wait_seconds() const {
  return state_->wait_seconds;
}

}  // namespace megatron
