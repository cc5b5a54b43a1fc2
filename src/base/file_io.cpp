#include "base/file_io.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;
constexpr size_t kMaxTransfer = size_t{1} << 30;  // Linux moves at most 2 GiB minus a page per call
constexpr mode_t kFileMode = 0666;                // the umask takes away what the user does not want
constexpr mode_t kFolderMode = 0777;

template <typename Call>
auto retry(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

/// 0 or more as it is, -1 as the negated errno.
template <typename Call>
auto checked(Call call) {
  const auto result = retry(call);
  return result < 0 ? static_cast<decltype(result)>(-errno) : result;
}

std::string remedy(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return "Free some space there or choose another folder.";
    case EROFS:
    case EACCES:
    case EPERM:
      return "Choose a folder that you may write to, or change its permissions.";
    case ENOENT:
      return "Check the path.";
    case EISDIR:
    case ENOTDIR:
      return "Check the path: a file and a folder are confused.";
    case EMFILE:
    case ENFILE:
      return "Raise the limit of open files (ulimit -n).";
    case EFBIG:
      return "Raise the limit of the file size (ulimit -f), or choose another file system.";
    case ENAMETOOLONG:
      return "Choose a shorter path.";
    case EIO:
      return "The storage failed: check the disk; the file must not be used.";
    case ESTALE:
      return "The network file system lost the file: check that it is mounted, then try again.";
    default:
      return "Check the path and the file system.";
  }
}

}  // namespace

void throw_file_error(std::string_view action, const std::string& path, int error_number) {
  throw DataError(str_cat("cannot ", action, " ", path, ": ", std::generic_category().message(error_number), ". ",
                          remedy(error_number)));
}

// ---------------------------------------------------------------------------------------------------- operations

int FileOps::open_for_writing(const std::string& path, Create mode) {
  const int how = mode == Create::kNew ? O_EXCL : mode == Create::kReplace ? O_TRUNC : 0;
  return checked([&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | how, kFileMode); });
}

int64_t FileOps::write_at(int fd, std::span<const std::byte> bytes, int64_t offset) {
  const size_t size = std::min(bytes.size(), kMaxTransfer);
  return checked([&] { return ::pwrite(fd, bytes.data(), size, offset); });
}

int FileOps::allocate(int fd, int64_t bytes) {
  if (bytes == 0) return 0;
  // fallocate, because posix_fallocate writes every block where the file system cannot reserve.
  const int result = checked([&] { return ::fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, bytes); });
  return result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL ? 0 : result;
}

int FileOps::sync(int fd) {
  return checked([&] { return ::fsync(fd); });
}

int FileOps::close(int fd) {
  // Linux frees the descriptor even when close is interrupted: it must not be called twice.
  return ::close(fd) < 0 && errno != EINTR ? -errno : 0;
}

int FileOps::rename(const std::string& from, const std::string& to) {
  return checked([&] { return ::rename(from.c_str(), to.c_str()); });
}

int FileOps::exchange(const std::string& a, const std::string& b) {
  return checked([&] { return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE); });
}

int FileOps::unlink(const std::string& path) {
  return checked([&] { return ::unlink(path.c_str()); });
}

int FileOps::make_directory(const std::string& path) {
  return checked([&] { return ::mkdir(path.c_str(), kFolderMode); });
}

int FileOps::remove_directory(const std::string& path) {
  return checked([&] { return ::rmdir(path.c_str()); });
}

