#include "train/metrics_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <vector>

#include "base/log.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr std::chrono::minutes kWarningInterval{10};

}  // namespace

AppendFile::AppendFile(std::string path, FileOps& ops) : path_(std::move(path)), ops_(ops) {
  fd_ = ops_.open_for_writing(path_, FileOps::Create::kAppend);
  if (fd_ < 0) throw_file_error("append to", path_, -fd_);
  struct stat info = {};
  if (::fstat(fd_, &info) != 0) {
    const int error_number = errno;
    ops_.close(fd_);
    throw_file_error("append to", path_, error_number);
  }
  offset_ = info.st_size;
}

AppendFile::~AppendFile() {
  ops_.close(fd_);
}

bool AppendFile::cut_back() {
  if (torn_) torn_ = ::ftruncate(fd_, offset_) != 0;
  return !torn_;
}

void AppendFile::warn(int error_number) {
  const auto now = std::chrono::steady_clock::now();
  if (now < next_warning_) return;
  next_warning_ = now + kWarningInterval;
  log_warn(str_cat("cannot write ", path_, ": ", std::strerror(error_number), "; the run goes on, ", lost_,
                   lost_ == 1 ? " record is" : " records are", " lost so far"));
}

bool AppendFile::append(std::string_view record) {
  if (!cut_back()) {
    ++lost_;
    warn(EIO);
    return false;
  }
  std::span<const std::byte> rest = std::as_bytes(std::span(record));
  int64_t end = offset_;
  while (!rest.empty()) {
    const int64_t written = ops_.write_at(fd_, rest, end);
    if (written <= 0) {
      torn_ = true;
      cut_back();
      ++lost_;
      warn(written == 0 ? ENOSPC : static_cast<int>(-written));
      return false;
    }
    rest = rest.subspan(static_cast<size_t>(written));
    end += written;
  }
  offset_ = end;
  return true;
}

int64_t cut_torn_line(const std::string& path) {
  if (!path_exists(path)) return 0;
  int64_t keep = 0, size = 0;
  {
    const FileReader reader(path);
    size = reader.size();
    std::vector<std::byte> block;
    for (int64_t end = size; end > 0 && keep == 0;) {
      const int64_t begin = std::max<int64_t>(0, end - (int64_t{1} << 16));
      block.resize(static_cast<size_t>(end - begin));
      reader.read_at(begin, block);
      for (int64_t i = end; i > begin && keep == 0; --i) {
        if (block[static_cast<size_t>(i - 1 - begin)] == std::byte{'\n'}) keep = i;
      }
      end = begin;
    }
  }
  if (keep == size) return 0;
  if (::truncate(path.c_str(), keep) != 0) throw_file_error("repair", path, errno);
  return size - keep;
}

namespace {

std::string repaired(const std::string& path) {
  const int64_t removed = cut_torn_line(path);
  if (removed > 0) {
    log_warn(str_cat(path, ": removed an unfinished last line of ", removed, " bytes, left by a run that was killed"));
  }
  return path;
}

}  // namespace

JsonLinesSink::JsonLinesSink(const std::string& path, FileOps& ops) : file_(repaired(path), ops) {}

void JsonLinesSink::write(const StepMetrics& metrics) {
  file_.append(to_json_line(metrics));
}

}  // namespace megatron
