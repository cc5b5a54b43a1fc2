#include "train/resume.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/strings.h"
#include "checkpoint/huggingface_config.h"
#include "checkpoint/model_source.h"
#include "config/load.h"
#include "train/model_state.h"

namespace megatron {
namespace {

/// A checkpoint that is to be loaded; `own`: from checkpoint.save, so that this run goes on. Returns its damage, or "".
using LoadCheckpoint = std::function<std::string(const CheckpointReader&, bool own)>;
/// Weights of another program that are to be loaded: a Hugging Face folder or a GGUF file. Throws where they are
/// damaged, because there is nothing older to go back to.
using LoadOuter = std::function<void(const std::string& path)>;
struct Loaders {
  LoadCheckpoint checkpoint;
  LoadOuter outer;
};

/// Looks through the folders of the configuration and loads the first checkpoint that is whole; false when there is
/// none. Loading verifies what it reads, so that beforehand a sample is enough.
bool load_first(const CheckpointConfig& config, bool finetune, const Loaders& load) {
  const auto from = [&](const std::string& root, bool own) {
    return CheckpointReader::open_latest(root, Verify::kSample, nullptr,
                                         [&](const CheckpointReader& reader) { return load.checkpoint(reader, own); })
        .has_value();
  };
  const bool own_first = config.save != config.load;  // ckpt_step is a step of `load`
  if (own_first && from(config.save, true)) return true;
  if (config.load.empty()) {
    if (finetune)
      throw UsageError("checkpoint.load: finetuning starts from the weights of a checkpoint; name its folder");
    return false;
  }
  if (is_outer_model(config.load)) {
    load.outer(config.load);
    return true;
  }
  const bool own = config.load == config.save;
  if (own && finetune) {
    throw UsageError(
        "checkpoint.save is checkpoint.load: finetuning would continue that run or write over it; give another "
        "checkpoint.save or run.dir");
  }
  if (config.ckpt_step) {
    const auto reader = CheckpointReader::open(config.load, *config.ckpt_step, Verify::kSample);
    const std::string damage = load.checkpoint(reader, own);
    if (!damage.empty()) throw DataError(damage);
    return true;
  }
  if (from(config.load, own)) return true;
  const std::string text = str_cat("checkpoint.load: ", config.load, " holds no checkpoint");
  if (finetune) throw DataError(text + " to finetune from; give a folder that holds iter_* folders");
  if (config.exit_on_missing_checkpoint) {
    throw DataError(text + " and exit_on_missing_checkpoint is set; give a folder that holds iter_* folders");
  }
  log_info(text + "; starting from scratch");
  return false;
}

/// Has all ranks load what rank 0 chooses, until a checkpoint is whole for each of them. `load` returns damage that
/// this rank found. Collective.
bool load_on_all_ranks(const Config& config, bool finetune, RankContext& ranks, const Loaders& load) {
  if (ranks.size() == 1) return load_first(config.checkpoint, finetune, load);
  const auto together = [&](const std::string& mine) {
    std::vector<std::string> damages;
    for (std::string& damage : ranks.world().gather(mine)) {
      if (!damage.empty() && std::count(damages.begin(), damages.end(), damage) == 0) damages.push_back(damage);
    }
    return join(damages, "\n  ");
  };
  if (ranks.is_first()) {
    Loaders tell;
    tell.checkpoint = [&](const CheckpointReader& reader, bool own) {
      ranks.from_first((own ? "own " : "other ") + reader.folder());
      return together(load.checkpoint(reader, own));
    };
    tell.outer = [&](const std::string& path) {
      ranks.from_first("outer " + path);
      load.outer(path);
    };
    const bool loaded = load_first(config.checkpoint, finetune, tell);
    if (!loaded) ranks.from_first("");
    return loaded;
  }
  for (;;) {
    const std::string choice = ranks.from_first("");
    if (choice.empty()) return false;
    const size_t space = choice.find(' ');
    if (choice.substr(0, space) == "outer") {
      load.outer(choice.substr(space + 1));
      return true;
    }
    std::optional<CheckpointReader> reader;
    std::string damage;
    try {
      reader = CheckpointReader::open_folder(choice.substr(space + 1), Verify::kSizes);
    } catch (const DataError& error) {
      damage = error.what();
    }
    if (reader) damage = load.checkpoint(*reader, choice.substr(0, space) == "own");
    damage = together(damage);
    if (damage.empty()) return true;
    if (config.checkpoint.ckpt_step && choice.substr(0, space) != "own") throw DataError(damage);
  }
}

/// The configuration of the run that wrote it, whose ranks may have been others.
Config saved_config(const CheckpointReader& reader) {
  LoadOptions options;
  options.check_rules = false;
  return load_config_text(reader.read_text("resolved.yaml"), reader.folder() + "/resolved.yaml", options).config;
}

/// Prints the changed keys; throws when one of them may not change.
void check_changes(const Config& saved, const Config& now, const std::string& folder) {
  std::vector<ConfigChange> changes = resume_diff(saved, now);
  if (changes.empty()) return;
  const bool holds_seed = saved.checkpoint.save_rng && now.checkpoint.load_rng;
  for (ConfigChange& change : changes) {  // the one state that random numbers have
    if (change.key == "run.seed" && !holds_seed) change.kind = ChangeKind::kAllowed;
  }
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
void warn_of_differences(const ModelConfig& stored, const std::string& path, const Config& config) {
  const std::vector<std::string> lines = model_differences(stored, config.model);
  if (lines.empty()) return;
  log_warn(str_cat("the model of ", path, " and section model of this run differ:\n  ", join(lines, "\n  ")));
}

/// The host's state from a checkpoint whose tensors are loaded.
Resumed resumed_from(const CheckpointReader& reader, const Config& saved, const Config& config,
                     const Schedule& configured, bool optimizer) {
  Resumed resumed;
  resumed.progress = read_progress(reader);
  resumed.schedule = choose_schedule(resolve_schedule(saved.optimizer, saved.training), configured,
                                     config.optimizer.override_opt_param_scheduler,
                                     config.optimizer.use_checkpoint_opt_param_scheduler);
  if (!optimizer) resumed.progress.updates = 0;
  log_info(str_cat("resumed from ", reader.folder(), ": iteration ", resumed.progress.iteration, ", ",
                   resumed.progress.consumed_samples, " samples consumed",
                   optimizer ? "" : ", optimizer state not loaded"));
  return resumed;
}

}  // namespace

std::optional<Resumed> resume(const ResumeOptions& options, const Program& program, Store& store,
                              const Schedule& configured) {
  const Config& config = options.config;
  Resumed resumed;
  const auto start_anew = [&](const std::string& path) {
    resumed.weights_only = true;
    resumed.schedule = configured;
    log_info(str_cat("loaded the weights of ", path, "; iteration, optimizer and data start anew"));
  };
  Loaders load;
  load.checkpoint = [&](const CheckpointReader& found, bool own) -> std::string {
    CheckpointReader reader = found;
    reader.set_pool(options.pool);
    // A converted checkpoint comes without progress.
    const bool weights_only = !reader.has_state("iteration") || (options.finetune && !own);
    const bool optimizer = !weights_only && config.checkpoint.load_optim;
    check_tokenizer(reader, options.tokenizer_fingerprint);
    const Config saved = saved_config(reader);
    if (weights_only) {
      warn_of_differences(saved.model, reader.folder(), config);
    } else {
      check_changes(saved, config, reader.folder());
    }
    try {  // that it does not fit is no damage: nothing older is taken
      check_tensors(reader, program, store, optimizer);
    } catch (const DataError& error) {
      if (!optimizer || saved.checkpoint.save_optim) throw;
      throw DataError(str_cat(error.what(),
                              ": it was saved with checkpoint.save_optim: false; set checkpoint.load_optim: "
                              "false to go on with new optimizer state, or checkpoint.finetune: true to "
                              "start from its weights"));
    }
    const auto start = std::chrono::steady_clock::now();
    int64_t bytes = 0;
    try {
      bytes = load_tensors(reader, program, store, optimizer);
    } catch (const DataError& error) {
      return error.what();
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    log_info(str_cat("read and verified ", format_bytes(static_cast<double>(bytes)), " in ",
                     format_duration(took.count()), " (this rank)"));
    resumed = {};
    if (weights_only) {
      start_anew(reader.folder());
    } else {
      resumed = resumed_from(reader, saved, config, configured, optimizer);
    }
    return "";
  };
  load.outer = [&](const std::string& path) {
    const ModelSource source = ModelSource::open(path, {}, "checkpoint.load");
    warn_of_differences(source.config().model, path, config);
    load_weights(source, program, store);
    start_anew(path);
  };
  const bool loaded = load_on_all_ranks(config, options.finetune, options.ranks, load);
  if (!loaded) return std::nullopt;
  return resumed;
}

}  // namespace megatron
