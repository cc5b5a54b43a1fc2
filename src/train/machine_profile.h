// What one kind of GPU and its links take for operations and collectives, as measured, and what follows for others.
//
// Section `machine` holds the figures as text, one per line:
//   operations   "linear bf16 2.75e+11 1.68e+08 0.000402"   kind, type, FLOPs, bytes (both as OpKind::cost says),
//   seconds collectives  "all_reduce 2 1048576 2.1e-05"              kind, ranks, bytes of the whole tensor, seconds
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "config/config.h"
#include "program/comm.h"
#include "program/op_kind.h"

namespace megatron {

struct OperationPoint {
  std::string kind;            ///< OpKind::speed_class
  DType dtype = DType::kBF16;  ///< that the model computes in
  double flops = 0, bytes = 0, seconds = 0;
};

struct CollectivePoint {
  std::string kind;  ///< all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, send/receive
  int ranks = 0;
  double bytes = 0;  ///< of the whole tensor
  double seconds = 0;
};

std::string to_text(const OperationPoint& point);
std::string to_text(const CollectivePoint& point);
/// UsageError names the entry and what is wrong with it.
std::vector<OperationPoint> read_operations(const MachineConfig& machine);
std::vector<CollectivePoint> read_collectives(const MachineConfig& machine);

/// The kind of a call as CollectivePoint::kind has it.
const char* collective_name(CommOp op);

/// Where the members of a group sit.
struct GroupPlace {
  int ranks = 1;
  int per_node = 1;  ///< of them, on one node
};

class MachineProfile {
 public:
  /// UsageError: an entry cannot be read, or there is no profile.
  explicit MachineProfile(const MachineConfig& machine);
  const MachineConfig& config() const { return config_; }

  /// Seconds of an operation of this kind and cost. The floor is max(FLOPs / matrix_flops, bytes / copy_bandwidth); how
  /// much longer it takes is interpolated between the measured operations of its kind and type that are nearest in
  /// FLOPs and bytes (both logarithmic). A kind that was not measured takes the median of all that move bytes.
  double operation(const std::string& kind, DType dtype, const Cost& cost) const;
  bool measured(const std::string& kind, DType dtype) const { return points_.count({kind, dtype}) > 0; }

  /// Seconds of a collective in which each rank sends `wire_bytes` (program/planned_call.h). Within a node:
  /// interpolated between the measured sizes of the nearest number of ranks. Between nodes at least network_seconds for
  /// each doubling of nodes, and the bytes over the network bandwidth of the members of one node together. UsageError:
  /// nothing of the kind was measured.
  double collective(const std::string& kind, const GroupPlace& place, double wire_bytes) const;

 private:
  struct Point {
    double flops = 0, bytes = 0;
    double slowness = 1;  ///< seconds without launch over the floor
  };
  double floor(double flops, double bytes) const;

  MachineConfig config_;
  std::map<std::pair<std::string, DType>, std::vector<Point>> points_;
  std::map<std::string, std::map<int, std::map<double, double>>> collectives_;  ///< seconds by kind, ranks, link bytes
  double usual_slowness_ = 1;
};

}  // namespace megatron
