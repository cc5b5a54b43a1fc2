// `megatron convert`: a model from one program's form to another's.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/log.h"
#include "base/strings.h"
#include "checkpoint/convert.h"
#include "cli/commands.h"
#include "inference/compare_models.h"

namespace megatron {
namespace {

struct ConvertCommand {
  std::string from, to, format = "auto", dtype;
  std::optional<int64_t> step;
  bool verify = false;
};

/// Largest error of a value that is still the same model: of sums in another order, or of rounded weights.
constexpr double kExactBound = 1e-5, kRoundedBound = 0.1;

/// Runs both forms on the same tokens; DataError naming the first layer that differs.
void verify_conversion(const ModelSource& source, const ConvertCommand& command) {
  const int64_t length = std::min<int64_t>(32, source.config().model.max_position_embeddings);
  const ModelSource target = ModelSource::open(command.to, std::nullopt, "--to");
  const bool rounded = (!command.dtype.empty() && command.dtype != source.config().precision.params_dtype) ||
                       (source.outer() != nullptr && source.outer()->mixed_types);
  const int64_t ids =
      source.config().model.vocab_size ? *source.config().model.vocab_size : source.tokenizer()->vocab_size();
  const auto tokens = probe_tokens(ids, length);
  const ModelComparison result =
      compare_activations(run_model(source, tokens), run_model(target, tokens), rounded ? kRoundedBound : kExactBound);
  const std::string text = str_cat("logits differ by ", result.logits_error, " of the largest one");
  if (!result.first_difference.empty()) {
    throw DataError(str_cat("--verify: ", command.to, " does not compute what ", source.path(),
                            " does: the first value that differs is ", result.first_difference, "; ", text));
  }
  log_info(str_cat("verified on the CPU in fp32 with ", tokens.size(), " x ", length, " tokens: ", text));
}

void run_convert(const ConvertCommand& command) {
  const ModelSource source = ModelSource::open(command.from, command.step, "--from");
  const ModelFormat format =
      command.format == "auto" ? target_format(source, command.to) : *parse_model_format(command.format);
  log_info(str_cat("converting ", source.path(), " (", source.kind(), ") to ", command.to, " (", name_of(format), ")"));
  convert_model(source, command.to, format, command.dtype);
  if (command.verify) verify_conversion(source, command);
}

}  // namespace

void add_convert_command(CLI::App& app) {
  auto* command = app.add_subcommand(
      "convert", "Turn a model into another program's form: checkpoints of ours, Hugging Face folders, GGUF files.");
  auto c = std::make_shared<ConvertCommand>();
  command
      ->add_option(
          "--from", c->from,
          "Folder of checkpoints (the newest complete one is used), one iter_* folder, a run folder, a Hugging Face "
          "folder, or a GGUF file; which of these it is, is found out")
      ->required();
  command->add_option("--to", c->to, "What to write; it must not exist yet")->required();
  command
      ->add_option(
          "--format", c->format,
          "Form of --to: megatron, huggingface or gguf; auto makes GGUF of a name that ends so, else a Hugging Face "
          "folder of a checkpoint of ours, and a checkpoint of all else")
      ->check(CLI::IsMember({"auto", "megatron", "huggingface", "gguf"}))
      ->capture_default_str();
  command
      ->add_option(
          "--dtype", c->dtype,
          "Element type of the weights: fp32, bf16, fp16 (not in GGUF) or q8_0 (in GGUF alone); not given: as they are")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16", "q8_0"}));
  command->add_option("--ckpt-step", c->step, "Use the checkpoint of this iteration");
  command->add_flag("--verify", c->verify,
                    "Afterwards run both forms on the CPU in fp32 and compare layer by layer; takes memory for all "
                    "weights in fp32");
  command->callback([c] { run_convert(*c); });
}

}  // namespace megatron
