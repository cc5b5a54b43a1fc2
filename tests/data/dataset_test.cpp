// Sample order, data sets, blends, batches and the loader thread.
#include <atomic>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <thread>

#include "data/batch.h"
#include "data/gpt_dataset.h"
#include "data/indexed_writer.h"
#include "data/sample_order.h"
#include "helpers.h"

namespace megatron {
namespace {

/// `documents` documents of `length` tokens each; token i of the file is i % vocab, the last of a document `eod`.
void write_counting(const std::string& prefix, int documents, int length, TokenId vocab, TokenId eod,
                    const std::optional<TokenizerIdentity>& tokenizer = std::nullopt) {
  IndexedWriter writer(prefix, TokenDtype::kI32);
  TokenId position = 0;
  for (int d = 0; d < documents; ++d) {
    std::vector<TokenId> ids;
    for (int i = 0; i < length; ++i) ids.push_back(position++ % vocab);
    if (eod >= 0) ids.back() = eod;
    writer.append(ids);
    writer.end_sequence();
    writer.end_document();
  }
  writer.finish(tokenizer);
}

/// Sample g is g, g + 1, ...; throws at `bad`.
class CountingDataset : public Dataset {
 public:
  explicit CountingDataset(int64_t samples = 1000, int64_t bad = -1) : samples_(samples), bad_(bad) {}
  int64_t seq_length() const override { return 4; }
  int64_t samples_per_epoch() const override { return samples_; }
  void read(int64_t g, std::span<TokenId> tokens) const override {
    reads.fetch_add(1);
    if (g == bad_) throw DataError("sample " + std::to_string(g));
    std::iota(tokens.begin(), tokens.end(), static_cast<TokenId>(g));
  }
  mutable std::atomic<int> reads{0};

 private:
  int64_t samples_, bad_;
};

DataOptions options_for(const std::vector<std::string>& paths, const std::string& split, int64_t seq_length) {
  DataOptions options;
  options.data_path = paths;
  options.split = split;
  options.seq_length = seq_length;
  return options;
}

}  // namespace

TEST_CASE("every sample comes once in every epoch, in another order") {
  for (const int64_t n : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097}) {
    const SampleOrder order(n, 77);
    std::vector<std::vector<int64_t>> epochs;
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<int64_t> all;
      for (int64_t i = 0; i < n; ++i) all.push_back(order.at(epoch, i));
      epochs.push_back(all);
      std::sort(all.begin(), all.end());
      for (int64_t i = 0; i < n; ++i) REQUIRE(all[static_cast<size_t>(i)] == i);
    }
    if (n < 16) continue;
    CHECK(epochs[0] != epochs[1]);
    CHECK(epochs[1] != epochs[2]);
    std::vector<int64_t> other;
    for (int64_t i = 0; i < n; ++i) other.push_back(SampleOrder(n, 78).at(0, i));
    CHECK(epochs[0] != other);
  }
}

TEST_CASE("the order is a good shuffle") {
  // Over many epochs each sample is at each place equally often, and neighbours don't stay neighbours.
  const int64_t n = 10;
  const SampleOrder order(n, 3);
  std::vector<int> counts(100);
  for (int64_t epoch = 0; epoch < 20000; ++epoch) {
    for (int64_t i = 0; i < n; ++i) ++counts[static_cast<size_t>(10 * i + order.at(epoch, i))];
  }
  double chi = 0;
  for (const int count : counts) chi += (count - 2000.0) * (count - 2000.0) / 2000.0;
  CHECK(chi < 160);  // 81 degrees of freedom: mean 81, standard deviation 13
  const SampleOrder large(1000003, 3);
  int neighbours = 0;
  for (int64_t i = 0; i < 20000; ++i) neighbours += std::abs(large.at(0, i) - large.at(0, i + 1)) == 1;
  CHECK(neighbours < 5);
  CHECK(SampleOrder(int64_t{1} << 40, 3).at(1, 5) < int64_t{1} << 40);
}

