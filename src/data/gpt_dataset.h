// Documents joined and cut into samples.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "data/dataset.h"
#include "data/indexed_file.h"
#include "data/sample_order.h"

namespace megatron {

/// Positions [begin, end) of the tokens of an IndexedFile.
struct TokenRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

/// Whole samples in `tokens` tokens: consecutive samples share one token, the last label of one being the first input
/// of the next; what is left over at the end is never used.
int64_t sample_count(int64_t tokens, int64_t seq_length);

/// Sample k of a range is its tokens [k S, k S + S], over the borders of documents, documents in file order. The order
/// of the samples is shuffled anew in every epoch. (Megatron-LM shuffles documents before it joins them, from stored
/// index files; here the neighbours within a sample are those of the file.)
class GptDataset final : public Dataset {
 public:
  /// `order_key`: key of the shuffle; `vocab_size`: ids are checked against it whenever they are read.
  GptDataset(std::shared_ptr<const IndexedFile> file, TokenRange range, int64_t seq_length, uint64_t order_key,
             int64_t vocab_size);

  int64_t seq_length() const override { return seq_length_; }
  int64_t samples_per_epoch() const override { return order_.samples(); }
  void read(int64_t global_sample, std::span<TokenId> tokens) const override;

  /// Position of the first token of a sample in the file.
  int64_t position_of(int64_t global_sample) const;

 private:
  std::shared_ptr<const IndexedFile> file_;
  TokenRange range_;
  int64_t seq_length_, vocab_size_;
  SampleOrder order_;
};

/// Made-up tokens: sample g of a set is drawn from Philox keyed by (seed, set) at g. A sample starts at a random id of
/// [0, M), M = min(256, number of ids, the end-of-document id where that is smaller). Each next token is, out of 64
/// times: 56 times the last one + 1 modulo M, 7 times a random id of [0, M), once the end-of-document id and then a
/// random id (without such an id: a random one). What can be learned is the counting: the loss falls from ln(number of
/// ids) to about 0.44 + 0.125 ln M, 1.1 for M = 256.
class MockDataset final : public Dataset {
 public:
  MockDataset(int64_t seq_length, uint64_t key, const Tokenizer& tokenizer);

  int64_t seq_length() const override { return seq_length_; }
  int64_t samples_per_epoch() const override { return int64_t{1} << 40; }
  void read(int64_t global_sample, std::span<TokenId> tokens) const override;

 private:
  int64_t seq_length_;
  uint64_t key_;
  TokenId ids_;
  std::optional<TokenId> eod_;
};

/// Several sets mixed by weight. The mixture is a pattern of kPeriod places, repeated without end: at each place comes
/// the set that lies furthest behind its share (the rule of Megatron-LM's blends, whose first kPeriod places are these
/// very ones), and each set delivers its samples in its own order. A set's epochs are its own.
class BlendedDataset final : public Dataset {
 public:
  static constexpr int64_t kPeriod = 65536;

  /// Weights > 0, any scale. UsageError when a weight is too small to get one place of the period.
  BlendedDataset(std::vector<DatasetPtr> sets, std::vector<double> weights);

  int64_t seq_length() const override { return sets_[0]->seq_length(); }
  /// Sum over the sets: sets with more than their share of weight have begun another epoch by then.
  int64_t samples_per_epoch() const override { return samples_; }
  void read(int64_t global_sample, std::span<TokenId> tokens) const override;

  struct Place {
    int64_t set = 0, sample = 0;
    bool operator==(const Place&) const = default;
  };
  Place place_of(int64_t global_sample) const;

 private:
  std::vector<DatasetPtr> sets_;
  std::vector<int16_t> pattern_;     // [kPeriod] which set
  std::vector<int32_t> within_;      // [kPeriod] how often that set came before, within the period
  std::vector<int64_t> per_period_;  // [sets] places in a period
  int64_t samples_ = 0;
};

}  // namespace megatron
