#include "comm/monitor.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <random>
#include <sstream>

#include "base/error.h"
#include "base/log.h"
#include "base/strings.h"
#include "comm/socket.h"

namespace megatron {
namespace {

using Clock = std::chrono::steady_clock;

enum Kind : uint8_t { kHello = 0x57, kState = 2, kAlive = 3, kLeave = 4, kFailed = 5, kVerdict = 6 };

double since(Clock::time_point then) {
  return std::chrono::duration<double>(Clock::now() - then).count();
}

int port_of(const Socket& listener) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  getsockname(listener.fd(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                                             : reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

std::string random_token() {
  std::random_device device;
  return str_cat(device(), "-", device(), "-", device());
}

std::string pack(const RankState& s) {
  return str_cat(s.stood, " ", s.waits ? 1 : 0, " ", s.where);
}

void unpack(const std::string& text, RankState* s) {
  std::istringstream words(text);
  int waits = 0;
  words >> s->stood >> waits;
  s->waits = waits != 0;
  words.get();
  std::getline(words, s->where, '\0');
}

std::string pack(const Verdict& v) {
  return str_cat(v.rank, " ", v.failed ? 1 : 0, " ", v.culprit, "\n", v.text);
}

Verdict unpack_verdict(const std::string& text) {
  Verdict v;
  std::istringstream words(text);
  int failed = 0;
  words >> v.rank >> failed;
  v.failed = failed != 0;
  words.get();
  std::getline(words, v.culprit);
  std::getline(words, v.text, '\0');
  return v;
}

std::string table_of(const std::vector<RankState>& ranks, double patience) {
  constexpr size_t kMost = 64;  // lines that somebody may read
  std::string text;
  for (size_t r = 0; r < std::min(kMost, ranks.size()); ++r) {
    const RankState& s = ranks[r];
    text += str_cat("\n  ", s.label, s.has_left ? " has ended" : " " + s.where);
    if (!s.has_left && s.silent > patience) text += str_cat(" (last heard of ", format_duration(s.silent), " ago)");
  }
  if (ranks.size() > kMost) text += str_cat("\n  and ", ranks.size() - kMost, " more ranks");
  return text;
}

}  // namespace

std::optional<Verdict> judge_standstill(const std::vector<RankState>& ranks, double seconds, double patience) {
  double longest = 0;
  for (const RankState& s : ranks) {
    if (!s.has_left) longest = std::max({longest, s.stood, s.silent});
  }
  if (longest < seconds) return {};
  int silent = -1, elsewhere = -1;
  for (size_t r = 0; r < ranks.size(); ++r) {
    const RankState& s = ranks[r];
    if (s.has_left) continue;
    const auto better = [&](int best, double RankState::*by) {
      return best < 0 || s.*by > ranks[static_cast<size_t>(best)].*by;
    };
    if (s.silent > patience && better(silent, &RankState::silent)) silent = static_cast<int>(r);
    if (!s.waits && better(elsewhere, &RankState::stood)) elsewhere = static_cast<int>(r);
  }
  Verdict v;
  v.rank = silent >= 0 ? silent : elsewhere;
  const auto& s = ranks[static_cast<size_t>(std::max(0, v.rank))];
  if (silent >= 0) {
    v.text = str_cat(s.label, " has given no sign of life for ", format_duration(s.silent), "; it ", s.where);
  } else if (elsewhere >= 0) {
    v.text = str_cat(s.label, " has not moved for ", format_duration(s.stood), ": it ", s.where);
  } else {
    v.text = str_cat("nothing has moved for ", format_duration(longest), ": the ranks wait for each other");
  }
  if (v.rank >= 0) v.culprit = s.label;
  v.text += ". Where the ranks stand:" + table_of(ranks, patience);
  return v;
}

/// One rank's side: rank 0 has a connection to every other rank and judges, the others report to it.
class Monitor::Watch {
 public:
  Watch(World& world, std::shared_ptr<const FlightRecorder> recorder, double seconds, End end)
      : rank_(world.rank()), recorder_(std::move(recorder)), end_(std::move(end)), seconds_(seconds) {
    wake_ = Socket(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    connect_all(world);
    moved_ = Clock::now();
    for (Peer& peer : peers_) peer.heard = moved_;
  }

  void set_seconds(double seconds) { seconds_ = seconds; }

  /// Told to the others as the last word.
  void finish(const std::string& failure) {
    last_ = failure.empty() ? Frame{kLeave, ""} : Frame{kFailed, failure};
    stop_ = true;
    const uint64_t one = 1;
    if (write(wake_.fd(), &one, sizeof one) < 0) return;  // it wakes up by itself soon
  }

  void run() {
    Clock::time_point last = Clock::now(), beaten = last;
    while (!stop_) {
      wait(beat());
      if (since(last) > 5 * beat() + 1) restart_clocks();  // this process was stopped itself
      last = Clock::now();
      std::optional<Verdict> verdict = read_all();
      if (stop_) break;
      observe();
      if (since(beaten) >= beat()) {
        beaten = Clock::now();
        speak();
      }
      if (!verdict) verdict = rank_ == 0 ? judge_standstill(states(), seconds_, patience()) : judge_first();
      if (!verdict) continue;
      tell_all({kVerdict, pack(*verdict)});  // also a rank 0 that was stopped and wakes up alone learns why
      return end_(*verdict);
    }
    if (rank_ == 0 && last_.kind == kFailed) {
      last_ = {kVerdict, pack(failure_of(0, last_.bytes))};
    }
    tell_all(last_);
  }

 private:
  struct Peer {
    Socket socket;
    RankState state;
    Clock::time_point heard;
  };

  double beat() const { return std::clamp(seconds_ / 10, 0.02, 1.0); }
  double patience() const { return std::max(5 * beat(), seconds_ / 4); }

  /// Rank 0 listens, on the loopback where all ranks are on its host; the others learn where, and a token that keeps
  /// strangers out.
  void connect_all(World& world) {
    const RankInfo& info = world.info();
    const bool first = rank_ == 0;
    Socket listener;
    std::string offer;
    if (first) {
      listener = listen_on(info.local_size == info.size ? "localhost" : "", 0);
      offer = str_cat(port_of(listener), " ", info.host, " ", random_token());
    }
    std::istringstream words(world.gather(offer)[0]);
    int port = 0;
    std::string host, token, why;
    words >> port >> host >> token;
    std::string answer = info.host;
    if (!first) {
      Peer& peer = peers_.emplace_back();
      peer.state.label = str_cat("rank 0 (", host, ")");
      peer.socket = connect_until(host == info.host ? "localhost" : host, port, deadline_after(10), &why);
      if (peer.socket) send_frame(peer.socket, {kHello, str_cat(token, " ", rank_)}, deadline_after(5), &why);
      if (!peer.socket) answer = "! " + why;
    }
    const std::vector<std::string> answers = world.gather(answer);
    if (first) accept_all(listener, token, answers);
  }

  void accept_all(const Socket& listener, const std::string& token, const std::vector<std::string>& answers) {
    peers_.resize(answers.size());
    size_t expected = 0;
    std::vector<std::string> missing;
    for (size_t r = 0; r < answers.size(); ++r) {
      const bool reached = !starts_with(answers[r], "! ");
      peers_[r].state.label = str_cat("rank ", r, reached ? " (" + answers[r] + ")" : "");
      peers_[r].state.where = "has not said anything yet";
      peers_[r].state.has_left = r > 0;  // until it is connected
      if (r > 0 && reached) ++expected;
      if (!reached) missing.push_back(str_cat("rank ", r, ": ", answers[r].substr(2)));
    }
    const Deadline deadline = deadline_after(10);
    while (expected > 0) {
      Socket socket = accept_until(listener, deadline);
      if (!socket) break;
      Frame hello;
      std::string why, word;
      int rank = -1;
      if (!receive_frame(socket, &hello, deadline_after(2), &why) || hello.kind != kHello) continue;
      std::istringstream words(hello.bytes);
      words >> word >> rank;
      if (word != token || rank <= 0 || rank >= static_cast<int>(peers_.size())) continue;
      Peer& peer = peers_[static_cast<size_t>(rank)];
      peer.socket = std::move(socket);
      peer.state.has_left = false;
      --expected;
    }
    if (missing.empty()) return;
    log_warn("ranks that cannot reach rank 0 over TCP are not watched; should one of them hang, it is not named:\n  " +
             join(missing, "\n  "));
  }

  void wait(double seconds) {
    std::vector<pollfd> fds = {{wake_.fd(), POLLIN, 0}};
    for (const Peer& peer : peers_) {
      if (peer.socket) fds.push_back({peer.socket.fd(), POLLIN, 0});
    }
    poll(fds.data(), fds.size(), static_cast<int>(seconds * 1000) + 1);
  }

  static bool is_readable(const Socket& socket) {
    pollfd fd = {socket.fd(), POLLIN, 0};
    return poll(&fd, 1, 0) > 0;
  }

  void restart_clocks() {
    moved_ = Clock::now();
    for (Peer& peer : peers_) peer.heard = moved_;
  }

  /// Everything that has come; a verdict when it ends the job.
  std::optional<Verdict> read_all() {
    for (size_t i = 0; i < peers_.size(); ++i) {
      Peer& peer = peers_[i];
      while (peer.socket && is_readable(peer.socket)) {
        Frame frame;
        std::string why;
        const int rank = rank_ == 0 ? static_cast<int>(i) : 0;
        if (!receive_frame(peer.socket, &frame, deadline_after(1), &why)) {
          peer.socket = Socket();
          if (peer.state.has_left) break;
          peer.state.has_left = true;
          return death_of(rank, peer.state);
        }
        peer.heard = Clock::now();
        if (frame.kind == kState) unpack(frame.bytes, &peer.state);
        if (frame.kind == kLeave) peer.state.has_left = true;
        if (frame.kind == kFailed) {
          peer.state.has_left = true;
          return failure_of(rank, frame.bytes);
        }
        if (frame.kind == kVerdict) return unpack_verdict(frame.bytes);
      }
    }
    return {};
  }

  Verdict death_of(int rank, const RankState& state) const {
    std::string text = state.label + " died: its process is gone";
    if (!state.where.empty()) text += str_cat("; when last heard of it ", state.where);
    return {rank, state.label, text, false};
  }

  Verdict failure_of(int rank, const std::string& reason) const {
    const std::string& label = peers_[static_cast<size_t>(rank_ == 0 ? rank : 0)].state.label;
    return {rank, label, str_cat(label, " failed: ", reason), true};
  }

  /// Notes whether this rank moves.
  void observe() {
    const FlightRecorder::Standing now = recorder_->standing();
    if (now.progress != progress_) {
      progress_ = now.progress;
      moved_ = Clock::now();
    }
    own_.stood = since(moved_);
    own_.waits = now.waits;
    own_.where = now.where;
  }

  void speak() { tell_all(rank_ == 0 ? Frame{kAlive, ""} : Frame{kState, pack(own_)}); }

  void tell_all(const Frame& frame) {
    std::string why;
    for (Peer& peer : peers_) {
      if (peer.socket) send_frame(peer.socket, frame, deadline_after(0.2), &why);  // one that stopped must not stop us
    }
  }

  std::vector<RankState> states() {
    std::vector<RankState> all;
    for (size_t r = 0; r < peers_.size(); ++r) {
      RankState& state = all.emplace_back(peers_[r].state);
      if (r > 0) {
        state.silent = since(peers_[r].heard);
        state.stood += state.silent;
      } else {
        own_.label = state.label;
        state = own_;
      }
    }
    return all;
  }

  /// Rank 0 judges the others; that it is silent itself, they see.
  std::optional<Verdict> judge_first() {
    Peer& first = peers_[0];
    const double silent = since(first.heard);
    if (!first.socket || first.state.has_left || own_.stood < seconds_ || silent < seconds_) return {};
    return Verdict{0, first.state.label,
                   str_cat(first.state.label, " has given no sign of life for ", format_duration(silent),
                           ". Where this rank stands: it ", own_.where),
                   false};
  }

  const int rank_;
  const std::shared_ptr<const FlightRecorder> recorder_;
  const End end_;
  std::atomic<double> seconds_;
  std::atomic<bool> stop_ = false;
  Frame last_;  ///< written before stop_
  Socket wake_;
  std::vector<Peer> peers_;  ///< on rank 0 by rank, itself without a socket; elsewhere rank 0 alone
  RankState own_;
  uint64_t progress_ = 0;
  Clock::time_point moved_;
};

Monitor::Monitor(World& world, std::shared_ptr<const FlightRecorder> recorder, double seconds, End end)
    : watch_(std::make_unique<Watch>(world, std::move(recorder), seconds, std::move(end))),
      thread_([watch = watch_.get()] { watch->run(); }),
      exceptions_(std::uncaught_exceptions()) {}

Monitor::~Monitor() {
  fail(std::uncaught_exceptions() > exceptions_ ? "it ended with an error" : "");
}

void Monitor::set_seconds(double seconds) {
  watch_->set_seconds(seconds);
}

void Monitor::fail(const std::string& reason) {
  if (!thread_.joinable()) return;
  watch_->finish(reason);
  thread_.join();
}

}  // namespace megatron