TEST_CASE("split strings and borders are Megatron-LM's") {
  CHECK(split_borders(split_shares("98,2,0"), 100) == std::array<int64_t, 4>{0, 98, 100, 100});
  CHECK(split_borders(split_shares("969, 30, 1"), 1000) == std::array<int64_t, 4>{0, 969, 999, 1000});
  CHECK(split_borders(split_shares("1,1,1"), 10) == std::array<int64_t, 4>{0, 3, 7, 10});
  CHECK(split_borders(split_shares("1"), 7) == std::array<int64_t, 4>{0, 7, 7, 7});
  CHECK(split_borders(split_shares("1,1"), 5) == std::array<int64_t, 4>{0, 2, 5, 5});  // 2.5 to even
  for (const std::string bad : {"", "a,b", "1,2,3,4", "0,0,0", "-1,2", "1,,2", "nan"}) {
    CHECK_THROWS_AS(split_shares(bad), UsageError);
  }
}

TEST_CASE("samples are cut from joined documents and cover them once per epoch") {
  const Scratch scratch;
  write_counting(scratch / "x", 30, 7, 100000, -1);
  const auto file = std::make_shared<IndexedFile>(scratch / "x");
  const GptDataset data(file, {14, 203}, 8, 5, 100001);
  REQUIRE(data.samples_per_epoch() == 23);  // (189 - 1) / 8
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    std::set<TokenId> starts;
    for (int64_t i = 0; i < 23; ++i) {
      std::vector<TokenId> tokens(9);
      data.read(epoch * 23 + i, tokens);
      for (TokenId k = 0; k < 9; ++k) CHECK(tokens[static_cast<size_t>(k)] == tokens[0] + k);
      CHECK((tokens[0] - 14) % 8 == 0);
      starts.insert(tokens[0]);
    }
    CHECK(starts.size() == 23);
    CHECK(*starts.rbegin() == 14 + 22 * 8);
  }
}

TEST_CASE("train, valid and test come from their own documents") {
  const Scratch scratch;
  const BytesTokenizer tokenizer;
  write_counting(scratch / "x", 10, 20, 200, -1);
  const DataSplits sets = open_datasets(options_for({scratch / "x"}, "8,2,0", 4), tokenizer);
  CHECK(sets.notes.empty());
  CHECK(sets.train->samples_per_epoch() == 39);  // 160 tokens
  CHECK(sets.valid->samples_per_epoch() == 9);   // 40 tokens
  CHECK(sets.test == nullptr);
  std::vector<TokenId> tokens(5);
  for (int64_t i = 0; i < 9; ++i) {
    sets.valid->read(i, tokens);
    CHECK(tokens[0] >= 160);
  }
  // The same seed gives the same order, another seed another one.
  DataOptions other = options_for({scratch / "x"}, "8,2,0", 4);
  const auto first_ids = [&](const DataOptions& options) {
    const DataSplits opened = open_datasets(options, tokenizer);
    std::vector<TokenId> ids;
    for (int64_t i = 0; i < 20; ++i) {
      opened.train->read(i, tokens);
      ids.push_back(tokens[0]);
    }
    return ids;
  };
  const std::vector<TokenId> first = first_ids(other);
  CHECK(first_ids(other) == first);
  other.seed = 4321;
  CHECK(first_ids(other) != first);
}

TEST_CASE("one long document is split by tokens, and says so") {
  const Scratch scratch;
  const BytesTokenizer tokenizer;
  write_counting(scratch / "x", 1, 200, 200, -1);
  const DataSplits sets = open_datasets(options_for({scratch / "x"}, "90,10,0", 4), tokenizer);
  REQUIRE(sets.notes.size() == 1);
  CHECK(contains(sets.notes[0], "1 documents are too few to split \"90,10,0\""));
  CHECK(sets.train->samples_per_epoch() == 44);  // 180 tokens
  CHECK(sets.valid->samples_per_epoch() == 4);   // 20 tokens
  const DataSplits few = open_datasets(options_for({scratch / "x"}, "99,1,0", 4), tokenizer);
  CHECK(few.valid == nullptr);
  CHECK(contains(few.notes.back(), "the valid part has 2 tokens, one sample needs 5"));
  CHECK(contains(message_of<DataError>([&] { open_datasets(options_for({scratch / "x"}, "1", 200), tokenizer); }),
                 "the train part has 200 tokens, one sample needs 201"));
}

