#include "train/trainer.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>

#include "base/check.h"
#include "base/host.h"
#include "base/log.h"
#include "base/strings.h"
#include "config/batch_schedule.h"
#include "data/dataset.h"
#include "device/profile_range.h"
#include "parallel/mesh.h"
#include "train/checkpoint_saver.h"
#include "train/data_setup.h"
#include "train/engine.h"
#include "train/evaluate.h"
#include "train/exit_status.h"
#include "train/metrics_file.h"
#include "train/model_state.h"
#include "train/plan_report.h"
#include "train/progress.h"
#include "train/ranks.h"
#include "train/resume.h"
#include "train/run_folder.h"
#include "train/signals.h"
#include "train/status_line.h"
#include "train/step_pipeline.h"
#include "train/tensorboard.h"
#include "train/version.h"

namespace megatron {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Trainer {
 public:
  Trainer(const LoadedConfig& loaded, const TrainOptions& options, RunFolder& folder, ExitStatus& status, World& world)
      : config_(loaded.config),
        options_(options),
        folder_(folder),
        status_(status),
        ranks_(std::make_shared<RankContext>(loaded.config, world)),
        signals_(folder.exit_status_path(), abort_report(world.rank())) {
    decisions_ = loaded.decisions;
  }

  ExitCode run() {
    ranks_->before_end([this](const Verdict& verdict) { report_end(verdict); });
    try {
      set_up();
      load();
      return loop();
    } catch (const PeerFailure&) {
      throw;
    } catch (const AgreedError&) {
      ranks_->part();
      throw;
    } catch (const std::exception& error) {
      ranks_->fail(error.what());
      throw;
    }
  }

 private:
  static std::string abort_report(int rank) {
    ExitStatus report;
    report.rank = rank;
    report.code = ExitCode::kResumable;
    report.reason = "stopped by a second SIGINT; the newest complete checkpoint is intact";
    return to_json(report);
  }

  /// On the monitor's thread, while the main thread may be anywhere. Of a rank 0 that is to blame, the next one speaks.
  void report_end(const Verdict& verdict) {
    ExitStatus report;
    report.code = ExitCode::kDevice;
    report.rank = ranks_->rank();
    report.host = ranks_->world().info().host;
    report.phase = ranks_->phase();
    report.reason = verdict.text;
    report.culprit = verdict.culprit;
    report.iteration = last_iteration_;
    write_exit_status(folder_.exit_status_path(), report);
    if (verdict.rank == 0 && report.rank == 1) write_exit_status(exit_status_path(config_.run.dir, 0), report);
  }

  void set_up() {
    data_ = open_data(config_);
    data_.batch_options = ranks_->share_sequences(data_.batch_options);
    for (const std::string& note : data_.splits.notes) decisions_.push_back(note);
    schedule_ = resolve_schedule(config_.optimizer, config_.training);
    scaler_ = make_loss_scaler(config_.precision);
    progress_.scaler = initial_state(scaler_);
    total_ = config_.training.train_iters ? *config_.training.train_iters
                                          : steps_within(batch_schedule(config_), *config_.training.train_samples);
    TrainPrograms programs = make_train_programs(config_, data_.vocab_size, ranks_->parallel());
    if (ranks_->is_first()) describe(programs);
    engine_ = std::make_unique<TrainEngine>(config_, std::move(programs), ranks_);
    initialize_parameters(engine_->train_program(), engine_->store(), static_cast<uint64_t>(config_.run.seed),
                          engine_->pool());
    if (ranks_->is_first()) open_sinks();
    open_checkpoints();
  }

  void describe(const TrainPrograms& programs) {
    const std::string plan = describe_plan(config_, programs, decisions_);
    const std::string environment =
        environment_report({{"megatron version", kVersion}, {"ranks", ranks_->world().info().launcher}});
    folder_.describe(to_yaml(config_), plan, environment, options_.arguments);
    log_info("plan of this run (also in " + folder_.path("plan.txt") + ")\n" + plan);
  }

