#include "train/resume.h"

#include "base/error.h"
#include "base/log.h"
#include "base/strings.h"
#include "checkpoint/huggingface_config.h"
#include "checkpoint/model_source.h"
#include "config/load.h"
#include "train/model_state.h"

namespace megatron {
namespace {

struct Source {
  ModelSource model;
  bool own = false;  ///< from checkpoint.save: this run goes on
};

std::optional<Source> find_checkpoint(const CheckpointConfig& config, bool finetune) {
  const bool own_first = config.save != config.load;  // ckpt_step is a step of `load`
  if (own_first) {
    if (auto reader = CheckpointReader::open_latest(config.save)) return Source{ModelSource(std::move(*reader)), true};
  }
  if (config.load.empty()) {
    if (finetune)
      throw UsageError("checkpoint.load: finetuning starts from the weights of a checkpoint; name its folder");
    return std::nullopt;
  }
  if (is_outer_model(config.load))
    return Source{ModelSource::open(config.load, config.ckpt_step, "checkpoint.load"), false};
  const bool own = config.load == config.save;
  if (own && finetune) {
    throw UsageError(
        "checkpoint.save is checkpoint.load: finetuning would continue that run or write over it; give another "
        "checkpoint.save or run.dir");
  }
  if (config.ckpt_step) return Source{ModelSource(CheckpointReader::open(config.load, *config.ckpt_step)), own};
  if (auto reader = CheckpointReader::open_latest(config.load)) return Source{ModelSource(std::move(*reader)), own};
  const std::string text = str_cat("checkpoint.load: ", config.load, " holds no checkpoint");
  if (finetune) throw DataError(text + " to finetune from; give a folder that holds iter_* folders");
  if (config.exit_on_missing_checkpoint) {
    throw DataError(text + " and exit_on_missing_checkpoint is set; give a folder that holds iter_* folders");
  }
  log_info(text + "; starting from scratch");
  return std::nullopt;
}

/// The checkpoint that rank 0 has found, on all ranks; what they read of it is verified as it is read.
std::optional<Source> choose_checkpoint(const Config& config, bool finetune, RankContext& ranks) {
  std::optional<Source> source;
  if (ranks.is_first()) source = find_checkpoint(config.checkpoint, finetune);
  if (ranks.size() == 1) return source;
  const std::string choice = ranks.from_first(source ? (source->own ? "own " : "other ") + source->model.path() : "");
  if (ranks.is_first() || choice.empty()) return source;
  const size_t space = choice.find(' ');
  const std::string path = choice.substr(space + 1);
  const bool own = choice.substr(0, space) == "own";
  if (is_outer_model(path)) return Source{ModelSource::open(path, {}, "checkpoint.load"), own};
  return Source{ModelSource(CheckpointReader::open_folder(path, Verify::kSizes)), own};
}

/// Prints the changed keys; throws when one of them may not change.
void check_changes(const Config& saved, const Config& now, const std::string& folder) {
  const std::vector<ConfigChange> changes = resume_diff(saved, now);
  if (changes.empty()) return;
  const std::string text = format_changes(changes);
  for (const ConfigChange& change : changes) {
    if (change.kind == ChangeKind::kRefused) {
      throw UsageError(str_cat("cannot resume from ", folder, " with these settings:\n", text,
                               "\nset the refused keys back, use another run.dir, or start from the weights alone with "
                               "checkpoint.finetune: true"));
    }
  }
  log_info("settings that changed since " + folder + ":\n" + text);
}

void check_tokenizer(const CheckpointReader& reader, const std::string& fingerprint) {
  const std::string& tokenizer = reader.manifest().tokenizer;
  if (tokenizer.empty() || tokenizer == fingerprint) return;
  throw DataError(str_cat(
      reader.folder(), "/manifest.json: the checkpoint was trained with another tokenizer (fingerprint ", tokenizer,
      ", the configured one has ", fingerprint, "); set data.tokenizer_model to the one it was trained with"));
}

/// Other settings than those that the weights were made for are possible, but seldom meant.
void warn_of_differences(const ModelSource& source, const Config& config) {
  const std::vector<std::string> lines = model_differences(source.config().model, config.model);
  if (lines.empty()) return;
  log_warn(str_cat("the model of ", source.path(), " and section model of this run differ:\n  ", join(lines, "\n  ")));
}

}  // namespace

std::optional<Resumed> resume(const ResumeOptions& options, const Program& program, Store& store,
                              const Schedule& configured) {
  const Config& config = options.config;
  const std::optional<Source> source = choose_checkpoint(config, options.finetune, options.ranks);
  if (!source) return std::nullopt;
  const ModelSource& model = source->model;
  const CheckpointReader* reader = model.checkpoint();
  // Weights that were converted, or are another program's, come without progress.
  const bool trained = reader != nullptr && reader->has_state("iteration");
  const bool weights_only = !trained || (options.finetune && !source->own);
  if (reader != nullptr) check_tokenizer(*reader, options.tokenizer_fingerprint);
  if (weights_only) {
    warn_of_differences(model, config);
  } else {
    check_changes(model.config(), config, model.path());
  }
  const bool optimizer = !weights_only && config.checkpoint.load_optim;
  load_tensors(model, program, store, optimizer);
  Resumed resumed;
  resumed.schedule = configured;
  resumed.weights_only = weights_only;
  if (weights_only) {
    log_info(str_cat("loaded the weights of ", model.path(), "; iteration, optimizer and data start anew"));
    return resumed;
  }
  resumed.progress = read_progress(*reader);
  resumed.schedule = choose_schedule(resolve_schedule(model.config().optimizer, model.config().training), configured,
                                     config.optimizer.override_opt_param_scheduler,
                                     config.optimizer.use_checkpoint_opt_param_scheduler);
  if (!optimizer) resumed.progress.updates = 0;
  log_info(str_cat("resumed from ", model.path(), ": iteration ", resumed.progress.iteration, ", ",
                   resumed.progress.consumed_samples, " samples consumed",
                   optimizer ? "" : ", optimizer state not loaded"));
  return resumed;
}

}  // namespace megatron
