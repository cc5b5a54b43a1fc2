// One rank's place in a run: its part of the mesh, its device and communicators, and the few words that ranks exchange
// outside of programs.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/flight_recorder.h"
#include "comm/mesh_comms.h"
#include "comm/world.h"
#include "config/config.h"
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
  std::vector<double> sum_over_data(const std::vector<double>& values) { return sum_over({"dp"}, values); }
  /// The same over data-parallel ranks and pipeline stages. Collective.
  std::vector<double> sum_over_stages(const std::vector<double>& values) { return sum_over({"dp", "pp"}, values); }
  /// What rank 0 gives. Collective.
  std::string from_first(const std::string& text);
  /// Notes what this rank does, for the report of a rank that does not move any more.
  void at(const std::string& phase);

 private:
  std::vector<double> sum_over(const std::vector<std::string>& axes, const std::vector<double>& values);

  std::unique_ptr<World> alone_;
  World* world_;
  ParallelContext parallel_;
  std::unique_ptr<Device> device_;
  std::shared_ptr<FlightRecorder> recorder_;
  MeshComms comms_;
  std::unique_ptr<Watchdog> watchdog_;
};

}  // namespace megatron
