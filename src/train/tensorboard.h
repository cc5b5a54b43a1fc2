// TensorBoard event files, written natively.
//
// A file is a sequence of records: length (uint64, little endian), masked CRC32C of the length, data, masked CRC32C of
// the data (tensorflow/core/lib/io/record_writer.h). Data is a protobuf message `Event`
// (tensorflow/core/util/event.proto); the first one holds the file version. The mask is ((crc >> 15) | (crc << 17)) +
// 0xa282ead8.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "train/metrics.h"
#include "train/metrics_file.h"

namespace megatron {

/// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78).
uint32_t crc32c(std::string_view bytes);
/// The form stored in records.
uint32_t masked_crc32c(std::string_view bytes);

/// Where and under which name an event file is made.
struct TensorBoardFile {
  std::string directory;
  int64_t unix_seconds = 0;  ///< of the start
  std::string host;
  int64_t process_id = 0;

  /// directory/events.out.tfevents.<seconds, 10 digits>.<host>.<pid>
  std::string path() const;
};

/// One event file with scalar summaries.
class TensorBoardWriter {
 public:
  using Scalars = std::vector<std::pair<std::string, double>>;

  /// Makes the folder and the file. A resumed run writes a file of its own. It sends no SessionLog.START, which would
  /// purge by step alone: iterations and consumed samples share the folder, and TensorBoard's own reader already lets
  /// a repeated step replace what follows it.
  explicit TensorBoardWriter(const TensorBoardFile& file, FileOps& ops = FileOps::posix());

  /// One event. TensorBoard keeps scalars as fp32; metrics.jsonl has all digits.
  void add_scalars(const Scalars& scalars, int64_t step, double unix_seconds);

 private:
  AppendFile file_;
};

/// Training and evaluation scalars under Megatron-LM's tags ("lm loss", "learning-rate", "lm loss validation", ... and
/// "... vs samples" over consumed samples).
class TensorBoardSink : public MetricsSink {
 public:
  /// Training scalars are written when `log_interval` divides the iteration, evaluations always.
  TensorBoardSink(const TensorBoardFile& file, int64_t log_interval, FileOps& ops = FileOps::posix());
  void write(const StepMetrics& metrics) override;

 private:
  TensorBoardWriter writer_;
  int64_t log_interval_;
  int64_t last_iteration_ = -1;
  std::set<std::string> written_;  ///< tags of last_iteration_, so that a repeated iteration adds only what is new
};

}  // namespace megatron
