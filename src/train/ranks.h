// One rank's place in a run: its part of the mesh, its device and communicators, and the few words that ranks exchange
// outside of programs.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "comm/flight_recorder.h"
#include "comm/mesh_comms.h"
#include "comm/monitor.h"
#include "comm/world.h"
#include "config/config.h"
#include "data/batch.h"
#include "device/device.h"
#include "parallel/parallel_context.h"

namespace megatron {

/// Functions marked "collective" are called by all ranks of the world in the same order.
class RankContext {
 public:
  /// A process that is alone, on the device that run.device names.
  explicit RankContext(const Config& config);
  /// One of the ranks of `world`, which must outlive this, on the mesh of section `parallel`. Collective. UsageError or
  /// DeviceError as make_mesh() and make_device() say. Without traffic the numbers of a run mean nothing; its times do.
  RankContext(const Config& config, World& world, Traffic traffic = Traffic::kReal);

  /// Its gathers are recorded.
  World& world() { return *world_; }
  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }
  bool is_first() const { return rank() == 0; }
  Device& device() { return *device_; }
  const ParallelContext& parallel() const { return parallel_; }
  /// Communicators by mesh axis.
  std::map<std::string, Comm*> comms() const { return comms_.axes(parallel_.mesh()); }
  /// Communicators of the pipeline stages, forward and backward; nullptr without a pipeline.
  Comm* stages_forward() const { return comms_.find("pp"); }
  Comm* stages_backward() const { return comms_.find(kPipelineBackward); }
  /// Does this rank compute losses?
  bool has_loss() const { return parallel_.stage() == parallel_.stages() - 1; }
  /// Place among the ranks that train on different samples, and their number.
  int64_t data_rank() const;
  int64_t data_size() const;

  /// Sums over the data-parallel ranks, element by element and in rank order. Collective.
  std::vector<double> sum_over_data(const std::vector<double>& values);
  /// The same over all ranks that hold different tokens: those that share a sequence too, and the
  /// stages of a pipeline.
  std::vector<double> sum_over_tokens(const std::vector<double>& values);
  /// `options` for batches that hold this rank's part of each sequence.
  BatchOptions share_sequences(BatchOptions options) const;
  /// What rank 0 gives. Collective.
  std::string from_first(const std::string& text);
  /// Notes what this rank does, for the report of a rank that does not move any more.
  void at(const std::string& phase);
  std::string phase() const { return recorder_ ? recorder_->phase() : ""; }
  /// Until now a rank might stand three times as long as parallel.distributed_timeout_minutes.
  void first_step_is_done();
  /// What the monitor's thread does before it ends this process because of another rank.
  void before_end(std::function<void(const Verdict&)> report);
  /// This rank ends with an error that all of them have.
  void part() { fail(""); }
  /// The others end too: this rank ends with an error of its own.
  void fail(const std::string& reason);

 private:
  std::vector<double> sum_over(const std::vector<std::string>& axes, const std::vector<double>& values);
  void set_timeout(double seconds);
  void end(const Verdict& verdict);

  std::unique_ptr<World> own_;  ///< around the world of the launcher, or a single one
  World* world_;
  const double timeout_seconds_;
  ParallelContext parallel_;
  std::unique_ptr<Device> device_;
  std::shared_ptr<FlightRecorder> recorder_;
  std::mutex report_mutex_;
  std::function<void(const Verdict&)> report_;
  std::unique_ptr<Monitor> monitor_;  ///< outlives the communicators, whose end may hang
  MeshComms comms_;
};

}  // namespace megatron
