#include "base/disk_speed.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <vector>

#include "base/file_io.h"

namespace megatron {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kBlock = int64_t{4} << 20;
constexpr double kCachedRate = 20e9;  // bytes per second that only memory reaches

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// An open file without a name: nothing is left behind, whatever happens.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& folder) : path_(folder + "/.megatron-doctor-XXXXXX") {
    fd_ = ::mkstemp(path_.data());
    if (fd_ < 0) throw_file_error("write", folder, errno);
    ::unlink(path_.c_str());
  }
  ~ScratchFile() { ::close(fd_); }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  void write_block(const std::vector<uint32_t>& words, int64_t bytes, int64_t offset) const {
    const auto* data = reinterpret_cast<const char*>(words.data());
    for (int64_t done = 0; done < bytes;) {
      const ssize_t n = ::pwrite(fd_, data + done, static_cast<size_t>(bytes - done), offset + done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) throw_file_error("write", path_, n < 0 ? errno : ENOSPC);
      done += n;
    }
  }
  void sync() const {
    if (::fsync(fd_) != 0) throw_file_error("fsync", path_, errno);
  }
  /// Bytes read into `words`, which is as long as a block.
  int64_t read_block(std::vector<uint32_t>& words, int64_t offset) const {
    const ssize_t n = ::pread(fd_, words.data(), static_cast<size_t>(kBlock), offset);
    if (n < 0) throw_file_error("read", path_, errno);
    return n;
  }
  void drop_cache() const { ::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED); }

 private:
  std::string path_;
  int fd_ = -1;
};

double median_sync(const ScratchFile& file, const std::vector<uint32_t>& words, double max_seconds) {
  std::vector<double> times;
  const Clock::time_point start = Clock::now();
  do {
    const Clock::time_point begin = Clock::now();
    file.write_block(words, 4096, 0);
    file.sync();
    times.push_back(seconds_since(begin));
  } while (times.size() < 9 && seconds_since(start) < max_seconds);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace

DiskSpeed measure_disk(const std::string& folder, int64_t max_bytes, double max_seconds) {
  const double part = max_seconds / 3;
  const ScratchFile file(folder);
  std::vector<uint32_t> words(static_cast<size_t>(kBlock) / sizeof(uint32_t));
  uint64_t state = 0x9E3779B97F4A7C15u;  // not compressible, or a file system that compresses would look fast
  for (uint32_t& word : words) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    word = static_cast<uint32_t>(state >> 32);
  }
  DiskSpeed speed;
  Clock::time_point start = Clock::now();
  // Synced piece by piece, or a slow disk would have far too much to write at the end.
  while (speed.bytes + kBlock <= max_bytes && seconds_since(start) < part) {
    file.write_block(words, kBlock, speed.bytes);
    speed.bytes += kBlock;
    if (speed.bytes % (8 * kBlock) == 0) file.sync();
  }
  file.sync();
  speed.write_seconds = seconds_since(start);
  file.drop_cache();
  start = Clock::now();
  int64_t read = 0;
  while (read < speed.bytes && seconds_since(start) < part) {
    const int64_t n = file.read_block(words, read);
    if (n == 0) break;
    read += n;
  }
  // Scaled when the time was up before the end.
  speed.read_seconds =
      read > 0 ? seconds_since(start) * static_cast<double>(speed.bytes) / static_cast<double>(read) : 0;
  speed.read_is_cached = speed.read_rate() > kCachedRate;
  speed.sync_seconds = median_sync(file, words, part / 2);
  return speed;
}

}  // namespace megatron
