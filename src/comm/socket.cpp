#include "comm/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr uint64_t kMaxFrame = uint64_t{1} << 32;  // a stranger may send anything

int milliseconds_left(Deadline deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 1000000));
}

bool wait_for(int fd, short events, Deadline deadline) {
  for (;;) {
    pollfd entry{fd, events, 0};
    const int ready = poll(&entry, 1, milliseconds_left(deadline));
    if (ready > 0) return true;
    if (ready == 0 && milliseconds_left(deadline) == 0) return false;
    if (ready < 0 && errno != EINTR) return false;
  }
}

void prepare(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || starts_with(host, "127.") || host == "::1";
}

/// Moves `size` bytes with send or recv, waiting as needed.
template <typename Move>
bool transfer(int fd, short events, size_t size, Deadline deadline, std::string* why, Move&& move) {
  for (size_t done = 0; done < size;) {
    const ssize_t moved = move(done, size - done);
    if (moved > 0) {
      done += static_cast<size_t>(moved);
    } else if (moved == 0) {
      *why = "the connection was closed";
      return false;
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      if (wait_for(fd, events, deadline)) continue;
      *why = "it did not answer in time";
      return false;
    } else if (errno != EINTR) {
      *why = std::strerror(errno);
      return false;
    }
  }
  return true;
}

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Addresses resolve(const std::string& host, int port, int flags, std::string* why) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error != 0) *why = gai_strerror(error);
  return {error == 0 ? found : nullptr, &freeaddrinfo};
}

Socket connect_once(const addrinfo& address, Deadline deadline, std::string* why) {
  Socket socket(::socket(address.ai_family, SOCK_STREAM, 0));
  if (!socket) {
    *why = std::strerror(errno);
    return Socket();
  }
  prepare(socket.fd());
  if (connect(socket.fd(), address.ai_addr, address.ai_addrlen) == 0) return socket;
  int error = errno;
  if (error == EINPROGRESS) {
    const Deadline soon = std::min(deadline, deadline_after(5));
    socklen_t size = sizeof error;
    if (!wait_for(socket.fd(), POLLOUT, soon)) {
      error = ETIMEDOUT;
    } else {
      getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
    }
  }
  if (error == 0) return socket;
  *why = std::strerror(error);
  return Socket();
}

}  // namespace

Deadline deadline_after(double seconds) {
  return std::chrono::steady_clock::now() + std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6));
}

Socket::~Socket() {
  if (fd_ >= 0) close(fd_);
}

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Socket listen_on(const std::string& host, int port) {
  std::string why;
  const Addresses addresses = resolve(is_loopback(host) ? host : "", port, AI_PASSIVE, &why);
  // An IPv6 socket also takes IPv4; where there is no IPv6 the IPv4 address is used.
  for (const int family : {AF_INET6, AF_INET}) {
    for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
      if (a->ai_family != family) continue;
      Socket socket(::socket(a->ai_family, SOCK_STREAM, 0));
      if (!socket) continue;
      prepare(socket.fd());
      const int on = 1, off = 0;
      setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
      if (family == AF_INET6) setsockopt(socket.fd(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
      if (bind(socket.fd(), a->ai_addr, a->ai_addrlen) == 0 && listen(socket.fd(), 4096) == 0) return socket;
      why = std::strerror(errno);
    }
  }
  throw DeviceError(str_cat("rank 0 cannot listen on port ", port, ": ", why, "; choose another MASTER_PORT"));
}

Socket accept_until(const Socket& listener, Deadline deadline) {
  for (;;) {
    const int fd = accept(listener.fd(), nullptr, nullptr);
    if (fd >= 0) {
      prepare(fd);
      return Socket(fd);
    }
    if (!wait_for(listener.fd(), POLLIN, deadline)) return Socket();
  }
}

Socket connect_until(const std::string& host, int port, Deadline deadline, std::string* why) {
  for (;;) {
    const Addresses addresses = resolve(host, port, 0, why);
    for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
      Socket socket = connect_once(*a, deadline, why);
      if (socket) return socket;
    }
    if (milliseconds_left(deadline) == 0) return Socket();
    std::this_thread::sleep_for(std::chrono::milliseconds(std::min(100, milliseconds_left(deadline))));
  }
}

bool send_frame(const Socket& socket, const Frame& frame, Deadline deadline, std::string* why) {
  std::string bytes(1, static_cast<char>(frame.kind));
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(static_cast<uint64_t>(frame.bytes.size()) >> (8 * i) & 0xff);
  bytes += frame.bytes;
  return transfer(socket.fd(), POLLOUT, bytes.size(), deadline, why, [&](size_t done, size_t left) {
    return ::send(socket.fd(), bytes.data() + done, left, MSG_NOSIGNAL);
  });
}

bool receive_frame(const Socket& socket, Frame* frame, Deadline deadline, std::string* why) {
  std::array<unsigned char, 9> head{};
  const auto into = [&](void* target) {
    return [&socket, target](size_t done, size_t left) {
      return recv(socket.fd(), static_cast<char*>(target) + done, left, 0);
    };
  };
  if (!transfer(socket.fd(), POLLIN, head.size(), deadline, why, into(head.data()))) return false;
  uint64_t size = 0;
  for (size_t i = 0; i < 8; ++i) size |= static_cast<uint64_t>(head[i + 1]) << (8 * i);
  if (size > kMaxFrame) {
    *why = "it does not speak our protocol";
    return false;
  }
  frame->kind = head[0];
  frame->bytes.resize(size);
  return transfer(socket.fd(), POLLIN, frame->bytes.size(), deadline, why, into(frame->bytes.data()));
}

}  // namespace megatron
