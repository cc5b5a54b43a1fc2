#include "train/ranks.h"

#include <cstring>

#include "base/check.h"
#include "parallel/mesh.h"
#include "parallel/rank_device.h"
#include "train/programs.h"

namespace megatron {
namespace {

/// Host backends give up by themselves; a wait on a GPU ends only with the process.
constexpr double kStandstillSeconds = 1200;

}  // namespace

RankContext::RankContext(const Config& config)
    : alone_(make_single_world()), world_(alone_.get()), device_(make_device(config.run)) {}

RankContext::RankContext(const Config& config, World& world, Traffic traffic)
    : world_(&world),
      parallel_(make_parallel_context(config, world.size(), world.rank())),
      device_(world.size() == 1 ? make_device(config.run) : make_device(config.run, world)) {
  if (world.size() == 1) return;
  recorder_ = std::make_shared<FlightRecorder>();
  comms_ = make_mesh_comms(world, parallel_.mesh(), *device_, recorder_, traffic);
  if (device_->kind() == DeviceKind::kCuda) {
    watchdog_ = std::make_unique<Watchdog>(recorder_, world.label(), kStandstillSeconds, print_and_exit(recorder_));
  }
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
  return sum_over({"dp", kOuterData}, values);
}

std::vector<double> RankContext::sum_over_tokens(const std::vector<double>& values) {
  std::vector<std::string> axes = {"dp", kOuterData};
  axes.insert(axes.end(), std::begin(kContextAxes), std::end(kContextAxes));
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
