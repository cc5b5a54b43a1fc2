#include "data/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr int64_t kOutputBuffer = 1 << 20;

[[noreturn]] void fail(const std::string& path, const char* what) {
  const int reason = errno;
  throw DataError(str_cat(path, ": ", what, ": ", std::strerror(reason),
                          reason == ENOSPC ? "; free some space or write elsewhere" : ""));
}

/// open() may be interrupted by a signal; it is then repeated.
int open_file(const std::string& path, int flags, mode_t mode = 0) {
  int fd;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

struct stat status_of(int fd, const std::string& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) fail(path, "can't be examined");
  if (S_ISDIR(status.st_mode)) throw DataError(str_cat(path, ": is a folder, a file is needed"));
  return status;
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

MappedFile::MappedFile(const std::string& path, Access access) {
  const FileDescriptor file(open_file(path, O_RDONLY));
  if (file.get() < 0) fail(path, "can't be opened");
  size_ = status_of(file.get(), path).st_size;
  if (size_ == 0) return;  // mmap refuses empty ranges
  void* address = ::mmap(nullptr, static_cast<size_t>(size_), PROT_READ, MAP_SHARED, file.get(), 0);
  if (address == MAP_FAILED) fail(path, "can't be mapped");
  ::madvise(address, static_cast<size_t>(size_), access == Access::kRandom ? MADV_RANDOM : MADV_SEQUENTIAL);
  data_ = static_cast<const unsigned char*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<unsigned char*>(data_), static_cast<size_t>(size_));
}

InputStream::InputStream(const std::string& path) : name_(path == "-" ? "standard input" : path) {
  if (path == "-") {
    file_ = FileDescriptor(::dup(STDIN_FILENO));
    return;
  }
  file_ = FileDescriptor(open_file(path, O_RDONLY));
  if (file_.get() < 0) fail(path, "can't be opened");
  const struct stat status = status_of(file_.get(), path);
  if (S_ISREG(status.st_mode)) size_ = status.st_size;
  ::posix_fadvise(file_.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
}

bool InputStream::append_to(std::string& buffer, int64_t bytes) {
  const size_t old = buffer.size();
  buffer.resize(old + static_cast<size_t>(bytes));
  ssize_t count;
  do {
    count = ::read(file_.get(), buffer.data() + old, static_cast<size_t>(bytes));
  } while (count < 0 && errno == EINTR);
  if (count < 0) fail(name_, "can't be read");
  buffer.resize(old + static_cast<size_t>(count));
  return count > 0;
}

PartialFile::PartialFile(const std::string& path) : path_(path), partial_path_(path + ".partial") {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code ignored;  // a folder that can't be made shows when the file can't be created
  if (!folder.empty()) std::filesystem::create_directories(folder, ignored);
  FileDescriptor file(open_file(partial_path_, O_RDWR | O_CREAT, 0666));
  if (file.get() < 0) fail(partial_path_, "can't be created");
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    committed_ = true;  // not ours to remove
    throw DataError(str_cat(partial_path_, ": another process is writing it; wait for it or choose another output"));
  }
  if (::ftruncate(file.get(), 0) != 0) fail(partial_path_, "can't be emptied");
  file_ = std::move(file);
}

PartialFile::~PartialFile() {
  if (!committed_ && file_.get() >= 0) ::unlink(partial_path_.c_str());
}

void PartialFile::append(const void* data, int64_t bytes) {
  buffer_.append(static_cast<const char*>(data), static_cast<size_t>(bytes));
  size_ += bytes;
  if (static_cast<int64_t>(buffer_.size()) >= kOutputBuffer) flush();
}

void PartialFile::flush() {
  overwrite(flushed_, buffer_.data(), static_cast<int64_t>(buffer_.size()));
  flushed_ = size_;
  buffer_.clear();
}

void PartialFile::overwrite(int64_t offset, const void* data, int64_t bytes) {
  if (offset < flushed_) MEGATRON_CHECK(offset + bytes <= flushed_, "overwrite must not reach unflushed bytes");
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t count = ::pwrite(file_.get(), from, static_cast<size_t>(bytes), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail(partial_path_, "can't be written");
    from += count;
    offset += count;
    bytes -= count;
  }
}

void PartialFile::read(int64_t offset, void* data, int64_t bytes) {
  if (offset + bytes > flushed_) flush();
  char* to = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t count = ::pread(file_.get(), to, static_cast<size_t>(bytes), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail(partial_path_, "can't be read back");
    to += count;
    offset += count;
    bytes -= count;
  }
}

void PartialFile::sync() {
  flush();
  if (::fsync(file_.get()) != 0) fail(partial_path_, "can't be made durable");
}

void PartialFile::commit() {
  sync();
  if (::rename(partial_path_.c_str(), path_.c_str()) != 0) fail(path_, "can't be renamed into place");
  committed_ = true;
}

void sync_folder_of(const std::string& path) {
  std::string folder = std::filesystem::path(path).parent_path().string();
  if (folder.empty()) folder = ".";
  const FileDescriptor file(open_file(folder, O_RDONLY | O_DIRECTORY));
  if (file.get() < 0) fail(folder, "can't be opened");
  // Some network file systems don't know fsync of folders (EINVAL); there the rename is as durable as it gets.
  if (::fsync(file.get()) != 0 && errno != EINVAL) fail(folder, "can't be made durable");
}

bool file_exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

void StreamHash::add(const void* data, int64_t bytes) {
  const unsigned char* from = static_cast<const unsigned char*>(data);
  uint64_t value = value_;
  for (int64_t i = 0; i < bytes; ++i) value = (value ^ from[i]) * 1099511628211ull;
  value_ = value;
}

}  // namespace megatron
