// Generation with a model spread over tensor ranks and pipeline stages says what one rank says.
#include "base/log.h"
#include "base/strings.h"
#include "comm/launch.h"
#include "inference/generator.h"
#include "nn/language_model.h"
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
std::vector<std::vector<TokenId>> generate_on(const std::string& folder, const AxisSizes& sizes, double temperature) {
  set_log_level(LogLevel::kError);
  GenerateOptions options;
  options.num_tokens_to_generate = 12;
  options.sampling.temperature = temperature;
  options.sampling.seed = 4;
  options.ignore_eod = true;
  const tiny::Ranks ranks(sizes);
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

/// kTinyModel of 400 positions, with these keys in place of its own, or beside them.
std::string tiny_model(const std::map<std::string, std::string>& keys) {
  std::string text = kTinyModel + std::string(", seq_length: 400, max_position_embeddings: 400");
  for (const auto& [key, value] : keys) {
    const size_t at = text.find(key + ": ");
    if (at == std::string::npos) {
      text += str_cat(", ", key, ": ", value);
    } else {
      text.replace(at, text.find(',', at) - at, str_cat(key, ": ", value));
    }
  }
  return text;
}

std::map<std::string, std::string> tied_gpt(int layers) {
  return {{"num_layers", std::to_string(layers)},
          {"vocab_size", "131"},
          {"untie_embeddings_and_output_weights", "false"},
          {"position_embedding_type", "learned_absolute"},
          {"normalization", "LayerNorm"},
          {"swiglu", "false"},
          {"add_bias_linear", "true"}};
}

/// `variety`: more different tokens than that where the most likely one is taken, lest a model that says one thing
/// prove nothing.
void check_generation(const std::string& model, const std::string& dtype, const std::vector<AxisSizes>& meshes,
                      size_t variety = 4) {
  const TempFolder folder;
  write_checkpoint(folder.path(), model, "tokenizer_type: NullTokenizer", dtype, random_weight);
  for (double temperature : {0.0, 0.8}) {
    const auto one = generate_on(folder.path(), {}, temperature);
    std::set<TokenId> different;
    for (const auto& tokens : one) {
      CHECK(tokens.size() == 12);
      different.insert(tokens.begin(), tokens.end());
    }
    CHECK(different.size() > (temperature > 0 ? 4 : variety));
    for (const AxisSizes& sizes : meshes) {
      INFO(model << " " << dtype << " " << name_of(sizes, false) << " temperature " << temperature);
      CHECK(generate_on(folder.path(), sizes, temperature) == one);
    }
  }
}

}  // namespace

TEST_CASE("generation on tensor ranks equals one rank token by token") {
  const std::vector<AxisSizes> meshes = {{{"tp", 2}}, {{"tp", 3}}, {{"tp", 4}}};
  for (const char* dtype : {"fp64", "fp32"}) {
    check_generation(tiny_model({{"vocab_size", "10"}}), dtype,
                     meshes);  // two key-value groups: fewer than three and four ranks
    check_generation(
        tiny_model(
            {{"vocab_size", "131"}, {"window_size", "[7, 0]"}, {"qk_layernorm", "true"}, {"add_qkv_bias", "true"}}),
        dtype, meshes);
  }
}

TEST_CASE("generation on pipeline stages equals one rank token by token, tables tied or not, stages even or not") {
  const std::vector<AxisSizes> meshes = {{{"pp", 2}}, {{"pp", 3}}, {{"pp", 4}}, {{"tp", 2}, {"pp", 2}}};
  for (const char* dtype : {"fp64", "fp32"}) {
    check_generation(tiny_model({{"vocab_size", "131"}, {"num_layers", "4"}}), dtype, meshes, 2);
    check_generation(tiny_model(tied_gpt(5)), dtype, meshes, 2);
  }
}

TEST_CASE("a pipeline stage of generation holds its layers, and tables where they are used") {
  const TempFolder folder;
  write_checkpoint(folder.path(), tiny_model(tied_gpt(5)), "tokenizer_type: NullTokenizer", "fp32", random_weight);
  const tiny::Ranks ranks({{"pp", 3}});
  RunConfig run;
  run.device = "cpu";
  std::map<std::string, int> holders;
  for (size_t r = 0; r < ranks.size(); ++r) {
    const InferenceModel model(folder.path(), std::nullopt, run,
                               {ParallelContext(ranks.mesh(r), false), ranks.comms(r), nullptr});
    Program program;
    Trace t(program);
    trace_generation(t, model.spec(), model.world().parallel.within_stage(), {1, 1, 64, model.part()});
    for (const ParameterInfo& p : program.parameters) ++holders[program.value(p.value).name];
    const int64_t layers[] = {2, 2, 1};
    CHECK(model.part().layers == layers[r]);
    CHECK(program.by_name.count(inputs::kTokens) == (r == 0 ? 1 : 0));
    CHECK(program.by_name.count(inputs::kLast) == (r == 2 ? 1 : 0));
  }
  CHECK(holders.size() == 5 * 12 + 4);
  for (const auto& [name, ranks_with_it] : holders) {
    INFO(name);
    CHECK(ranks_with_it == (name == "embedding.word_embeddings.weight" ? 2 : 1));
  }
}