TEST_CASE("data of another tokenizer is refused when opened or when read") {
  const Scratch scratch;
  const BytesTokenizer bytes;
  const WordsTokenizer words;
  write_counting(scratch / "x", 4, 10, 256, -1, identity_of(bytes));
  open_datasets(options_for({scratch / "x"}, "1", 4), bytes);
  CHECK(contains(message_of<DataError>([&] { open_datasets(options_for({scratch / "x"}, "1", 4), words); }),
                 "another tokenizer"));
  write_counting(scratch / "x", 4, 100, 300, -1);  // no side file; ids up to 299
  CHECK(contains(message_of<DataError>([&] { open_datasets(options_for({scratch / "x"}, "1", 4), bytes); }),
                 "x.bin: document 2, token 57"));
  // A wrong id far from both ends shows when its sample is read.
  IndexedWriter writer(scratch / "y", TokenDtype::kU16);
  std::vector<TokenId> ids(300000, 1);
  ids[150002] = 300;
  writer.append(ids);
  writer.end_sequence();
  writer.end_document();
  writer.finish(std::nullopt);
  const DataSplits sets = open_datasets(options_for({scratch / "y"}, "1", 99999), bytes);
  std::vector<TokenId> tokens(100000);
  int refused = 0;
  for (int64_t i = 0; i < sets.train->samples_per_epoch(); ++i) {
    try {
      sets.train->read(i, tokens);
    } catch (const DataError& error) {
      ++refused;
      CHECK(contains(error.what(), "document 0, token 150002 (byte 300004): id 300"));
    }
  }
  CHECK(refused == 1);
}

TEST_CASE("settings that contradict one another are refused") {
  const BytesTokenizer tokenizer;
  const auto refusal = [&](auto change) {
    DataOptions options;
    options.seq_length = 4;
    change(options);
    return message_of<UsageError>([&] { open_datasets(options, tokenizer); });
  };
  CHECK(contains(refusal([](DataOptions&) {}), "data.data_path"));
  CHECK(contains(refusal([](DataOptions& o) { o.data_path = {"x"}, o.mock_data = true; }), "exclude"));
  CHECK(contains(refusal([](DataOptions& o) { o.data_path = {"x"}, o.train_data_path = {"x"}; }), "exclude"));
  CHECK(contains(refusal([](DataOptions& o) { o.mock_data = true, o.seq_length = 0; }), "seq_length"));
  CHECK(contains(refusal([](DataOptions& o) { o.data_path = {"0.5", "x", "y"}; }), "looks like a weight"));
  CHECK(contains(refusal([](DataOptions& o) { o.data_path = {"-1 x 1 y"}; }), "greater than 0"));
  const Scratch scratch;
  write_counting(scratch / "x", 4, 10, 256, -1);
  CHECK(contains(refusal([&](DataOptions& o) { o.valid_data_path = {scratch / "x"}; }), "no training data"));
  CHECK(
      contains(refusal([&](DataOptions& o) { o.data_path = {scratch / "x"}, o.split = "0,1,0"; }), "no training data"));
}

