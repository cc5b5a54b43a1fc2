#include "data/gpt_dataset.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/error.h"
#include "base/philox.h"
#include "base/strings.h"

namespace megatron {

int64_t sample_count(int64_t tokens, int64_t seq_length) {
  return tokens > 0 ? (tokens - 1) / seq_length : 0;
}

GptDataset::GptDataset(std::shared_ptr<const IndexedFile> file, TokenRange range, int64_t seq_length,
                       uint64_t order_key, int64_t vocab_size)
    : file_(std::move(file)),
      range_(range),
      seq_length_(seq_length),
      vocab_size_(vocab_size),
      order_(sample_count(range.size(), seq_length), order_key) {
  MEGATRON_CHECK(range.begin >= 0 && range.end <= file_->tokens(), "range outside the file");
}

int64_t GptDataset::position_of(int64_t global_sample) const {
  const DataCursor cursor = cursor_of(global_sample, order_.samples());
  return range_.begin + order_.at(cursor.epoch, cursor.sample) * seq_length_;
}

void GptDataset::read(int64_t global_sample, std::span<TokenId> tokens) const {
  MEGATRON_CHECK(static_cast<int64_t>(tokens.size()) == seq_length_ + 1, "a sample has seq_length + 1 tokens");
  const int64_t position = position_of(global_sample);
  file_->read(position, tokens);
  file_->check_ids(position, tokens, vocab_size_);
}

MockDataset::MockDataset(int64_t seq_length, uint64_t key, const Tokenizer& tokenizer)
    : seq_length_(seq_length), key_(key), eod_(tokenizer.eod()) {
  int64_t ids = std::min<int64_t>(256, tokenizer.vocab_size());
  if (eod_ && *eod_ > 0) ids = std::min<int64_t>(ids, *eod_);
  ids_ = static_cast<TokenId>(std::max<int64_t>(ids, 1));
}

void MockDataset::read(int64_t global_sample, std::span<TokenId> tokens) const {
  MEGATRON_CHECK(static_cast<int64_t>(tokens.size()) == seq_length_ + 1, "a sample has seq_length + 1 tokens");
  const uint64_t sample = static_cast<uint64_t>(global_sample);
  TokenId last = 0;
  bool jump = true;  // the next token is a random one
  for (size_t i = 0; i < tokens.size(); ++i) {
    const Philox4 random = philox(key_, static_cast<uint32_t>(i), static_cast<uint32_t>(sample),
                                  static_cast<uint32_t>(sample >> 32), 0x6d6f636bu);
    const uint32_t kind = random.v[0] % 64;
    const TokenId drawn = static_cast<TokenId>(random.v[1] % static_cast<uint32_t>(ids_));
    if (!jump && kind == 63 && eod_) {
      tokens[i] = *eod_;
      jump = true;
      continue;
    }
    last = jump || kind >= 56 ? drawn : (last + 1) % ids_;
    tokens[i] = last;
    jump = false;
  }
}

BlendedDataset::BlendedDataset(std::vector<DatasetPtr> sets, std::vector<double> weights) : sets_(std::move(sets)) {
  MEGATRON_CHECK(!sets_.empty() && sets_.size() == weights.size(), "one weight for each set");
  if (sets_.size() > 32767) throw UsageError("data_path: more than 32767 data sets in a blend");
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight /= sum;
  per_period_.assign(sets_.size(), 0);
  for (int64_t place = 0; place < kPeriod; ++place) {
    const double due = static_cast<double>(std::max<int64_t>(place, 1));
    size_t best = 0;
    double best_lack = weights[0] * due - static_cast<double>(per_period_[0]);
    for (size_t i = 1; i < sets_.size(); ++i) {
      const double lack = weights[i] * due - static_cast<double>(per_period_[i]);
      if (lack > best_lack) {
        best_lack = lack;
        best = i;
      }
    }
    pattern_.push_back(static_cast<int16_t>(best));
    within_.push_back(static_cast<int32_t>(per_period_[best]++));
  }
  for (size_t i = 0; i < sets_.size(); ++i) {
    if (weights[i] * kPeriod < 0.5) {
      throw UsageError(str_cat("data_path: weight ", weights[i], " of entry ", i + 1,
                               " gives it less than one sample in ", kPeriod,
                               "; leave the entry out, or raise its weight"));
    }
    samples_ += sets_[i]->samples_per_epoch();
  }
}

BlendedDataset::Place BlendedDataset::place_of(int64_t global_sample) const {
  const int64_t round = global_sample / kPeriod;
  const size_t place = static_cast<size_t>(global_sample % kPeriod);
  const size_t set = static_cast<size_t>(pattern_[place]);
  return {pattern_[place], round * per_period_[set] + within_[place]};
}

void BlendedDataset::read(int64_t global_sample, std::span<TokenId> tokens) const {
  const Place place = place_of(global_sample);
  sets_[static_cast<size_t>(place.set)]->read(place.sample, tokens);
}

}  // namespace megatron