  void open_checkpoints() {
    constexpr int kWriters = 4;  // of one rank: more do not make storage faster
    SaverOptions options;
    options.folder = config_.checkpoint.save;
    options.store.most_recent_k = config_.checkpoint.most_recent_k.value_or(0);
    options.store.save_retain_interval = config_.checkpoint.save_retain_interval.value_or(0);
    options.store.program = kVersion;
    options.store.threads = kWriters;
    options.background = config_.checkpoint.async_save;
    if (options_.checkpoint_ops != nullptr) options.ops = options_.checkpoint_ops;
    checkpoints_ = std::make_unique<CheckpointSaver>(options, *ranks_, engine_->pool());
    checkpoints_->reserve(state_tensors());
  }

  std::vector<TensorSource> state_tensors() {
    return checkpoint_tensors(engine_->train_program(), engine_->store(), config_.checkpoint.save_optim);
  }

  void open_sinks() {
    sinks_.push_back(std::make_unique<JsonLinesSink>(folder_.metrics_path()));
    if (config_.logging.tensorboard) {
      const TensorBoardFile file{
          config_.logging.tensorboard_dir,
          std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count(),
          host_name(), static_cast<int64_t>(getpid())};
      sinks_.push_back(std::make_unique<TensorBoardSink>(file, config_.logging.tensorboard_log_interval));
    }
    StatusLineOptions line;
    line.log_interval = config_.logging.log_interval;
    line.total_iterations = total_;
    line.terminal = stderr_is_terminal();
    sinks_.push_back(std::make_unique<StatusLine>(stderr, line));
  }

  void load() {
    status_.phase = "load";
    ResumeOptions options{config_, options_.finetune || config_.checkpoint.finetune, data_.tokenizer_fingerprint,
                          *ranks_, &engine_->pool()};
    const std::optional<Resumed> resumed = resume(options, engine_->train_program(), engine_->store(), schedule_);
    if (!resumed) return;
    schedule_ = resumed->schedule;
    if (resumed->weights_only) return;
    progress_ = resumed->progress;
    last_iteration_ = progress_.iteration;
    progress_.scaler = restored_state(scaler_, progress_.scaler);
    checkpoints_->set_committed(progress_.iteration);
  }

  ExitCode loop() {
    loader_ = std::make_unique<BatchLoader>(
        data_.splits.train, data_.batch_options,
        data_parallel_share(config_.training.micro_batch_size, ranks_->data_rank(), ranks_->data_size()),
        progress_.consumed_samples,
        narrow<int>(config_.data.num_workers * micro_batches(config_.training.global_batch_size)));
    if (progress_.iteration == 0 || config_.training.skip_train) report_evaluation_only(evaluations());
    steps_ = std::make_unique<StepPipeline>(config_, *engine_, schedule_, scaler_, progress_);
    while (!config_.training.skip_train && steps_->iteration() < total_) {
      status_.phase = "train";
      submit();
      const StopRequest request = stop_after(steps_->iteration());
      const bool resizes = config_.checkpoint.save_interval && steps_->batch_size_changes();
      const bool boundary = request.stop() || resizes || is_boundary(steps_->iteration());
      settle(boundary ? 0 : steps_->depth());
      checkpoints_->poll();
      if (!boundary) continue;
      if (resizes || saves_at(progress_.iteration)) save();
      if (progress_.iteration == total_) break;
      if (!request.stop()) continue;
      save_last();
      status_.reason = request.text();
      log_info(str_cat("stopping after iteration ", progress_.iteration, ": ", request.text(),
                       "; run the same command again to go on"));
      return ExitCode::kResumable;
    }
    save_last();
    return ExitCode::kDone;
  }

  /// Of this rank, in an iteration of so many samples.
  int64_t micro_batches(int64_t batch_size) const {
    return micro_batches_of(config_, ranks_->parallel().mesh(), batch_size);
  }

