// How fast the storage under a folder is, by trying.
#pragma once

#include <cstdint>
#include <string>

namespace megatron {

struct DiskSpeed {
  int64_t bytes = 0;            ///< written, and read back
  double write_seconds = 0;     ///< including fsync: what a checkpoint pays
  double read_seconds = 0;      ///< after dropping the cached pages
  double sync_seconds = 0;      ///< rewriting 4 KiB with fsync, median: what a commit pays
  bool read_is_cached = false;  ///< faster than any storage: the file system kept the pages
  double write_rate() const { return write_seconds > 0 ? static_cast<double>(bytes) / write_seconds : 0; }
  double read_rate() const { return read_seconds > 0 ? static_cast<double>(bytes) / read_seconds : 0; }
};

/// Writes at most `max_bytes` to a temporary file in `folder` and reads it back; stops early when a part has taken
/// about `max_seconds` / 3. The file is removed. DataError when the folder cannot be written.
DiskSpeed measure_disk(const std::string& folder, int64_t max_bytes, double max_seconds);

}  // namespace megatron
