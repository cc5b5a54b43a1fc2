// The safetensors file format: 8 bytes little-endian length of the header, the header as a JSON object
// {name: {dtype, shape, data_offsets}, "__metadata__": {text: text}}, then the tensors back to back.
// https://huggingface.co/docs/safetensors
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_io.h"
#include "tensor/dtype.h"

namespace megatron {

/// One tensor of a file. Names of element types are the format's own: "F32", "BF16", ...
struct SafetensorsEntry {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  int64_t offset = 0;  ///< of its first byte in the file
  int64_t bytes = 0;
};

struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsEntry> entries;  ///< in the order of their data
  int64_t data_offset = 0;                ///< where the data begins
};

/// Bytes of one element; 0 for an unknown name.
int64_t safetensors_element_bytes(std::string_view dtype);
std::string_view safetensors_dtype(DType dtype);

/// Reads and checks the header: its length is inside the file (and at most 100 MB), keys are known and unique, names
/// are not empty, sizes follow from dtype and shape, and the tensors tile the data without gap or overlap to the end of
/// the file. DataError naming file, tensor or offset otherwise.
SafetensorsHeader read_safetensors_header(const FileReader& file);

/// The first bytes of a file with these tensors in this order; sets their `offset` and `bytes`. The data begins at a
/// multiple of 64, so every tensor is aligned to its element when wide types come before narrow ones.
std::string make_safetensors_header(std::vector<SafetensorsEntry>& entries,
                                    const std::map<std::string, std::string>& metadata);

/// Writes a file whose tensors arrive in the order of `entries`, in parts of any size.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::string& path, std::vector<SafetensorsEntry> entries,
                    const std::map<std::string, std::string>& metadata, FileOps& ops = FileOps::posix());
  void append(std::span<const std::byte> bytes) { file_.append(bytes); }
  /// Makes the file durable; InternalError when bytes are missing or too many.
  void finish();
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  int64_t header_bytes() const { return header_bytes_; }
  uint64_t header_checksum() const { return header_checksum_; }
  int64_t total_bytes() const { return total_bytes_; }

 private:
  std::vector<SafetensorsEntry> entries_;
  FileWriter file_;
  int64_t header_bytes_ = 0, total_bytes_ = 0;
  uint64_t header_checksum_ = 0;
};

}  // namespace megatron