  /// Gives the next iteration to the device.
  void submit() {
    switch_profiler(steps_->iteration() + 1);
    const double waited = loader_->wait_seconds();
    std::vector<Batch> batches;
    for (int64_t i = micro_batches(steps_->next_batch_size()); i > 0; --i) batches.push_back(loader_->next());
    steps_->submit(std::move(batches), loader_->wait_seconds() - waited);
  }

  /// Starts and ends the recording before `iteration`, with nothing in flight.
  void switch_profiler(int64_t iteration) {
    if (!config_.training.use_nsys_profiler) return;
    const bool starts = iteration == config_.profile.profile_step_start;
    if (!starts && iteration != config_.profile.profile_step_end) return;
    settle(0);
    engine_->device().synchronize();
    starts ? start_profiler() : stop_profiler();
  }

  /// Takes steps until `left` are in flight; evaluations belong to the last of them.
  void settle(size_t left) {
    while (steps_->in_flight() > left) {
      StepMetrics metrics = steps_->settle();
      progress_ = steps_->progress();
      if (!first_step_done_) report_first_step();
      status_.iteration = last_iteration_ = progress_.iteration;
      if (evaluates_at(progress_.iteration)) metrics.evaluations = evaluations();
      if (progress_.iteration == total_) add_final_evaluations(metrics);
      for (const auto& sink : sinks_) sink->write(metrics);
      if (steps_->fatal().empty()) continue;
      checkpoints_->finish();
      throw AgreedError(steps_->fatal());
    }
  }

  void report_first_step() {
    first_step_done_ = true;
    ranks_->first_step_is_done();
    const std::string report = engine_->first_step_report();
    if (!report.empty()) log_info(report);
    log_info(str_cat("the first step was done ", format_duration(seconds_since(start_)), " after the start"));
  }

  /// After this iteration the host looks at the weights: nothing may be in flight.
  bool is_boundary(int64_t iteration) const {
    return iteration == total_ || evaluates_at(iteration) || saves_at(iteration);
  }

  bool saves_at(int64_t iteration) const {
    return config_.checkpoint.save_interval && iteration % *config_.checkpoint.save_interval == 0;
  }

  /// Asked once per iteration: clocks and signals differ between ranks, so the most important request becomes that of
  /// all.
  StopRequest stop_after(int64_t iteration) const {
    StopRequest request = stop_request({config_.run.exit_interval, config_.run.exit_duration_in_mins}, iteration,
                                       seconds_since(start_), signals_.received());
    if (ranks_->size() == 1) return request;
    const std::string mine = str_cat(static_cast<int>(request.reason), " ", request.signal);
    for (const std::string& text : ranks_->world().gather(mine)) {
      const auto reason = static_cast<StopReason>(std::stoi(text));
      if (reason > request.reason) request = {reason, std::stoi(text.substr(text.find(' ')))};
    }
    return request;
  }

  bool evaluates_at(int64_t iteration) const {
    const auto& t = config_.training;
    return t.eval_interval && iteration % *t.eval_interval == 0 && iteration >= t.start_eval_at_iter.value_or(0) &&
           iteration != total_;
  }

  double run_evaluation(const DatasetPtr& set, bool whole) {
    const int64_t samples =
        whole ? set->samples_per_epoch() : config_.training.eval_iters * config_.training.global_batch_size;
    return evaluate(*engine_, set, data_.batch_options, samples);
  }

  std::vector<Evaluation> evaluations() {
    status_.phase = "evaluate";
    const bool wanted = config_.training.eval_iters > 0 || config_.training.full_validation;
    if (!wanted || !data_.splits.valid) return {};
    return {
        Evaluation{"valid", "", {{"lm_loss", run_evaluation(data_.splits.valid, config_.training.full_validation)}}}};
  }

  void add_final_evaluations(StepMetrics& metrics) {
    for (Evaluation& e : evaluations()) metrics.evaluations.push_back(std::move(e));
    if (data_.splits.test && config_.training.eval_iters > 0) {
      metrics.evaluations.push_back({"test", "", {{"lm_loss", run_evaluation(data_.splits.test, false)}}});
    }
  }

