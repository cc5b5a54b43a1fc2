#include "comm/tcp_world.h"

#include <exception>
#include <sstream>

#include "base/error.h"
#include "base/host.h"
#include "base/strings.h"
#include "comm/socket.h"

namespace megatron {
namespace {

enum Kind : uint8_t { kHello = 0x4d, kData = 2, kUsageFailure = 3, kDeviceFailure = 4 };
const std::string kFailed = " failed: ";  // between the label of a rank and its reason
constexpr char kProtocol[] = "megatron rendezvous 1";

class TcpWorld final : public World {
 public:
  TcpWorld(const Launch& launch, const WorldOptions& options)
      : options_(options),
        exceptions_(std::uncaught_exceptions()),
        address_(str_cat(launch.master, ":", launch.port)),
        peers_(launch.rank == 0 ? static_cast<size_t>(launch.size) : 1) {
    info_ = {launch.rank, launch.size, 0, 0, host_name(), str_cat(launch.how, ", tcp to ", address_)};
    if (launch.rank == 0) {
      accept_all(launch);
    } else {
      connect_to_master(launch);
    }
    find_local_ranks(launch.local_rank);
  }

  ~TcpWorld() override {
    if (!parted_ && std::uncaught_exceptions() > exceptions_) fail("it ended with an error");
  }

  const RankInfo& info() const override { return info_; }

  std::vector<std::string> gather(const std::string& bytes) override {
    const Deadline deadline = deadline_after(options_.timeout_seconds);
    if (info_.rank != 0) {
      std::string why;
      // Rank 0 may be gone, but what it said before is still to be read.
      send_frame(peers_[0], {kData, bytes}, deadline, &why);
      return unpack(expect_data(peers_[0], 0, deadline));
    }
    std::vector<std::string> parts(peers_.size());
    parts[0] = bytes;
    try {
      for (size_t r = 1; r < peers_.size(); ++r) parts[r] = expect_data(peers_[r], static_cast<int>(r), deadline);
    } catch (const DeviceError& error) {
      tell_all({kDeviceFailure, error.what()});
      throw;
    }
    const Frame all{kData, pack(parts)};
    std::string why;
    for (size_t r = 1; r < peers_.size(); ++r) send_frame(peers_[r], all, deadline, &why);
    return parts;
  }

  Comm& host_comm() override {
    throw DeviceError(str_cat("tensors in host memory travel between ranks over MPI, but these ranks were started by ",
                              info_.launcher, "; start them with mpirun",
                              has_mpi() ? "" : " (and a build with MPI: -DMEGATRON_MPI=ON)",
                              ", or use run.device: cuda"));
  }

  void fail(const std::string& reason) noexcept override {
    if (failed_) return;
    failed_ = true;
    tell_all({kDeviceFailure, str_cat(label(), kFailed, reason)});
  }

  bool says_first(const std::string& reason) noexcept override {
    Frame frame;
    std::string why;
    const Deadline end = deadline_after(0.5);
    while (receive_frame(peers_[0], &frame, end, &why)) {
      if (frame.kind == kDeviceFailure) return ends_with(frame.bytes, kFailed + reason);
    }
    return false;
  }

  void set_timeout(double seconds) override { options_.timeout_seconds = seconds; }

 private:
  void tell_all(const Frame& frame) noexcept {
    failed_ = true;
    std::string why;
    for (const Socket& peer : peers_) {
      if (peer) send_frame(peer, frame, deadline_after(1), &why);
    }
  }

  [[noreturn]] void raise(const Frame& frame) {
    failed_ = true;
    if (frame.kind == kUsageFailure) throw UsageError(frame.bytes);
    const size_t end = frame.bytes.find(kFailed);
    if (end != std::string::npos) throw PeerFailure(frame.bytes.substr(0, end), frame.bytes);
    throw DeviceError(frame.bytes);
  }

  std::string expect_data(const Socket& peer, int rank, Deadline deadline) {
    Frame frame;
    std::string why;
    if (!receive_frame(peer, &frame, deadline, &why)) {
      throw PeerFailure(str_cat("rank ", rank),
                        str_cat("lost rank ", rank, " of ", info_.size, " (rendezvous at ", address_, "): ", why));
    }
    if (frame.kind != kData) raise(frame);
    return frame.bytes;
  }