TEST_CASE("blends begin as Megatron-LM's do and keep their weights") {
  const auto places = [](std::vector<double> weights, int count) {
    std::vector<DatasetPtr> sets(weights.size(), std::make_shared<CountingDataset>());
    const BlendedDataset blend(sets, weights);
    std::vector<std::pair<int64_t, int64_t>> out;
    for (int g = 0; g < count; ++g) out.emplace_back(blend.place_of(g).set, blend.place_of(g).sample);
    return out;
  };
  using Places = std::vector<std::pair<int64_t, int64_t>>;
  CHECK(places({3, 7}, 10) == Places{{1, 0}, {0, 0}, {1, 1}, {1, 2}, {0, 1}, {1, 3}, {1, 4}, {0, 2}, {1, 5}, {1, 6}});
  CHECK(places({.2, .5, .3}, 12) ==
        Places{{1, 0}, {2, 0}, {0, 0}, {1, 1}, {2, 1}, {1, 2}, {0, 1}, {1, 3}, {2, 2}, {1, 4}, {0, 2}, {1, 5}});
  std::vector<DatasetPtr> sets(3, std::make_shared<CountingDataset>());
  const BlendedDataset blend(sets, {0.1, 0.2, 0.7});
  std::array<int64_t, 3> next{};
  for (int64_t g = 0; g < 3 * BlendedDataset::kPeriod; ++g) {
    const BlendedDataset::Place place = blend.place_of(g);
    REQUIRE(place.sample == next[static_cast<size_t>(place.set)]++);  // every set in its own order, nothing skipped
  }
  CHECK(std::abs(static_cast<double>(next[0]) - 0.3 * BlendedDataset::kPeriod) <= 3);
  CHECK(std::abs(static_cast<double>(next[2]) - 2.1 * BlendedDataset::kPeriod) <= 3);
  CHECK_THROWS_AS(BlendedDataset(sets, {1e-9, 1, 1}), UsageError);
}

TEST_CASE("a blend opens from settings, with and without weights") {
  const Scratch scratch;
  const BytesTokenizer tokenizer;
  write_counting(scratch / "a", 10, 21, 100, -1);
  write_counting(scratch / "b", 10, 41, 50, -1);
  const auto share_of_a = [&](const std::vector<std::string>& paths) {
    const DataSplits sets = open_datasets(options_for(paths, "1", 10), tokenizer);
    const auto blend = std::dynamic_pointer_cast<const BlendedDataset>(sets.train);
    REQUIRE(blend);
    int count = 0;
    for (int64_t g = 0; g < 1000; ++g) count += blend->place_of(g).set == 0;
    return count;
  };
  CHECK(std::abs(share_of_a({"0.3", scratch / "a", "0.7", scratch / "b"}) - 300) <= 1);
  CHECK(std::abs(share_of_a({"0.3 " + (scratch / "a") + " 0.7 " + (scratch / "b")}) - 300) <= 1);
  CHECK(std::abs(share_of_a({scratch / "a", scratch / "b"}) - 1000 * 20 / 60) <= 20);  // 20 and 40 samples
  CHECK_THROWS_AS(open_datasets(options_for({"0.3", scratch / "a", "0.7", scratch / "missing"}, "1", 10), tokenizer),
                  DataError);
  DataOptions own;
  own.seq_length = 10;
  own.train_data_path = {scratch / "a"};
  own.valid_data_path = {scratch / "b"};
  const DataSplits sets = open_datasets(own, tokenizer);
  CHECK(sets.train->samples_per_epoch() == 20);
  CHECK(sets.valid->samples_per_epoch() == 40);
  CHECK(sets.test == nullptr);
}

TEST_CASE("made-up data is a function of seed and sample, and can be learned") {
  const BytesTokenizer tokenizer;
  DataOptions options;
  options.mock_data = true;
  options.seq_length = 512;
  const auto read = [&](const DatasetPtr& set, int64_t g) {
    std::vector<TokenId> tokens(513);
    set->read(g, tokens);
    return tokens;
  };
  const DataSplits sets = open_datasets(options, tokenizer), again = open_datasets(options, tokenizer);
  CHECK(read(sets.train, 5) == read(again.train, 5));
  CHECK(read(sets.train, 5) != read(sets.train, 6));
  CHECK(read(sets.train, 5) != read(sets.valid, 5));
  options.seed = 1;
  CHECK(read(sets.train, 5) != read(open_datasets(options, tokenizer).train, 5));
  int counted = 0, ends = 0;
  for (int64_t g = 0; g < 40; ++g) {
    const std::vector<TokenId> tokens = read(sets.train, g);
    for (size_t i = 1; i < tokens.size(); ++i) {
      counted += tokens[i] == (tokens[i - 1] + 1) % 256;
      ends += tokens[i] == 256;
    }
  }
  CHECK(counted > 40 * 512 * 0.84);
  CHECK(counted < 40 * 512 * 0.90);
  CHECK(ends > 200);
}