TEST_CASE("generation on pipeline stages: what cannot go on ends on all of them alike") {
  const TempFolder folder;
  const auto broken = [](const std::string& name, int64_t index, int64_t row) {
    return name == "decoder.final_layernorm.weight" ? INFINITY : random_weight(name, index, row);
  };
  write_checkpoint(folder.path(), tiny_model({{"vocab_size", "10"}}), "tokenizer_type: NullTokenizer", "fp32", broken);
  for (const AxisSizes& sizes : std::vector<AxisSizes>{{{"pp", 2}}, {{"tp", 2}, {"pp", 2}}}) {
    const tiny::Ranks ranks(sizes);
    std::vector<std::string> errors(ranks.size());
    on_ranks(ranks.size(), [&](size_t r) {
      RunConfig run;
      run.device = "cpu";
      run.cpu_threads = 1;
      InferenceModel model(folder.path(), std::nullopt, run,
                           {ParallelContext(ranks.mesh(r), false), ranks.comms(r), nullptr});
      try {
        generate(
            model, {{1, 2, 3}}, {}, [](int64_t, const std::string&) {}, nullptr);
      } catch (const DataError& error) {
        errors[r] = error.what();
      }
    });
    for (const std::string& error : errors) CHECK(error == kLogitsNotFinite);
  }
  RunConfig run;
  run.device = "cpu";
  const tiny::Ranks three({{"pp", 3}});
  CHECK_THROWS_WITH(InferenceModel(folder.path(), std::nullopt, run,
                                   {ParallelContext(three.mesh(0), false), three.comms(0), nullptr}),
                    Catch::Matchers::ContainsSubstring("--pipeline-model-parallel-size 3: the model has 2 layers"));
}

TEST_CASE("megatron generate under mpirun prints what one rank prints") {
  if (!has_mpi() || !tiny::have_mpirun()) {
    WARN("no MPI in this build, or no mpirun: not tested");
    return;
  }
  const TempFolder folder;
  write_checkpoint(folder.path(), tiny_model({{"num_layers", "4"}, {"vocab_size", "40"}}),
                   "tokenizer_type: NullTokenizer", "fp32", random_weight);
  const std::string command =
      str_cat(MEGATRON_BINARY, " generate --load ", folder.path(),
              " --prompt '3 1 4 1 5' --num-tokens-to-generate 20 --greedy --ignore-eod --device cpu --cpu-threads 1");
  const tiny::JobResult one = tiny::run_shell(command + " 2>/dev/null");
  INFO(one.output);
  REQUIRE(one.code == 0);
  CHECK(one.output.size() > 40);
  const std::vector<std::pair<int, std::string>> jobs = {
      {3, ""},
      {4, " --pipeline-model-parallel-size 4"},
      {4, " --pipeline-model-parallel-size 2"},
      {4, " --tensor-model-parallel-size 2 --pipeline-model-parallel-size 2"}};
  for (const auto& [ranks, sizes] : jobs) {
    INFO(ranks << " ranks" << sizes);
    const tiny::JobResult many = tiny::run_mpirun(ranks, command + sizes + " 2>/dev/null");
    CHECK(many.code == 0);
    CHECK(many.output == one.output);
  }
  const std::vector<std::tuple<int, std::string, std::string>> impossible = {
      {2, " --pipeline-model-parallel-size 3", "3: 2 ranks were started; start a multiple of 3 (mpirun -n 3)"},
      {2, " --tensor-model-parallel-size 2 --pipeline-model-parallel-size 2",
       "are 4 ranks, but 2 ranks were started; start 4 (mpirun -n 4)"},
      {2, " --tensor-model-parallel-size 1", "are 1 rank, but 2 ranks were started"},
      {5, " --pipeline-model-parallel-size 5", "5: the model has 4 layers, and every stage needs one; give 4 or less"}};
  for (const auto& [ranks, sizes, error] : impossible) {
    const tiny::JobResult refused = tiny::run_mpirun(ranks, command + sizes);
    INFO(refused.output);
    CHECK(refused.code != 0);
    CHECK(refused.count(error) == 1);  // one rank speaks
  }
}

}  // namespace megatron::testing