  static std::string pack(const std::vector<std::string>& parts) {
    std::string bytes;
    for (const std::string& part : parts) bytes += str_cat(part.size(), " ") + part;
    return bytes;
  }
  std::vector<std::string> unpack(const std::string& bytes) const {
    std::vector<std::string> parts;
    for (size_t at = 0; at < bytes.size();) {
      const size_t space = bytes.find(' ', at), size = std::stoull(bytes.substr(at, space - at));
      parts.push_back(bytes.substr(space + 1, size));
      at = space + 1 + size;
    }
    if (parts.size() != static_cast<size_t>(info_.size)) throw DeviceError("rank 0 sent a damaged message");
    return parts;
  }

  void accept_all(const Launch& launch) {
    const Socket listener = listen_on(launch.master, launch.port);
    const Deadline deadline = deadline_after(options_.join_timeout_seconds);
    for (int missing = launch.size - 1; missing > 0;) {
      Socket socket = accept_until(listener, deadline);
      if (!socket) {
        std::vector<std::string> absent;
        for (size_t r = 1; r < peers_.size(); ++r) {
          if (!peers_[r]) absent.push_back(std::to_string(r));
        }
        const std::string text =
            str_cat("rank 0 waited ", options_.join_timeout_seconds, " s at ", address_, " for ", launch.size - 1,
                    " ranks; missing: ", join(absent, ", "), ". Were they started, and can they reach this host?");
        tell_all({kDeviceFailure, text});
        throw DeviceError(text);
      }
      if (admit(std::move(socket), launch)) --missing;
    }
    std::string why;
    for (size_t r = 1; r < peers_.size(); ++r) send_frame(peers_[r], {kData, ""}, deadline, &why);
  }

  /// False for strangers, whose connection is closed.
  bool admit(Socket socket, const Launch& launch) {
    Frame frame;
    std::string why, protocol;
    if (!receive_frame(socket, &frame, deadline_after(5), &why) || frame.kind != kHello) return false;
    std::istringstream words(frame.bytes);
    int rank = -1, size = -1;
    std::string host;
    std::getline(words, protocol, '\n');
    words >> rank >> size >> host;
    std::string problem;
    if (protocol != kProtocol) {
      problem = "was built from another version";
    } else if (size != launch.size) {
      problem = str_cat("was started for ", size, " ranks, rank 0 (", info_.host, ") for ", launch.size);
    } else if (rank <= 0 || rank >= launch.size || peers_[static_cast<size_t>(rank)]) {
      problem = "exists twice";
    }
    if (problem.empty()) {
      peers_[static_cast<size_t>(rank)] = std::move(socket);
      return true;
    }
    const Frame refusal{kUsageFailure, str_cat("rank ", rank, " (", host, ") ", problem)};
    send_frame(socket, refusal, deadline_after(1), &why);
    tell_all(refusal);
    raise(refusal);
  }

  void connect_to_master(const Launch& launch) {
    const Deadline deadline = deadline_after(options_.join_timeout_seconds);
    std::string why;
    peers_[0] = connect_until(launch.master, launch.port, deadline, &why);
    const auto lost = [&] {
      return DeviceError(str_cat("rank ", launch.rank, " of ", launch.size, " on ", info_.host,
                                 " could not join rank 0 at ", address_, " within ", options_.join_timeout_seconds,
                                 " s: ", why, ". Check MASTER_ADDR and MASTER_PORT, and that rank 0 runs"));
    };
    if (!peers_[0]) throw lost();
    const Frame hello{kHello, str_cat(kProtocol, "\n", launch.rank, " ", launch.size, " ", info_.host)};
    Frame welcome;
    // Rank 0 answers when all are there; it says so itself when they are not, hence the longer wait.
    const Deadline answer = deadline_after(options_.join_timeout_seconds + 5);
    if (!send_frame(peers_[0], hello, answer, &why) || !receive_frame(peers_[0], &welcome, answer, &why)) throw lost();
    if (welcome.kind != kData) raise(welcome);
  }

  void find_local_ranks(int given) {
    const std::vector<std::string> hosts = gather(info_.host);
    for (size_t r = 0; r < hosts.size(); ++r) {
      if (hosts[r] != info_.host) continue;
      ++info_.local_size;
      if (static_cast<int>(r) < info_.rank) ++info_.local_rank;
    }
    if (given >= 0) info_.local_rank = given;
  }

  WorldOptions options_;
  int exceptions_;
  std::string address_;
  std::vector<Socket> peers_;  ///< on rank 0 by rank, elsewhere only rank 0
  RankInfo info_;
  bool failed_ = false;
};

}  // namespace

std::unique_ptr<World> make_tcp_world(const Launch& launch, const WorldOptions& options) {
  return std::make_unique<TcpWorld>(launch, options);
}

}  // namespace megatron
