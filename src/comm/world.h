// All ranks of a run as one of them sees it: who it is, and the few words that ranks exchange outside of programs (to
// find each other, to compare what they were started with, to agree on stopping).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "program/comm.h"

namespace megatron {

struct RankInfo {
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 1;  ///< among the ranks of this host
  std::string host;
  std::string launcher;  ///< how the ranks found each other, for people: "mpirun", "slurm, tcp to node01:20123"
};

/// What a rank throws when another one ended the work.
class PeerFailure : public DeviceError {
 public:
  /// `culprit`: "rank 3 (node07)".
  PeerFailure(std::string culprit, const std::string& message) : DeviceError(message), culprit_(std::move(culprit)) {}
  const std::string& culprit() const { return culprit_; }

 private:
  std::string culprit_;
};

/// An error that every rank of the job has at the same point: none has to be told of another's.
class AgreedError : public DataError {
 public:
  using DataError::DataError;
};

/// Ends this rank with the code, while another one prints the message.
class SaidElsewhere : public Error {
 public:
  using Error::Error;
};

/// How long a rank is waited for where nothing else is configured (parallel.distributed_timeout_minutes).
inline constexpr double kDefaultTimeoutSeconds = 600;

class World {
 public:
  virtual ~World() = default;
  virtual const RankInfo& info() const = 0;
  /// Everybody's bytes, by rank; a collective call. DeviceError: a rank failed or did not come in time.
  virtual std::vector<std::string> gather(const std::string& bytes) = 0;
  /// All ranks, for tensors in host memory. DeviceError where there is no transport for them (ranks without MPI).
  virtual Comm& host_comm() = 0;
  /// Tells the other ranks that this one ends, and why: what they wait for throws DeviceError. A world that is
  /// destroyed by an exception does so by itself.
  virtual void fail(const std::string& reason) noexcept = 0;
  /// After fail(): has rank 0 failed for the same reason? Waits a moment for its word.
  virtual bool says_first(const std::string& /*reason*/) noexcept { return false; }
  /// The longest wait in a single call from now on.
  virtual void set_timeout(double seconds) = 0;
  /// Are the ranks threads? Then their waits end with the process, and none can die alone.
  virtual bool is_one_process() const { return false; }

  /// All ranks end here, agreed: an exception on this one is not told to the others.
  void part() { parted_ = true; }

  int rank() const { return info().rank; }
  int size() const { return info().size; }
  /// "rank 3 (node07)".
  std::string label() const;
  void barrier() { gather(""); }

 protected:
  bool parted_ = false;
};

struct WorldOptions {
  double join_timeout_seconds = 300;                ///< for ranks to find each other
  double timeout_seconds = kDefaultTimeoutSeconds;  ///< for a single call
};

/// The world of a process that is alone.
std::unique_ptr<World> make_single_world();

/// Runs `body`; when it throws, the other ranks are told the message before the exception goes on. Where rank 0 prints
/// the same message, or the error is that of another rank, it goes on as SaidElsewhere.
void run_as_rank(World& world, const std::function<void()>& body);

/// World::gather for worlds that have a host communicator.
std::vector<std::string> gather_over(Comm& comm, const std::string& bytes);

}  // namespace megatron
