// From the settings of section `data` to data sets.
#include <algorithm>
#include <array>
#include <map>

#include "base/error.h"
#include "base/philox.h"
#include "base/strings.h"
#include "config/rules.h"
#include "data/dataset.h"
#include "data/gpt_dataset.h"

namespace megatron {
namespace {

constexpr std::array<const char*, 3> kSplitNames = {"train", "valid", "test"};

std::vector<BlendPart> read_blend(const std::string& setting, const std::vector<std::string>& paths) {
  std::vector<BlendPart> parts = parse_blend(paths);
  if (const auto problem = blend_problem(parts)) throw UsageError(str_cat("data.", setting, ": ", *problem));
  return parts;
}

/// One file is opened once, however many sets use it.
class FileCache {
 public:
  explicit FileCache(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  std::shared_ptr<const IndexedFile> open(const std::string& prefix) {
    std::shared_ptr<const IndexedFile>& file = files_[prefix];
    if (file) return file;
    file = std::make_shared<IndexedFile>(prefix);
    file->check_tokenizer(tokenizer_);
    if (!file->meta()) check_ends(*file);
    return file;
  }

 private:
  /// A wrong tokenizer mostly shows in any few thousand ids; the rest is checked as it is read.
  void check_ends(const IndexedFile& file) const {
    std::vector<TokenId> ids(static_cast<size_t>(std::min<int64_t>(file.tokens(), 1 << 16)));
    for (const int64_t position : {int64_t{0}, file.tokens() - static_cast<int64_t>(ids.size())}) {
      file.read(position, ids);
      file.check_ids(position, ids, tokenizer_.vocab_size());
    }
  }

  const Tokenizer& tokenizer_;
  std::map<std::string, std::shared_ptr<const IndexedFile>> files_;
};

class Opener {
 public:
  Opener(const DataOptions& options, const Tokenizer& tokenizer)
      : options_(options), tokenizer_(tokenizer), files_(tokenizer) {}

  DataSplits open() {
    if (options_.seq_length < 1) throw UsageError("seq_length must be at least 1");
    const std::array<const std::vector<std::string>*, 3> own = {&options_.train_data_path, &options_.valid_data_path,
                                                                &options_.test_data_path};
    const bool separate = std::any_of(own.begin(), own.end(), [](const auto* paths) { return !paths->empty(); });
    const int sources = (options_.mock_data ? 1 : 0) + (options_.data_path.empty() ? 0 : 1) + (separate ? 1 : 0);
    if (sources == 0) throw UsageError("no data: set data.data_path, or data.mock_data: true");
    if (sources > 1) {
      throw UsageError("data.data_path, data.train_data_path (valid, test) and data.mock_data exclude one another");
    }
    std::array<DatasetPtr*, 3> sets = {&out_.train, &out_.valid, &out_.test};
    for (size_t k = 0; k < 3; ++k) {
      if (options_.mock_data) *sets[k] = std::make_shared<MockDataset>(options_.seq_length, key(k), tokenizer_);
      if (separate) *sets[k] = open_blend(k, str_cat(kSplitNames[k], "_data_path"), *own[k], {1, 0, 0}, 0);
    }
    if (!options_.mock_data && !separate) {
      const std::array<double, 3> shares = split_shares(options_.split);
      for (size_t k = 0; k < 3; ++k) {
        if (shares[k] > 0) *sets[k] = open_blend(k, "data_path", options_.data_path, shares, k);
      }
    }
    if (!out_.train)
      throw UsageError("no training data: the share of train in data.split is 0, or train_data_path is empty");
    return std::move(out_);
  }

 private:
  uint64_t key(size_t k) const { return philox_key(options_.seed, hash_name(str_cat("data.order.", kSplitNames[k]))); }

  /// Tokens of part `part` of a file, cut between sequences; at the very token where sequences are too few to give
  /// every part a sample (one long text, for example).
  TokenRange part_of(const IndexedFile& file, const std::array<double, 3>& shares, size_t part) {
    const std::array<int64_t, 4> by_sequence = split_borders(shares, file.sequences());
    bool enough = true;
    for (size_t k = 0; k < 3; ++k) {
      const int64_t tokens = file.sequence_begin(by_sequence[k + 1]) - file.sequence_begin(by_sequence[k]);
      if (shares[k] > 0 && sample_count(tokens, options_.seq_length) == 0) enough = false;
    }
    if (enough) return {file.sequence_begin(by_sequence[part]), file.sequence_begin(by_sequence[part + 1])};
    note(str_cat(file.prefix(), ": ", file.sequences(), " documents are too few to split \"", options_.split,
                 "\" between documents; it is split within them, by tokens"));
    const std::array<int64_t, 4> by_token = split_borders(shares, file.tokens());
    return {by_token[part], by_token[part + 1]};
  }

  void note(const std::string& text) {
    if (std::find(out_.notes.begin(), out_.notes.end(), text) == out_.notes.end()) out_.notes.push_back(text);
  }

  /// `set`: which of train, valid, test this becomes; `part`: which part of the files it is.
  DatasetPtr open_blend(size_t set, const std::string& setting, const std::vector<std::string>& paths,
                        const std::array<double, 3>& shares, size_t part) {
    std::vector<DatasetPtr> sets;
    std::vector<double> weights;
    for (const BlendPart& entry : read_blend(setting, paths)) {
      const std::shared_ptr<const IndexedFile> file = files_.open(entry.prefix);
      const TokenRange range = part_of(*file, shares, part);
      if (sample_count(range.size(), options_.seq_length) == 0) {
        const std::string what = str_cat(entry.prefix, ": the ", kSplitNames[set], " part has ", range.size(),
                                         " tokens, one sample needs ", options_.seq_length + 1);
        if (set == 0) throw DataError(what + "; use more data, another data.split, or a smaller seq_length");
        note(what + ": it is left out");
        continue;
      }
      sets.push_back(std::make_shared<GptDataset>(file, range, options_.seq_length, key(set), tokenizer_.vocab_size()));
      weights.push_back(entry.weight.value_or(static_cast<double>(sets.back()->samples_per_epoch())));
    }
    if (sets.size() < 2) return sets.empty() ? nullptr : sets[0];
    return std::make_shared<BlendedDataset>(std::move(sets), std::move(weights));
  }

  const DataOptions& options_;
  const Tokenizer& tokenizer_;
  FileCache files_;
  DataSplits out_;
};

}  // namespace

DataSplits open_datasets(const DataOptions& options, const Tokenizer& tokenizer) {
  return Opener(options, tokenizer).open();
}

}  // namespace megatron
