// `megatron generate`: text from a checkpoint.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <memory>

#include "base/error.h"
#include "base/log.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "comm/launch.h"
#include "comm/mesh_comms.h"
#include "comm/start_check.h"
#include "inference/generator.h"
#include "parallel/mesh.h"
#include "parallel/rank_device.h"

namespace megatron {
namespace {

struct GenerateCommand {
  std::string load, prompts_file, device = "auto";
  std::vector<std::string> prompts;
  std::optional<int64_t> step, tensor_ranks;
  int64_t stages = 1, threads = 0;
  bool greedy = false, no_echo = false;
  GenerateOptions options;
};

/// One prompt a line; empty lines are left out.
std::vector<std::string> read_prompts(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw DataError("--prompts " + path + ": cannot read the file");
  std::vector<std::string> prompts;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty()) prompts.push_back(line);
  }
  if (prompts.empty()) throw DataError("--prompts " + path + ": holds no prompt; write one a line");
  return prompts;
}

/// The mesh of the ranks that were started: all of them share the model.
ParallelConfig sizes_of(const GenerateCommand& command, int ranks) {
  constexpr const char* kTensor = "--tensor-model-parallel-size ";
  constexpr const char* kStages = "--pipeline-model-parallel-size ";
  const auto count = [](int64_t n) { return str_cat(n, n == 1 ? " rank" : " ranks"); };
  const std::string started = str_cat(count(ranks), ranks == 1 ? " was" : " were", " started");
  ParallelConfig parallel;
  parallel.pipeline_model_parallel_size = command.stages;
  if (command.stages < 1) throw UsageError(str_cat(kStages, command.stages, ": give 1 or more"));
  if (!command.tensor_ranks) {
    parallel.tensor_model_parallel_size = ranks / command.stages;
    if (ranks % command.stages == 0) return parallel;
    throw UsageError(str_cat(kStages, command.stages, ": ", started, "; start a multiple of ", command.stages,
                             " (mpirun -n ", command.stages, ")"));
  }
  const int64_t tensor = *command.tensor_ranks, wanted = tensor * command.stages;
  if (tensor < 1) throw UsageError(str_cat(kTensor, tensor, ": give 1 or more"));
  if (wanted != ranks) {
    throw UsageError(str_cat(kTensor, tensor, " and ", kStages, command.stages, " are ", count(wanted), ", but ",
                             started, "; start ", wanted, " (mpirun -n ", wanted, ") or change the sizes"));
  }
  parallel.tensor_model_parallel_size = tensor;
  return parallel;
}

/// This rank's place among those that share the model.
InferenceWorld join_ranks(World& world, const ParallelConfig& parallel, RunConfig& run, MeshComms& comms) {
  compare_start(world, {{"build", build_identity()},
                        {"ranks", str_cat("tensor ", parallel.tensor_model_parallel_size, ", pipeline ",
                                          parallel.pipeline_model_parallel_size)}});
  run.cpu_threads = cpu_threads(run, world.info().local_size);
  const Mesh mesh = make_mesh(parallel, world.size(), world.rank());
  std::shared_ptr<Device> device = make_device(run, world);
  comms = make_mesh_comms(world, mesh, *device);
  return {ParallelContext(mesh, false), comms.axes(mesh), std::move(device)};
}

