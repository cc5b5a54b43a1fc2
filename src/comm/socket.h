// TCP connections that carry frames: a kind and some bytes. Every wait has a deadline.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace megatron {

using Deadline = std::chrono::steady_clock::time_point;
Deadline deadline_after(double seconds);

/// An open socket, closed with its owner. Movable.
class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  ~Socket();
  Socket(Socket&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Socket& operator=(Socket&& other) noexcept;
  explicit operator bool() const { return fd_ >= 0; }
  int fd() const { return fd_; }

 private:
  int fd_;
};

struct Frame {
  uint8_t kind = 0;
  std::string bytes;
};

/// Listens on all addresses of this host, or on the loopback alone when `host` names it. DeviceError with the remedy
/// when the port is taken.
Socket listen_on(const std::string& host, int port);
/// The next connection; an empty socket when the deadline passes.
Socket accept_until(const Socket& listener, Deadline deadline);
/// Tries until the deadline, since the listener may start later. On failure an empty socket, and `why`.
Socket connect_until(const std::string& host, int port, Deadline deadline, std::string* why);

/// False: the connection is gone, or the deadline passed; `why` says which.
bool send_frame(const Socket& socket, const Frame& frame, Deadline deadline, std::string* why);
bool receive_frame(const Socket& socket, Frame* frame, Deadline deadline, std::string* why);

}  // namespace megatron
