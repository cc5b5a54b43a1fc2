// Plain files: read-only mappings, streamed input, and output that appears under its name only when it is complete.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace megatron {

/// Owns a POSIX file descriptor.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

/// A whole file mapped read-only. DataError when it can't be opened or mapped.
class MappedFile {
 public:
  enum class Access { kSequential, kRandom };
  MappedFile(const std::string& path, Access access);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  const unsigned char* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  const unsigned char* data_ = nullptr;
  int64_t size_ = 0;
};

/// Input that is read once from front to back. The path "-" is standard input.
class InputStream {
 public:
  explicit InputStream(const std::string& path);

  /// Appends at most `bytes` bytes to `buffer`; false at the end of the input.
  bool append_to(std::string& buffer, int64_t bytes);

  /// Size in bytes of the whole file; -1 where it isn't known (pipes).
  int64_t size() const { return size_; }
  const std::string& name() const { return name_; }

 private:
  FileDescriptor file_;
  std::string name_;
  int64_t size_ = -1;
};

/// Output that is written as `<path>.partial` and renamed to `path` by commit(). Without commit() the partial file is
/// removed. A lock keeps a second writer of the same path out (DataError). Every failure is a DataError that names
/// the file and the system's reason.
class PartialFile {
 public:
  explicit PartialFile(const std::string& path);
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  void append(const void* data, int64_t bytes);
  /// Overwrites bytes that were appended before.
  void overwrite(int64_t offset, const void* data, int64_t bytes);
  /// Reads bytes that were appended before.
  void read(int64_t offset, void* data, int64_t bytes);
  int64_t size() const { return size_; }

  /// Flushes buffers and asks the disk to keep them (fsync).
  void sync();
  /// sync(), then rename.
  void commit();

 private:
  void flush();
  std::string path_, partial_path_, buffer_;
  FileDescriptor file_;
  int64_t size_ = 0, flushed_ = 0;
  bool committed_ = false;
};

/// Makes the names in the folder of `path` durable (fsync of the folder).
void sync_folder_of(const std::string& path);

/// True when a regular file of that name exists.
bool file_exists(const std::string& path);

/// 64-bit FNV-1a over a stream of bytes; finds damaged bytes, does not resist forgery.
class StreamHash {
 public:
  void add(const void* data, int64_t bytes);
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 14695981039346656037ull;
};

}  // namespace megatron