int FileOps::sync_directory(const std::string& path) {
  const int fd = checked([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (fd < 0) return fd;
  const int result = checked([&] { return ::fsync(fd); });
  ::close(fd);
  return result == -EINVAL ? 0 : result;  // some network file systems have no fsync of folders; they need none
}

int64_t FileOps::free_bytes(const std::string& path) {
  struct statvfs info = {};
  const int result = checked([&] { return ::statvfs(path.c_str(), &info); });
  return result < 0 ? result : static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

FileOps& FileOps::posix() {
  static FileOps instance;
  return instance;
}

// ------------------------------------------------------------------------------------------------------- writing

FileWriter::FileWriter(std::string path, FileOps::Create mode, FileOps& ops, bool hashed)
    : path_(std::move(path)), ops_(ops), hashed_(hashed) {
  fd_ = ops_.open_for_writing(path_, mode);
  if (fd_ < 0) throw_file_error("write", path_, -fd_);
  if (mode == FileOps::Create::kAppend) {
    struct stat info = {};
    if (::fstat(fd_, &info) == 0) offset_ = info.st_size;
  }
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ops_.close(fd_);
}

void FileWriter::write_out(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const int64_t written = ops_.write_at(fd_, bytes, offset_);
    if (written <= 0) throw_file_error("write", path_, written == 0 ? ENOSPC : static_cast<int>(-written));
    offset_ += written;
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void FileWriter::append(std::span<const std::byte> bytes) {
  if (hashed_) hash_.update(bytes);
  appended_ += static_cast<int64_t>(bytes.size());
  if (buffer_.size() + bytes.size() < kBufferBytes) {
    if (buffer_.capacity() == 0) buffer_.reserve(kBufferBytes);
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    return;
  }
  flush();
  write_out(bytes);
}

void FileWriter::allocate(int64_t bytes) {
  const int result = ops_.allocate(fd_, bytes);
  if (result < 0)
    throw_file_error(str_cat("reserve ", format_bytes(static_cast<double>(bytes)), " for"), path_, -result);
}

void FileWriter::flush() {
  write_out(buffer_);
  buffer_.clear();
}

void FileWriter::finish() {
  flush();
  // A failed fsync is never repeated: the kernel may have dropped the pages, and the next fsync would say all is well.
  const int synced = ops_.sync(fd_);
  const int closed = ops_.close(std::exchange(fd_, -1));
  if (synced < 0) throw_file_error("write", path_, -synced);
  if (closed < 0) throw_file_error("close", path_, -closed);
}

void atomic_write_file(const std::string& path, std::string_view bytes, FileOps& ops) {
  const std::string temporary = str_cat(path, ".tmp-", ::getpid());
  try {
    FileWriter writer(temporary, FileOps::Create::kReplace, ops);
    writer.append(bytes);
    writer.finish();
    const int renamed = ops.rename(temporary, path);
    if (renamed < 0) throw_file_error("replace", path, -renamed);
  } catch (...) {
    ops.unlink(temporary);
    throw;
  }
  sync_directory(parent_directory(path), ops);
}

// ------------------------------------------------------------------------------------------------------- reading

FileReader::FileReader(std::string path) : path_(std::move(path)) {
  fd_ = checked([&] { return ::open(path_.c_str(), O_RDONLY | O_CLOEXEC); });
  if (fd_ < 0) throw_file_error("read", path_, -fd_);
  struct stat info = {};
  const int result = ::fstat(fd_, &info) < 0 ? errno : S_ISDIR(info.st_mode) ? EISDIR : 0;
  if (result != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd_);
    if (result != 0) throw_file_error("read", path_, result);
    throw DataError(str_cat("cannot read ", path_, ": it is not a regular file"));
  }
  size_ = info.st_size;
}

FileReader::FileReader(std::string name, std::span<const std::byte> bytes)
    : path_(std::move(name)), memory_(bytes), size_(std::ssize(bytes)) {}

FileReader::~FileReader() {
  if (fd_ >= 0) ::close(fd_);
}

FileReader::FileReader(FileReader&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      memory_(std::exchange(other.memory_, {})),
      size_(other.size_) {}

FileReader& FileReader::operator=(FileReader&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(memory_, other.memory_);
  std::swap(size_, other.size_);
  return *this;
}

void FileReader::read_at(int64_t offset, std::span<std::byte> out) const {
  const auto read_some = [&](size_t size) -> int64_t {
    if (fd_ >= 0) return checked([&] { return ::pread(fd_, out.data(), size, offset); });
    if (offset < 0) return -EINVAL;
    if (offset >= size_) return 0;
    const auto part = memory_.subspan(static_cast<size_t>(offset));
    const size_t got = std::min(size, part.size());
    std::copy_n(part.begin(), got, out.begin());
    return static_cast<int64_t>(got);
  };
  while (!out.empty()) {
    const int64_t got = read_some(std::min(out.size(), kMaxTransfer));
    if (got < 0) throw_file_error(str_cat("read byte ", offset, " of"), path_, static_cast<int>(-got));
    if (got == 0) {
      throw DataError(str_cat(path_, ": the file ends at byte ", offset, ", ", out.size(),
                              " more bytes were expected: it is truncated"));
    }
    offset += got;
    out = out.subspan(static_cast<size_t>(got));
  }
}

void FileReader::drop_cache() const {
  if (fd_ >= 0) ::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
}

std::string read_file(const std::string& path, int64_t max_bytes) {
  const FileReader reader(path);
  if (reader.size() > max_bytes) {
    throw DataError(
        str_cat(path, ": has ", reader.size(), " bytes, at most ", max_bytes, " are expected of such a file"));
  }
  std::string text(static_cast<size_t>(reader.size()), '\0');
  reader.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

// ------------------------------------------------------------------------------------------------------- folders

void create_directories(const std::string& path, FileOps& ops) {
  if (path.empty() || directory_exists(path)) return;
  const std::string parent = parent_directory(path);
  if (parent != path) create_directories(parent, ops);
  const int result = ops.make_directory(path);
  if (result == -EEXIST && directory_exists(path)) return;  // another process was faster, or the path ends in a slash
  if (result < 0) throw_file_error("create the folder", path, -result);
  sync_directory(parent, ops);
}

void sync_directory(const std::string& path, FileOps& ops) {
  const int result = ops.sync_directory(path);
  if (result < 0) throw_file_error("make durable the folder", path, -result);
}

void remove_tree(const std::string& path, FileOps& ops) {
  if (!path_exists(path)) return;
  if (!directory_exists(path) || is_symlink(path)) {
    const int result = ops.unlink(path);
    if (result < 0 && result != -ENOENT) throw_file_error("remove", path, -result);
    return;
  }
  for (const std::string& name : list_directory(path)) remove_tree(path_join(path, name), ops);
  const int result = ops.remove_directory(path);
  if (result < 0 && result != -ENOENT) throw_file_error("remove the folder", path, -result);
}

void require_free_space(const std::string& path, int64_t bytes, FileOps& ops) {
  const int64_t available = ops.free_bytes(path);
  if (available < 0) throw_file_error("ask for the free space of", path, static_cast<int>(-available));
  if (available < bytes) {
    throw DataError(str_cat("not enough space in ", path, ": ", format_bytes(static_cast<double>(bytes)),
                            " are needed, ", format_bytes(static_cast<double>(available)), " are free. ",
                            remedy(ENOSPC)));
  }
}

std::vector<std::string> list_directory(const std::string& path) {
  std::vector<std::string> names;
  const auto close_directory = [](DIR* directory) { ::closedir(directory); };
  const std::unique_ptr<DIR, decltype(close_directory)> directory(::opendir(path.c_str()), close_directory);
  if (!directory) {
    if (errno == ENOENT) return names;
    throw_file_error("list the folder", path, errno);
  }
  for (errno = 0; const dirent* entry = ::readdir(directory.get()); errno = 0) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  if (errno != 0) throw_file_error("list the folder", path, errno);
  std::sort(names.begin(), names.end());
  return names;
}

bool path_exists(const std::string& path) {
  struct stat info = {};
  return ::lstat(path.c_str(), &info) == 0;
}

bool directory_exists(const std::string& path) {
  struct stat info = {};
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

bool is_symlink(const std::string& path) {
  struct stat info = {};
  return ::lstat(path.c_str(), &info) == 0 && S_ISLNK(info.st_mode);
}

std::string parent_directory(const std::string& path) {
  std::string_view trimmed = path;
  while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.remove_suffix(1);
  const size_t slash = trimmed.rfind('/');
  if (slash == std::string_view::npos) return ".";
  return slash == 0 ? "/" : std::string(trimmed.substr(0, slash));
}

std::string path_join(const std::string& folder, std::string_view name) {
  if (folder.empty()) return std::string(name);
  return folder.back() == '/' ? str_cat(folder, name) : str_cat(folder, "/", name);
}

// --------------------------------------------------------------------------------------------------------- locks

FileLock::FileLock(std::string path, std::string text, int fd)
    : path_(std::move(path)), text_(std::move(text)), fd_(fd) {}

FileLock::~FileLock() {
  if (fd_ >= 0) ::close(fd_);
}

FileLock::FileLock(FileLock&& other) noexcept
    : path_(std::move(other.path_)), text_(std::move(other.text_)), fd_(std::exchange(other.fd_, -1)) {}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(text_, other.text_);
  std::swap(fd_, other.fd_);
  return *this;
}

namespace {

/// What the holder wrote so far: it may be writing just now, so that any length is right.
std::string owner_text(int fd) {
  std::string text(4096, '\0');
  const auto length = ::pread(fd, text.data(), text.size(), 0);
  text.resize(length < 0 ? 0 : static_cast<size_t>(length));
  return text;
}

}  // namespace

std::optional<FileLock> FileLock::try_lock(const std::string& path, std::string_view text, std::string* owner) {
  const int fd = checked([&] { return ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, kFileMode); });
  if (fd < 0) throw_file_error("lock", path, -fd);
  FileLock lock(path, std::string(text), fd);
  const int result = checked([&] { return ::flock(fd, LOCK_EX | LOCK_NB); });
  if (result == -EWOULDBLOCK) {
    if (owner != nullptr) *owner = owner_text(fd);
    return std::nullopt;
  }
  if (result < 0) throw_file_error("lock", path, -result);
  const bool written = ::ftruncate(fd, 0) == 0 && ::pwrite(fd, text.data(), text.size(), 0) == std::ssize(text);
  if (!written) throw_file_error("write", path, errno == 0 ? ENOSPC : errno);
  return lock;
}

bool FileLock::still_owned() const {
  struct stat ours = {}, named = {};
  if (::fstat(fd_, &ours) != 0 || ::stat(path_.c_str(), &named) != 0) return false;
  if (ours.st_ino != named.st_ino || ours.st_dev != named.st_dev) return false;
  std::string text(text_.size() + 1, '\0');
  return ::pread(fd_, text.data(), text.size(), 0) == std::ssize(text_) && text.compare(0, text_.size(), text_) == 0;
}

}  // namespace megatron
