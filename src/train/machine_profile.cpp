#include "train/machine_profile.h"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <optional>
#include <sstream>

#include "base/error.h"
#include "base/strings.h"
#include "program/planned_call.h"

namespace megatron {
namespace {

constexpr CommOp kCollectives[] = {CommOp::kAllReduce, CommOp::kAllGather, CommOp::kReduceScatter,
                                   CommOp::kAllToAll,  CommOp::kBroadcast, CommOp::kExchange};

/// The operation of that name.
std::optional<CommOp> collective_called(const std::string& name) {
  for (const CommOp op : kCollectives) {
    if (name == collective_name(op)) return op;
  }
  return std::nullopt;
}

/// Bytes that each of the ranks of `point` sent (program/planned_call.h).
double sent_bytes(const CollectivePoint& point) {
  CommCall call;
  call.op = *collective_called(point.kind);
  call.source = call.target = make_tensor(nullptr, DType::kU8, Dims{static_cast<int64_t>(point.bytes)});
  call.to = 0;
  return wire_bytes(call, point.ranks);
}

[[noreturn]] void refuse(const char* key, const std::string& entry, const std::string& what) {
  throw UsageError(str_cat("machine.", key, ": '", entry, "': ", what));
}

/// The words of an entry, as many as `form` has.
std::istringstream words_of(const char* key, const std::string& entry, const std::string& form) {
  std::istringstream words(entry);
  std::istringstream counted(entry), wanted(form);
  std::string word;
  int found = 0, expected = 0;
  while (counted >> word) ++found;
  while (wanted >> word) ++expected;
  if (found != expected) refuse(key, entry, "expected \"" + form + "\"");
  return words;
}

double number(const char* key, const std::string& entry, std::istringstream& words, const char* name) {
  std::string word;
  words >> word;
  size_t used = 0;
  double value = -1;
  try {
    value = std::stod(word, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used != word.size() || !std::isfinite(value) || value < 0) {
    refuse(key, entry, str_cat(name, " must be a number that is not negative, not '", word, "'"));
  }
  return value;
}

std::string short_number(double value) {
  std::ostringstream out;
  out << std::setprecision(5) << value;
  return out.str();
}

/// Between the measured points: straight lines over logarithms; beyond them in proportion, but never less than the
/// smallest took.
double interpolate(const std::map<double, double>& seconds_by_bytes, double bytes) {
  const auto above = seconds_by_bytes.lower_bound(bytes);
  if (above == seconds_by_bytes.begin()) return above->second;
  if (above == seconds_by_bytes.end()) {
    const auto last = std::prev(above);
    return last->second * bytes / last->first;
  }
  const auto below = std::prev(above);
  const double t = std::log(bytes / below->first) / std::log(above->first / below->first);
  return below->second * std::pow(above->second / below->second, t);
}

}  // namespace

const char* collective_name(CommOp op) {
  switch (op) {
    case CommOp::kAllReduce:
      return "all_reduce";
    case CommOp::kAllGather:
      return "all_gather";
    case CommOp::kReduceScatter:
      return "reduce_scatter";
    case CommOp::kAllToAll:
      return "all_to_all";
    case CommOp::kBroadcast:
      return "broadcast";
    case CommOp::kExchange:
      return "send/receive";
    case CommOp::kBarrier:
      return "barrier";
  }
  return "";
}

std::string to_text(const OperationPoint& p) {
  return str_cat(p.kind, " ", name_of(p.dtype), " ", short_number(p.flops), " ", short_number(p.bytes), " ",
                 short_number(p.seconds));
}

std::string to_text(const CollectivePoint& p) {
  return str_cat(p.kind, " ", p.ranks, " ", short_number(p.bytes), " ", short_number(p.seconds));
}

std::vector<OperationPoint> read_operations(const MachineConfig& machine) {
  constexpr const char* kKey = "operations";
  std::vector<OperationPoint> points;
  for (const std::string& entry : machine.operations) {
    std::istringstream words = words_of(kKey, entry, "KIND DTYPE FLOPS BYTES SECONDS");
    OperationPoint p;
    std::string dtype;
    words >> p.kind >> dtype;
    try {
      p.dtype = parse_dtype(dtype);
    } catch (const Error& error) {
      refuse(kKey, entry, error.what());
    }
    p.flops = number(kKey, entry, words, "FLOPS");
    p.bytes = number(kKey, entry, words, "BYTES");
    p.seconds = number(kKey, entry, words, "SECONDS");
    points.push_back(p);
  }
  return points;
}

std::vector<CollectivePoint> read_collectives(const MachineConfig& machine) {
  constexpr const char* kKey = "collectives";
  std::vector<CollectivePoint> points;
  for (const std::string& entry : machine.collectives) {
    std::istringstream words = words_of(kKey, entry, "KIND RANKS BYTES SECONDS");
    CollectivePoint p;
    words >> p.kind;
    if (!collective_called(p.kind)) {
      std::vector<std::string> names;
      for (const CommOp op : kCollectives) names.push_back(collective_name(op));
      refuse(kKey, entry, "KIND must be one of " + join(names, ", "));
    }
    const double ranks = number(kKey, entry, words, "RANKS");
    if (ranks < 2 || ranks > 1e6 || ranks != std::floor(ranks)) refuse(kKey, entry, "RANKS must be 2 or more");
    p.ranks = static_cast<int>(ranks);
    p.bytes = number(kKey, entry, words, "BYTES");
    p.seconds = number(kKey, entry, words, "SECONDS");
    if (p.bytes <= 0 || p.seconds <= 0) refuse(kKey, entry, "BYTES and SECONDS must be above 0");
    points.push_back(p);
  }
  return points;
}

MachineProfile::MachineProfile(const MachineConfig& machine) : config_(machine) {
  if (machine.device.empty() || machine.copy_bandwidth <= 0 || machine.matrix_flops <= 0 ||
      machine.operations.empty()) {
    throw UsageError(
        "section machine: a step's time needs device, copy_bandwidth, matrix_flops and operations; take a file of "
        "configs/base/machines, or let `megatron bench ops --device cuda --machine FILE` write one");
  }
  std::vector<double> moving;
  for (const OperationPoint& p : read_operations(machine)) {
    const double least = floor(p.flops, p.bytes);
    if (least <= 0) continue;
    const double slowness = std::max(p.seconds - machine.launch_seconds, 0.05 * p.seconds) / least;
    points_[{p.kind, p.dtype}].push_back({p.flops, p.bytes, slowness});
    if (p.bytes / machine.copy_bandwidth >= p.flops / machine.matrix_flops) moving.push_back(slowness);
  }
  if (!moving.empty()) {
    const auto middle = moving.begin() + static_cast<int64_t>(moving.size() / 2);
    std::nth_element(moving.begin(), middle, moving.end());
    usual_slowness_ = *middle;
  }
  for (const CollectivePoint& p : read_collectives(machine)) {
    collectives_[p.kind][p.ranks][sent_bytes(p)] = p.seconds;
  }
}

double MachineProfile::floor(double flops, double bytes) const {
  return std::max(flops / config_.matrix_flops, bytes / config_.copy_bandwidth);
}

double MachineProfile::operation(const std::string& kind, DType dtype, const Cost& cost) const {
  const double least = floor(cost.flops, cost.bytes);
  const auto found = points_.find({kind, dtype});
  if (found == points_.end()) return config_.launch_seconds + least * usual_slowness_;
  // Weights 1 / distance^4: a measured operation counts alone where it is the same, neighbours share what lies between.
  double weights = 0, sum = 0;
  for (const Point& p : found->second) {
    const auto distance = [](double a, double b) { return std::log(std::max(a, 1.0) / std::max(b, 1.0)); };
    const double df = distance(cost.flops, p.flops), db = distance(cost.bytes, p.bytes);
    const double squared = df * df + db * db;
    const double weight = 1 / (squared * squared + 1e-16);
    weights += weight;
    sum += weight * std::log(p.slowness);
  }
  return config_.launch_seconds + least * std::exp(sum / weights);
}

double MachineProfile::collective(const std::string& kind, const GroupPlace& place, double wire_bytes) const {
  if (place.ranks < 2) return config_.launch_seconds;
  double seconds = 0;
  if (place.per_node > 1) {
    const auto by_kind = collectives_.find(kind);
    if (by_kind == collectives_.end()) {
      throw UsageError(str_cat("section machine: no ", kind,
                               " was measured; `mpirun -n N megatron bench comm --machine ",
                               "FILE` adds the collectives of N ranks"));
    }
    auto nearest = by_kind->second.begin();
    for (auto it = by_kind->second.begin(); it != by_kind->second.end(); ++it) {
      if (std::abs(it->first - place.per_node) < std::abs(nearest->first - place.per_node)) nearest = it;
    }
    seconds = interpolate(nearest->second, wire_bytes);
  }
  if (place.per_node >= place.ranks) return seconds;
  const double nodes = std::ceil(static_cast<double>(place.ranks) / place.per_node);
  const double network =
      config_.network_seconds * std::ceil(std::log2(nodes)) + wire_bytes / (config_.network_bandwidth * place.per_node);
  return std::max(seconds, network);
}

}  // namespace megatron
