// The GGUF file format, versions 2 and 3: "GGUF", version, counts, key-value pairs, a table of tensors, then their data
// at multiples of `alignment`. Little-endian. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/file_io.h"
#include "checkpoint/quants.h"

namespace megatron {

/// Integers of all widths, floats of both, and lists of them; unsigned numbers above 2^63 are refused.
using GgufValue = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>, std::vector<double>,
                               std::vector<std::string>>;

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<int64_t> shape;  ///< row-major: the last dimension is contiguous
  int64_t offset = 0;          ///< of its first byte in the file
  int64_t bytes = 0;
};

struct GgufHeader {
  std::map<std::string, GgufValue> metadata;
  std::vector<GgufTensor> tensors;  ///< in the order of their data
};

/// True when the file begins as GGUF does.
bool has_gguf_magic(const std::string& path);

/// Reads and checks all but the data: sizes fit the file, names are unique, types are known, tensors are aligned, do
/// not overlap and end within the file. DataError naming file, byte and what is there.
GgufHeader read_gguf_header(const FileReader& file);

/// Writes a file of version 3 whose tensors arrive in the order of `tensors`, whole.
class GgufWriter {
 public:
  /// Sets `offset` and `bytes` of the tensors.
  GgufWriter(const std::string& path, const std::map<std::string, GgufValue>& metadata, std::vector<GgufTensor> tensors,
             FileOps& ops = FileOps::posix());
  void append(std::span<const std::byte> tensor);
  /// Makes the file durable.
  void finish();

 private:
  std::vector<GgufTensor> tensors_;
  FileWriter file_;
  size_t next_ = 0;
};

}  // namespace megatron
