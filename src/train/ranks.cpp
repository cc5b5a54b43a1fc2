#include "train/ranks.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

#include "base/check.h"
#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "parallel/mesh.h"
#include "parallel/rank_device.h"
#include "train/programs.h"

namespace megatron {
namespace {

constexpr double kFirstStepFactor = 3;  ///< the first step loads, measures algorithms and meets the other ranks
/// Waits on the host give up by themselves this much later than the monitor, which knows who is to blame.
constexpr double kMargin = 10;

}  // namespace

RankContext::RankContext(const Config& config)
    : own_(make_single_world()),
      world_(own_.get()),
      timeout_seconds_(config.parallel.distributed_timeout_minutes * 60),
      device_(make_device(config.run)) {}

RankContext::RankContext(const Config& config, World& world, Traffic traffic)
    : world_(&world),
      timeout_seconds_(config.parallel.distributed_timeout_minutes * 60),
      parallel_(make_parallel_context(config, world.size(), world.rank())),
      device_(world.size() == 1 ? make_device(config.run) : make_device(config.run, world)) {
  if (world.size() == 1) return;
  const std::string bound =
      binding_warning(config.run, world.info().local_size, usable_processors(), online_processors());
  if (is_first() && !bound.empty()) log_warn(bound);
  recorder_ = std::make_shared<FlightRecorder>();
  own_ = make_recorded_world(world, recorder_);
  world_ = own_.get();
  if (!world.is_one_process()) {
    monitor_ = std::make_unique<Monitor>(*world_, recorder_, kFirstStepFactor * timeout_seconds_,
                                         [this](const Verdict& verdict) { end(verdict); });
  }
  set_timeout(kFirstStepFactor * timeout_seconds_);
  comms_ = make_mesh_comms(*world_, parallel_.mesh(), *device_, recorder_, traffic);
}

void RankContext::set_timeout(double seconds) {
  world_->set_timeout(monitor_ ? seconds + kMargin : seconds);
  if (monitor_) monitor_->set_seconds(seconds);
}

void RankContext::first_step_is_done() {
  set_timeout(timeout_seconds_);
}

void RankContext::before_end(std::function<void(const Verdict&)> report) {
  const std::lock_guard lock(report_mutex_);
  report_ = std::move(report);
}

void RankContext::fail(const std::string& reason) {
  if (monitor_) monitor_->fail(reason);
}

/// On the monitor's thread. One rank speaks: the first that is not to blame.
void RankContext::end(const Verdict& verdict) {
  if (verdict.failed)
    std::this_thread::sleep_for(std::chrono::seconds(1));  // most ranks hear of it and end by themselves
  if (rank() == (verdict.rank == 0 ? 1 : 0)) {
    std::fprintf(stderr, "error: %s\n", verdict.text.c_str());
    std::fflush(stderr);
  }
  const std::lock_guard lock(report_mutex_);
  if (report_) report_(verdict);
  _exit(static_cast<int>(ExitCode::kDevice));  // the main thread may hang, so nothing can be unwound
}

int64_t RankContext::data_rank() const {
  return data_parallel_rank(parallel_.mesh());
}

int64_t RankContext::data_size() const {
  return data_parallel_size(parallel_.mesh());
}

BatchOptions RankContext::share_sequences(BatchOptions options) const {
  options.context_rank = parallel_.context_rank();
  options.context_ranks = parallel_.context_size();
  return options;
}

std::vector<double> RankContext::sum_over_data(const std::vector<double>& values) {
  return sum_over({std::begin(kDataAxes), std::end(kDataAxes)}, values);
}

std::vector<double> RankContext::sum_over_tokens(const std::vector<double>& values) {
  std::vector<std::string> axes(std::begin(kDataAxes), std::end(kDataAxes));
  axes.insert(axes.end(), std::begin(kContextAxes), std::end(kContextAxes));
  axes.push_back("pp");
  return sum_over(axes, values);
}

std::vector<double> RankContext::sum_over(const std::vector<std::string>& axes, const std::vector<double>& values) {
  const std::vector<int> group = group_of(parallel_.mesh(), axes);
  if (group.size() == 1) return values;
  std::string mine(values.size() * sizeof(double), '\0');
  std::memcpy(mine.data(), values.data(), mine.size());
  const std::vector<std::string> all = world_->gather(mine);
  std::vector<double> sums(values.size(), 0.0), part(values.size());
  for (const int rank : group) {
    const std::string& bytes = all[static_cast<size_t>(rank)];
    MEGATRON_CHECK(bytes.size() == mine.size(), "a rank adds another number of values");
    std::memcpy(part.data(), bytes.data(), bytes.size());
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += part[i];
  }
  return sums;
}

std::string RankContext::from_first(const std::string& text) {
  return world_->gather(is_first() ? text : "")[0];
}

void RankContext::at(const std::string& phase) {
  if (recorder_) recorder_->set_phase(phase);
}

}  // namespace megatron
