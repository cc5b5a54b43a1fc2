// The file of samples holds what the run trains on, in its order.
#include "train/export_samples.h"

#include <cstring>
#include <fstream>
#include <iterator>

#include "base/error.h"
#include "base/file_io.h"
#include "checkpoint/safetensors.h"
#include "tests/catch.h"
#include "tests/train/trainer_helpers.h"

namespace megatron {
namespace {

std::vector<TokenId> tokens_in(const std::string& path) {
  const FileReader file(path);
  const SafetensorsHeader header = read_safetensors_header(file);
  REQUIRE(header.entries.size() == 1);
  CHECK(header.entries[0].name == "tokens");
  CHECK(header.entries[0].dtype == "I32");
  std::ifstream stream(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  std::vector<TokenId> tokens(static_cast<size_t>(header.entries[0].bytes) / sizeof(TokenId));
  std::memcpy(tokens.data(), bytes.data() + header.entries[0].offset, tokens.size() * sizeof(TokenId));
  return tokens;
}

TEST_CASE("exported samples are those of the batches, in their order") {
  const test::Scratch scratch;
  const test::EngineRun run(test::tiny());
  const auto batch_size = run.config().training.global_batch_size;
  const auto S = run.config().model.seq_length;
  const std::string path = scratch.path("samples.safetensors");
  export_samples(*run.data().splits.train, batch_size, 2 * batch_size, path);
  const std::vector<TokenId> tokens = tokens_in(path);
  REQUIRE(tokens.size() == static_cast<size_t>(2 * batch_size * (S + 1)));
  CHECK_FALSE(path_exists(path + ".part"));

  int64_t row = 0;
  for (int64_t step : {2, 3}) {
    for (const Batch& batch : run.batches(step)) {
      for (int64_t b = 0; b < batch.micro_batch_size; ++b, ++row) {
        for (int64_t s = 0; s < S; ++s) {
          const auto at = static_cast<size_t>(s * batch.micro_batch_size + b);
          REQUIRE(tokens[static_cast<size_t>(row * (S + 1) + s)] == batch.tokens[at]);
          REQUIRE(tokens[static_cast<size_t>(row * (S + 1) + s + 1)] == batch.labels[at]);
        }
      }
    }
  }
  CHECK(row == 2 * batch_size);
}

TEST_CASE("samples that cannot be exported leave no file") {
  const test::Scratch scratch;
  const test::EngineRun run(test::tiny());
  const Dataset& train = *run.data().splits.train;
  CHECK_THROWS_AS(export_samples(train, -1, 4, scratch.path("a")), UsageError);
  CHECK_THROWS_AS(export_samples(train, 0, 0, scratch.path("a")), UsageError);
  CHECK_THROWS_AS(export_samples(train, 0, 4, scratch.path("none/a")), DataError);
  CHECK_FALSE(path_exists(scratch.path("a")));
}

}  // namespace
}  // namespace megatron