/// What one of the ranks does.
void generate_as_rank(const GenerateCommand& command, const std::vector<std::string>& texts, World& world) {
  RunConfig run;
  run.device = command.device;
  run.cpu_threads = command.threads;
  const bool speaks = world.rank() == 0;
  if (!speaks) set_log_level(LogLevel::kWarn);
  InferenceWorld place;  // holds the device, which must outlive the communicators
  MeshComms comms;
  place = join_ranks(world, sizes_of(command, world.size()), run, comms);
  InferenceModel model(command.load, command.step, run, place);
  log_info("model of " + model.folder());
  std::vector<std::vector<TokenId>> prompts;
  for (const std::string& text : texts) prompts.push_back(model.encode_prompt(text));
  // A single prompt streams; several would mix, so each is printed whole.
  const bool streams = prompts.size() == 1;
  if (speaks && streams && !command.no_echo) std::printf("%s", texts[0].c_str());
  const TextSink sink = [&](int64_t, const std::string& text) {
    if (!streams || !speaks) return;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  GenerateStats stats;
  const std::vector<Generation> results = generate(model, prompts, command.options, sink, &stats);
  if (!speaks) return;
  if (streams) std::printf("\n");
  for (size_t i = 0; i < results.size() && !streams; ++i) {
    std::printf("=== %zu\n%s%s\n", i + 1, command.no_echo ? "" : texts[i].c_str(), results[i].text.c_str());
  }
  const double decoded = static_cast<double>(stats.generated_tokens);
  log_info(str_cat(stats.prompt_tokens, " prompt tokens in ", format_duration(stats.prefill_seconds), ", ",
                   stats.generated_tokens, " new tokens in ", format_duration(stats.decode_seconds), " (",
                   static_cast<int64_t>(decoded / std::max(1e-9, stats.decode_seconds)), " tokens/s)"));
}

void run_generate(GenerateCommand& command) {
  std::vector<std::string> texts = command.prompts;
  if (!command.prompts_file.empty()) texts = read_prompts(command.prompts_file);
  if (texts.empty()) throw UsageError("there is no prompt; give --prompt TEXT or --prompts FILE");
  if (command.greedy) command.options.sampling.temperature = 0;
  check(command.options.sampling);
  const std::unique_ptr<World> world = join_world(detect_launch(process_environment()));
  run_as_rank(*world, [&] { generate_as_rank(command, texts, *world); });
}

}  // namespace

void add_generate_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("generate", "Generate text from a checkpoint; started by mpirun, the ranks share the model");
  auto g = std::make_shared<GenerateCommand>();
  command
      ->add_option(
          "--load", g->load,
          "Folder of checkpoints (the newest complete one is used), one iter_* folder, a run folder, a Hugging Face "
          "folder, or a GGUF file")
      ->required();
  command->add_option("--ckpt-step", g->step, "Use the checkpoint of this iteration");
  auto* prompt = command->add_option("--prompt", g->prompts, "Text to go on from; may be given several times");
  auto* file = command->add_option("--prompts", g->prompts_file, "File with one prompt a line, generated as one batch");
  prompt->excludes(file);
  command->add_option("--num-tokens-to-generate", g->options.num_tokens_to_generate, "Most new tokens per prompt")
      ->capture_default_str();
  command
      ->add_option("--temperature", g->options.sampling.temperature,
                   "Divides the logits; 0 always takes the most likely token")
      ->capture_default_str();
  command->add_option("--top-k", g->options.sampling.top_k, "Draw from the k most likely tokens; 0: all")
      ->capture_default_str();
  command
      ->add_option("--top-p", g->options.sampling.top_p,
                   "Draw from the most likely tokens that reach this probability; 0: all")
      ->capture_default_str();
  command
      ->add_option("--repetition-penalty", g->options.sampling.repetition_penalty,
                   "Makes tokens seen before less likely; 1: off")
      ->capture_default_str();
  command->add_option("--seed", g->options.sampling.seed, "Of the draws")->capture_default_str();
  command->add_option("--stop", g->options.stop, "End before this text; may be given several times");
  command->add_flag("--greedy", g->greedy, "The same as --temperature 0");
  command->add_flag("--ignore-eod", g->options.ignore_eod, "Go on after an end-of-document token");
  command->add_flag("--no-echo", g->no_echo, "Print only the new text");
  command->add_option("--tensor-model-parallel-size", g->tensor_ranks,
                      "Ranks that share each layer; not given: what the pipeline stages leave of the ranks");
  command
      ->add_option("--pipeline-model-parallel-size", g->stages,
                   "Stages among which the layers are divided, up to one each")
      ->capture_default_str();
  command->add_option("--device", g->device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--cpu-threads", g->threads, "Host threads; 0: all cores")->capture_default_str();
  command->callback([g] { run_generate(*g); });
}

}  // namespace megatron
