// Generation with a model spread over tensor ranks says what one rank says.
#include "base/log.h"
#include "base/strings.h"
#include "comm/launch.h"
#include "inference/generator.h"
#include "tests/catch.h"
#include "tests/comm/jobs.h"
#include "tests/inference/tiny_model.h"
#include "tests/parallel/mesh_run.h"

namespace megatron::testing {
namespace {

std::vector<std::vector<TokenId>> prompts() {
  std::vector<std::vector<TokenId>> all;
  for (int64_t size : {5, 140, 1, 31}) {  // longer than a chunk of the prefill, and short
    all.emplace_back();
    for (int64_t i = 0; i < size; ++i) all.back().push_back(static_cast<TokenId>((i * i + 3 * i + size) % 9));
  }
  return all;
}

/// Tokens of every prompt, as rank 0 has them; all ranks must agree.
std::vector<std::vector<TokenId>> generate_on(const std::string& folder, int tp, double temperature) {
  set_log_level(LogLevel::kError);
  GenerateOptions options;
  options.num_tokens_to_generate = 12;
  options.sampling.temperature = temperature;
  options.sampling.seed = 4;
  options.ignore_eod = true;
  const tiny::Ranks ranks({{"tp", tp}});
  std::vector<std::vector<std::vector<TokenId>>> tokens(ranks.size());
  on_ranks(ranks.size(), [&](size_t r) {
    RunConfig run;
    run.device = "cpu";
    run.cpu_threads = 1;
    InferenceModel model(folder, std::nullopt, run, {ParallelContext(ranks.mesh(r), false), ranks.comms(r), nullptr});
    for (const Generation& g : generate(
             model, prompts(), options, [](int64_t, const std::string&) {}, nullptr))
      tokens[r].push_back(g.tokens);
  });
  for (const auto& other : tokens) REQUIRE(other == tokens[0]);
  return tokens[0];
}

void check_generation(const std::string& more, const std::string& dtype) {
  const TempFolder folder;
  write_checkpoint(folder.path(), kTinyModel + std::string(", seq_length: 400, max_position_embeddings: 400") + more,
                   "tokenizer_type: NullTokenizer", dtype, random_weight);
  for (double temperature : {0.0, 0.8}) {
    const auto one = generate_on(folder.path(), 1, temperature);
    std::set<TokenId> different;
    for (const auto& tokens : one) {
      CHECK(tokens.size() == 12);
      different.insert(tokens.begin(), tokens.end());
    }
    CHECK(different.size() > 4);  // a model that says one thing would prove nothing
    for (int tp : {2, 3, 4}) {
      INFO(more << " " << dtype << " tp" << tp << " temperature " << temperature);
      CHECK(generate_on(folder.path(), tp, temperature) == one);
    }
  }
}

}  // namespace

TEST_CASE("generation on tensor ranks equals one rank token by token") {
  for (const char* dtype : {"fp64", "fp32"}) {
    check_generation(", vocab_size: 10", dtype);  // two key-value groups: fewer than three and four ranks
    check_generation(", vocab_size: 131, window_size: [7, 0], qk_layernorm: true, add_qkv_bias: true", dtype);
  }
}

TEST_CASE("megatron generate under mpirun prints what one rank prints") {
  if (!has_mpi() || !tiny::have_mpirun()) {
    WARN("no MPI in this build, or no mpirun: not tested");
    return;
  }
  const TempFolder folder;
  write_checkpoint(folder.path(),
                   kTinyModel + std::string(", vocab_size: 40, seq_length: 64, max_position_embeddings: 64"),
                   "tokenizer_type: NullTokenizer", "fp32", random_weight);
  const std::string command =
      str_cat(MEGATRON_BINARY, " generate --load ", folder.path(),
              " --prompt '3 1 4 1 5' --num-tokens-to-generate 20 --greedy --ignore-eod --device cpu --cpu-threads 1");
  const tiny::JobResult one = tiny::run_shell(command + " 2>/dev/null");
  INFO(one.output);
  REQUIRE(one.code == 0);
  CHECK(one.output.size() > 40);
  for (int ranks : {2, 3}) {
    const tiny::JobResult many = tiny::run_mpirun(ranks, command + " 2>/dev/null");
    CHECK(many.code == 0);
    CHECK(many.output == one.output);
  }
}

}  // namespace megatron::testing
