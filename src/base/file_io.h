// The one layer through which files are written for keeps. Every change goes through FileOps, so that a test can stop
// or fail any single operation, or record the order of all of them. Errors are DataError: they name the path, the
// reason of the operating system and a remedy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"

namespace megatron {

/// The operations that change files. The base class is the real thing (POSIX); tests override. Each returns 0 or a
/// positive result, or a negated errno; nothing throws.
class FileOps {
 public:
  enum class Create { kNew, kReplace, kAppend };  ///< must not exist; is emptied; is kept and written at its end

  virtual ~FileOps() = default;
  virtual int open_for_writing(const std::string& path, Create mode);                  ///< file descriptor
  virtual int64_t write_at(int fd, std::span<const std::byte> bytes, int64_t offset);  ///< bytes written, maybe fewer
  virtual int allocate(int fd, int64_t bytes);  ///< reserves blocks; 0 too where the file system cannot
  virtual int sync(int fd);
  virtual int close(int fd);
  virtual int rename(const std::string& from, const std::string& to);
  virtual int exchange(const std::string& a, const std::string& b);  ///< swaps two names atomically
  virtual int unlink(const std::string& path);
  virtual int make_directory(const std::string& path);
  virtual int remove_directory(const std::string& path);
  virtual int sync_directory(const std::string& path);
  virtual int64_t free_bytes(const std::string& path);  ///< what an ordinary user may still write there

  static FileOps& posix();  ///< stateless
};

/// Throws DataError("cannot <action> <path>: <reason>. <remedy>").
[[noreturn]] void throw_file_error(std::string_view action, const std::string& path, int error_number);

/// Replaces `path` as a whole: temporary file beside it, fsync, rename, fsync of the folder. After a crash the file has
/// either the old content or the new one.
void atomic_write_file(const std::string& path, std::string_view bytes, FileOps& ops = FileOps::posix());

/// Writes a file from front to end through a buffer and, when `hashed`, hashes what passes. The destructor closes
/// without sync: a file counts as written only after finish().
class FileWriter {
 public:
  FileWriter(std::string path, FileOps::Create mode, FileOps& ops = FileOps::posix(), bool hashed = false);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void append(std::span<const std::byte> bytes);
  void append(std::string_view text) { append(std::as_bytes(std::span(text))); }
  /// Reserves blocks now, so that a full disk is found before the work.
  void allocate(int64_t bytes);
  /// Hands the buffer to the operating system (no sync).
  void flush();
  /// flush, fsync, close.
  void finish();
  const std::string& path() const { return path_; }
  int64_t appended() const { return appended_; }      ///< bytes since opening
  uint64_t digest() const { return hash_.digest(); }  ///< XXH64 of these bytes, when hashed

 private:
  void write_out(std::span<const std::byte> bytes);

  std::string path_;
  FileOps& ops_;
  bool hashed_;
  int fd_;
  int64_t offset_ = 0;
  int64_t appended_ = 0;
  std::vector<std::byte> buffer_;
  Xxh64 hash_;
};

/// Positional reads; any thread may read at any time. Movable.
class FileReader {
 public:
  explicit FileReader(std::string path);
  /// Bytes in memory, which must outlive it, read as the file of that name would be.
  FileReader(std::string name, std::span<const std::byte> bytes);
  ~FileReader();
  FileReader(FileReader&& other) noexcept;
  FileReader& operator=(FileReader&& other) noexcept;

  /// Fills `out` from `offset`; DataError naming file and offset when the file ends before.
  void read_at(int64_t offset, std::span<std::byte> out) const;
  /// Forgets cached pages, so that the next read comes from the storage (where the file system honours it).
  void drop_cache() const;
  int64_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int fd_ = -1;
  std::span<const std::byte> memory_;  ///< without a file
  int64_t size_ = 0;
};

/// Whole file; DataError when it is larger than `max_bytes`.
std::string read_file(const std::string& path, int64_t max_bytes = int64_t{1} << 30);

/// Makes the folder and all its missing parents, each of them durable.
void create_directories(const std::string& path, FileOps& ops = FileOps::posix());
/// Makes the entries of a folder (created, renamed and removed names) durable.
void sync_directory(const std::string& path, FileOps& ops = FileOps::posix());
/// Removes a file, or a folder with all it holds; does not follow symbolic links. Nothing there is no error.
void remove_tree(const std::string& path, FileOps& ops = FileOps::posix());
/// DataError unless `bytes` more fit on the file system of `path`.
void require_free_space(const std::string& path, int64_t bytes, FileOps& ops = FileOps::posix());

/// Names in a folder, sorted; empty when there is no such folder.
std::vector<std::string> list_directory(const std::string& path);
bool path_exists(const std::string& path);  ///< a broken symbolic link exists too
bool directory_exists(const std::string& path);
bool is_symlink(const std::string& path);
std::string parent_directory(const std::string& path);
std::string path_join(const std::string& folder, std::string_view name);

/// An exclusive lock on a file (flock), held until destruction or the death of the process. The file names its owner
/// and stays. Movable.
class FileLock {
 public:
  /// Nothing when another open lock, in this process or another one, holds `path`; `owner` is then what that one wrote.
  static std::optional<FileLock> try_lock(const std::string& path, std::string_view text, std::string* owner);
  ~FileLock();
  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&& other) noexcept;

  /// False once the file was removed, replaced or rewritten behind our back.
  bool still_owned() const;

 private:
  FileLock(std::string path, std::string text, int fd);
  std::string path_, text_;
  int fd_;
};

}  // namespace megatron