TEST_CASE("a batch is sequence-first and obeys the end-of-document switches") {
  class Fixed : public CountingDataset {
    void read(int64_t g, std::span<TokenId> tokens) const override {
      const std::vector<TokenId> first = {1, 9, 2, 3, 9}, second = {4, 5, 6, 7, 8};
      std::copy_n((g == 0 ? first : second).begin(), 5, tokens.begin());
    }
  };
  const Fixed data;
  BatchOptions options;
  options.eod = 9;
  Batch batch = make_batch(data, {0, 1}, options);
  CHECK(batch.tokens == std::vector<TokenId>{1, 4, 9, 5, 2, 6, 3, 7});
  CHECK(batch.labels == std::vector<TokenId>{9, 5, 2, 6, 3, 7, 9, 8});
  CHECK(batch.position_ids == std::vector<int32_t>{0, 0, 1, 1, 2, 2, 3, 3});
  CHECK(batch.loss_weights == std::vector<float>(8, 1.0f));
  CHECK(batch.loss_weight_sum == 8);
  CHECK(batch.document_start.empty());
  CHECK(batch.sample_ids == std::vector<int64_t>{0, 1});
  options.eod_mask_loss = options.reset_position_ids = options.reset_attention_mask = true;
  batch = make_batch(data, {0, 1}, options);
  CHECK(batch.loss_weights == std::vector<float>{1, 1, 0, 1, 1, 1, 1, 1});
  CHECK(batch.loss_weight_sum == 7);
  CHECK(batch.position_ids == std::vector<int32_t>{0, 0, 1, 1, 0, 2, 1, 3});
  CHECK(batch.document_start == std::vector<int32_t>{0, 0, 0, 0, 2, 0, 2, 0});
  options.eod.reset();
  CHECK_THROWS_AS(make_batch(data, {0, 1}, options), UsageError);
}

TEST_CASE("ranks that share sequences take two chunks of each, and agree on the weights") {
  class Fixed : public CountingDataset {
    int64_t seq_length() const override { return 8; }
    void read(int64_t g, std::span<TokenId> tokens) const override {
      for (size_t i = 0; i < tokens.size(); ++i)
        tokens[i] = i == 4 ? 99 : static_cast<TokenId>(10 * g) + static_cast<TokenId>(i);
    }
  };
  const Fixed data;
  BatchOptions options;
  options.eod = 99;
  options.eod_mask_loss = options.reset_position_ids = options.reset_attention_mask = true;
  const Batch whole = make_batch(data, {0, 1}, options);
  CHECK(whole.loss_weight_sum == 14);
  CHECK(whole.sample_weights == std::vector<double>{7, 7});
  const std::vector<std::vector<int32_t>> places = {{0, 1, 6, 7}, {2, 3, 4, 5}};
  for (int64_t rank = 0; rank < 2; ++rank) {
    options.context_rank = rank;
    options.context_ranks = 2;
    const Batch part = make_batch(data, {0, 1}, options);
    CHECK(part.seq_length == 4);
    CHECK(part.loss_weight_sum == 14);
    for (size_t i = 0; i < 8; ++i) {
      const int32_t place = places[static_cast<size_t>(rank)][i / 2];
      const size_t at = static_cast<size_t>(place) * 2 + i % 2;
      CHECK(part.token_index[i] == place);
      CHECK(part.tokens[i] == whole.tokens[at]);
      CHECK(part.labels[i] == whole.labels[at]);
      CHECK(part.loss_weights[i] == whole.loss_weights[at]);
      CHECK(part.position_ids[i] == whole.position_ids[at]);
      CHECK(part.document_start[i] == whole.document_start[at]);
    }
  }
}

TEST_CASE("ranks together take consecutive samples, whatever their number") {
  for (const int64_t ranks : {1, 2, 4}) {
    std::vector<int64_t> all;
    for (int64_t micro = 0; micro < 8 / ranks; ++micro) {
      for (int64_t rank = 0; rank < ranks; ++rank) {
        for (const int64_t s : samples_of(data_parallel_share(3, rank, ranks), 100, micro)) all.push_back(s);
      }
    }
    std::vector<int64_t> expected(24);
    std::iota(expected.begin(), expected.end(), 100);
    CHECK(all == expected);
  }
}

