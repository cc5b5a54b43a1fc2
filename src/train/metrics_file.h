// Files that grow during a run and must not end it: a full disk costs records and one warning, not the training.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/file_io.h"
#include "train/metrics.h"

namespace megatron {

/// Appends whole records to a file. After a failed write the file is cut back to its last whole record.
class AppendFile {
 public:
  /// Opens at the end of what is there. DataError when the file cannot be opened: at the start of a run that is a
  /// mistake worth stopping for.
  explicit AppendFile(std::string path, FileOps& ops = FileOps::posix());
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  /// Hands the record to the operating system, so that it survives a kill of the process. False, with a warning at most
  /// every ten minutes, when it could not be written.
  bool append(std::string_view record);
  int64_t lost_records() const { return lost_; }
  const std::string& path() const { return path_; }

 private:
  bool cut_back();
  void warn(int error_number);

  std::string path_;
  FileOps& ops_;
  int fd_ = -1;
  int64_t offset_ = 0;
  bool torn_ = false;  ///< bytes of a failed record may stand behind offset_
  int64_t lost_ = 0;
  std::chrono::steady_clock::time_point next_warning_{};
};

/// Cuts a file back to its last line feed; returns the number of bytes removed. No file is 0. A process that dies while
/// it writes leaves half a line, which would merge with the next one.
int64_t cut_torn_line(const std::string& path);

/// `metrics.jsonl`: one line per iteration, appended; a torn last line of an earlier run is cut off first, with a
/// warning.
class JsonLinesSink : public MetricsSink {
 public:
  explicit JsonLinesSink(const std::string& path, FileOps& ops = FileOps::posix());
  void write(const StepMetrics& metrics) override;

 private:
  AppendFile file_;
};

}  // namespace megatron