  void report_evaluation_only(std::vector<Evaluation> found) {
    if (found.empty()) return;
    StepMetrics m;
    m.iteration = progress_.iteration;
    m.consumed_samples = progress_.consumed_samples;
    m.consumed_tokens = progress_.consumed_tokens;
    m.trained = false;
    m.evaluations = std::move(found);
    for (const auto& sink : sinks_) sink->write(m);
  }

  void save() {
    const int64_t iteration = progress_.iteration;
    if (checkpoints_->committed() == iteration || checkpoints_->under_way() == iteration) return;
    status_.phase = "save";
    ranks_->at("save");
    CheckpointContent content;
    content.iteration = iteration;
    content.tokenizer = data_.tokenizer_fingerprint;
    content.state = to_state(progress_);
    engine_->complete_parameters();
    content.tensors = state_tensors();
    content.texts = data_.tokenizer_files;
    content.texts["resolved.yaml"] = to_yaml(config_);
    checkpoints_->save(content);
    engine_->hold_update(checkpoints_->snapshot_taken());
  }

  /// Before the run ends; what cannot be saved now is an error, even where an earlier try of this iteration failed.
  void save_last() {
    checkpoints_->finish();
    save();
    checkpoints_->finish();
    if (checkpoints_->committed() != progress_.iteration) throw AgreedError(checkpoints_->failure());
  }

  const Config& config_;
  const TrainOptions& options_;
  RunFolder& folder_;
  ExitStatus& status_;
  std::shared_ptr<RankContext> ranks_;
  SignalGuard signals_;
  Clock::time_point start_ = Clock::now();
  std::vector<std::string> decisions_;
  RunData data_;
  Schedule schedule_;
  LossScaler scaler_;
  Progress progress_;
  int64_t total_ = 0;
  std::atomic<int64_t> last_iteration_ = 0;  ///< of progress_
  bool first_step_done_ = false;
  std::unique_ptr<TrainEngine> engine_;
  std::unique_ptr<CheckpointSaver> checkpoints_;  // gone before the engine, whose state it may be writing
  std::unique_ptr<BatchLoader> loader_;
  std::unique_ptr<StepPipeline> steps_;
  std::vector<std::unique_ptr<MetricsSink>> sinks_;
};

LogLevel parse_log_level(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warning") return LogLevel::kWarn;
  return name == "error" ? LogLevel::kError : LogLevel::kInfo;
}

}  // namespace

ExitCode run_training(const LoadedConfig& loaded, const TrainOptions& options) {
  const std::unique_ptr<World> alone = make_single_world();
  return run_training(loaded, options, *alone);
}

ExitCode run_training(const LoadedConfig& loaded, const TrainOptions& options, World& world) {
  std::optional<RunFolder> folder;  // of rank 0 first, which learns whether another run is in it
  if (world.rank() == 0) folder.emplace(loaded.config.run.dir, 0);
  world.barrier();
  if (!folder) folder.emplace(loaded.config.run.dir, world.rank());
  ExitStatus status;
  status.rank = world.rank();
  status.host = host_name();
  status.phase = "setup";
  set_log_level(world.rank() == 0 ? parse_log_level(loaded.config.logging.log_level) : LogLevel::kError);
  try {
    status.code = Trainer(loaded, options, *folder, status, world).run();
    if (status.code == ExitCode::kDone) status.reason = "all iterations are done";
    write_exit_status(folder->exit_status_path(), status);
    world.barrier();  // launchers end all ranks when one has ended with another code than 0
    return status.code;
  } catch (const std::exception& error) {
    const ExitStatus failed = status_of(error);
    status.code = failed.code;
    status.reason = failed.reason;
    status.culprit = failed.culprit;
    write_exit_status(folder->exit_status_path(), status);
    throw;
  }
}

}  // namespace megatron