TEST_CASE("any stops, seeks and rank counts give each sample once per epoch") {
  const Scratch scratch;
  const BytesTokenizer tokenizer;
  write_counting(scratch / "x", 97, 5, 250, -1);
  const DatasetPtr data = open_datasets(options_for({scratch / "x"}, "1", 4), tokenizer).train;
  const auto gpt = std::dynamic_pointer_cast<const GptDataset>(data);
  const int64_t epoch = data->samples_per_epoch();  // 121
  std::mt19937 random(9);
  std::map<int64_t, int> seen;
  int64_t consumed = 0;
  while (consumed < 3 * epoch) {  // one run after another, each with its own number of ranks
    const int64_t ranks = 1 + random() % 3, micro = 1 + random() % 2, steps = 1 + random() % 5;
    std::vector<std::unique_ptr<BatchLoader>> loaders;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      loaders.push_back(
          std::make_unique<BatchLoader>(data, BatchOptions{}, data_parallel_share(micro, rank, ranks), consumed, 3));
    }
    for (int64_t step = 0; step < steps; ++step) {
      for (auto& loader : loaders) {
        const Batch batch = loader->next();
        for (int64_t b = 0; b < micro; ++b) {
          const int64_t g = batch.sample_ids[static_cast<size_t>(b)];
          CHECK(batch.tokens[static_cast<size_t>(b)] == gpt->position_of(g) % 250);
          if (g < 3 * epoch) ++seen[g / epoch * 1000000 + gpt->position_of(g)];
        }
      }
    }
    consumed += ranks * micro * steps;
  }
  CHECK(seen.size() == static_cast<size_t>(3 * epoch));
  for (const auto& [key, count] : seen) CHECK(count == 1);
}

TEST_CASE("the loader works ahead, seeks, and hands on what went wrong") {
  const auto data = std::make_shared<CountingDataset>(1000, 7);
  BatchLoader loader(data, {}, {2, 0, 2}, 0, 2);
  CHECK(loader.next().sample_ids == std::vector<int64_t>{0, 1});
  CHECK(loader.next().sample_ids == std::vector<int64_t>{2, 3});
  CHECK(loader.next().sample_ids == std::vector<int64_t>{4, 5});
  CHECK(message_of<DataError>([&] { loader.next(); }) == "sample 7");
  CHECK(message_of<DataError>([&] { loader.next(); }) == "sample 7");
  loader.seek(100);
  CHECK(loader.next().sample_ids == std::vector<int64_t>{100, 101});
  loader.seek(50, {3, 3, 6});
  CHECK(loader.next().sample_ids == std::vector<int64_t>{53, 54, 55});
  CHECK(loader.next().sample_ids == std::vector<int64_t>{59, 60, 61});
  CHECK(loader.wait_seconds() >= 0);
  // It stays at most `prefetch` batches (and the one in work) ahead.
  const auto fresh = std::make_shared<CountingDataset>();
  BatchLoader ahead(fresh, {}, {1, 0, 1}, 0, 4);
  ahead.next();
  for (int i = 0; i < 200 && fresh->reads < 5; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(fresh->reads == 5);
}

TEST_CASE("a loader that does not work ahead reads a batch when it is asked for") {
  const auto data = std::make_shared<CountingDataset>(1000, 7);
  BatchLoader loader(data, {}, {2, 0, 2}, 0, 0);
  CHECK(data->reads == 0);
  for (int64_t i = 0; i < 3; ++i) {
    CHECK(loader.next().sample_ids == std::vector<int64_t>{2 * i, 2 * i + 1});
    CHECK(data->reads == 2 * (i + 1));
  }
  CHECK(message_of<DataError>([&] { loader.next(); }) == "sample 7");
  const auto reads = data->reads.load();
  CHECK(message_of<DataError>([&] { loader.next(); }) == "sample 7");
  CHECK(data->reads == reads);
  loader.seek(50, {3, 3, 6});
  CHECK(loader.next().sample_ids == std::vector<int64_t>{53, 54, 55});
}

}  // namespace megatron
