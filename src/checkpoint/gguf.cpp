#include "checkpoint/gguf.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "checkpoint/strict_json.h"

namespace megatron {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr int64_t kDefaultAlignment = 32, kMostAlignment = 1 << 20;
constexpr int64_t kMostPairs = 1 << 16, kMostTensors = 1 << 20, kMostItems = 1 << 24;
constexpr int64_t kLongestText = 256 << 20, kMostText = int64_t{1} << 30, kWindowBytes = 1 << 16;
constexpr uint32_t kMostDimensions = 4;

/// Types of values, with the numbers of the file.
enum class ValueType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kText, kList, kU64, kI64, kF64 };
constexpr uint32_t kValueTypes = 13;

/// Reads the file from front to back; never beyond its end, and never more at once than is there.
class Cursor {
 public:
  explicit Cursor(const FileReader& file) : file_(file) {}

  int64_t at() const { return at_; }
  int64_t left() const { return file_.size() - at_; }
  const std::string& path() const { return file_.path(); }
  [[noreturn]] void fail(int64_t where, const std::string& what) const {
    fail_at(str_cat(file_.path(), ": byte ", where), what);
  }

  template <typename T>
  T take() {
    T value;
    take_bytes(std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  /// A count that says how many things of at least `least_bytes` follow.
  int64_t take_count(int64_t most, int64_t least_bytes, const char* what) {
    const int64_t where = at_;
    const auto count = take<uint64_t>();
    if (count > static_cast<uint64_t>(most) || static_cast<int64_t>(count) > left() / least_bytes) {
      fail(where,
           str_cat(count, " ", what, " do not fit the ", left(), " bytes that are left, or are more than ", most));
    }
    return static_cast<int64_t>(count);
  }
  std::string take_text() {
    const int64_t where = at_, size = take_count(kLongestText, 1, "bytes of text");
    text_bytes_ += size;
    if (text_bytes_ > kMostText) fail(where, str_cat("more than ", kMostText, " bytes of text"));
    std::string text(static_cast<size_t>(size), '\0');
    take_bytes(std::as_writable_bytes(std::span(text)));
    return text;
  }

 private:
  void take_bytes(std::span<std::byte> out) {
    if (std::ssize(out) > left()) fail(at_, str_cat(out.size(), " bytes are expected, the file has ", left(), " more"));
    if (std::ssize(out) > kWindowBytes) {
      file_.read_at(at_, out);
    } else if (!out.empty()) {
      if (at_ < window_at_ || at_ + std::ssize(out) > window_at_ + std::ssize(window_)) {
        window_.resize(static_cast<size_t>(std::min(kWindowBytes, left())));
        window_at_ = at_;
        file_.read_at(at_, window_);
      }
      std::memcpy(out.data(), window_.data() + (at_ - window_at_), out.size());
    }
    at_ += std::ssize(out);
  }

  const FileReader& file_;
  int64_t at_ = 0, window_at_ = 0, text_bytes_ = 0;
  std::vector<std::byte> window_;
};

int64_t take_integer(Cursor& cursor, ValueType type) {
  switch (type) {
    case ValueType::kU8:
      return cursor.take<uint8_t>();
    case ValueType::kI8:
      return cursor.take<int8_t>();
    case ValueType::kU16:
      return cursor.take<uint16_t>();
    case ValueType::kI16:
      return cursor.take<int16_t>();
    case ValueType::kU32:
      return cursor.take<uint32_t>();
    case ValueType::kI32:
      return cursor.take<int32_t>();
    case ValueType::kI64:
      return cursor.take<int64_t>();
    default:
      break;
  }
  const int64_t where = cursor.at();
  const auto value = cursor.take<uint64_t>();
  if (value > static_cast<uint64_t>(INT64_MAX)) cursor.fail(where, str_cat("the number ", value, " is too large"));
  return static_cast<int64_t>(value);
}

bool take_bool(Cursor& cursor) {
  const int64_t where = cursor.at();
  const auto value = cursor.take<uint8_t>();
  if (value > 1) cursor.fail(where, str_cat("a truth value is 0 or 1, not ", static_cast<int>(value)));
  return value == 1;
}

ValueType take_type(Cursor& cursor) {
  const int64_t where = cursor.at();
  const auto number = cursor.take<uint32_t>();
  if (number >= kValueTypes) cursor.fail(where, str_cat("unknown type of value ", number));
  return static_cast<ValueType>(number);
}

bool is_float(ValueType type) {
  return type == ValueType::kF32 || type == ValueType::kF64;
}

double take_float(Cursor& cursor, ValueType type) {
  return type == ValueType::kF32 ? static_cast<double>(cursor.take<float>()) : cursor.take<double>();
}

int64_t least_bytes(ValueType type) {
  constexpr std::array<int64_t, kValueTypes> kBytes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return kBytes[static_cast<size_t>(type)];
}

GgufValue take_list(Cursor& cursor) {
  const int64_t where = cursor.at();
  const ValueType type = take_type(cursor);
  if (type == ValueType::kList) cursor.fail(where, "lists of lists are not supported");
  const int64_t count = cursor.take_count(kMostItems, least_bytes(type), "items of a list");
  const auto fill = [&](auto values, const auto& take) -> GgufValue {
    for (int64_t i = 0; i < count; ++i) values.push_back(take());
    return values;
  };
  if (type == ValueType::kText) return fill(std::vector<std::string>(), [&] { return cursor.take_text(); });
  if (is_float(type)) return fill(std::vector<double>(), [&] { return take_float(cursor, type); });
  if (type == ValueType::kBool) return fill(std::vector<int64_t>(), [&] { return int64_t{take_bool(cursor)}; });
  return fill(std::vector<int64_t>(), [&] { return take_integer(cursor, type); });
}

GgufValue take_value(Cursor& cursor) {
  const ValueType type = take_type(cursor);
  if (type == ValueType::kList) return take_list(cursor);
  if (type == ValueType::kText) return cursor.take_text();
  if (type == ValueType::kBool) return take_bool(cursor);
  if (is_float(type)) return take_float(cursor, type);
  return take_integer(cursor, type);
}

/// One row of the table; `offset` is still counted from the beginning of the data.
GgufTensor take_tensor(Cursor& cursor) {
  GgufTensor tensor;
  int64_t where = cursor.at();
  tensor.name = cursor.take_text();
  if (tensor.name.empty()) cursor.fail(where, "a tensor has an empty name");
  const auto fail = [&](const std::string& what) { cursor.fail(where, str_cat("tensor '", tensor.name, "': ", what)); };
  where = cursor.at();
  const auto rank = cursor.take<uint32_t>();
  if (rank == 0 || rank > kMostDimensions) fail(str_cat(rank, " dimensions; 1 to ", kMostDimensions, " are possible"));
  for (uint32_t i = 0; i < rank; ++i) {
    where = cursor.at();
    const auto extent = cursor.take<uint64_t>();
    if (extent > (uint64_t{1} << 48)) fail(str_cat("dimension ", extent, " is too large"));
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(extent));
  }
  where = cursor.at();
  const auto number = cursor.take<uint32_t>();
  const std::optional<GgmlType> type = ggml_type(number);
  if (!type)
    fail(str_cat("element type ", number, " is not supported; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K and Q6_K are"));
  tensor.type = *type;
  const int64_t block = block_elements(tensor.type);
  if (tensor.shape.back() % block != 0) {
    fail(str_cat("rows of ", tensor.shape.back(), " elements are no whole blocks of ", block, " (",
                 name_of(tensor.type), ")"));
  }
  std::vector<int64_t> blocks = tensor.shape;
  blocks.back() /= block;
  tensor.bytes =
      checked_bytes(blocks, block_bytes(tensor.type), str_cat(cursor.path(), ": tensor '", tensor.name, "'"));
  where = cursor.at();
  const auto offset = cursor.take<uint64_t>();
  if (offset > (uint64_t{1} << 60)) fail(str_cat("offset ", offset, " is beyond the end"));
  tensor.offset = static_cast<int64_t>(offset);
  return tensor;
}

int64_t alignment_of(const Cursor& cursor, const std::map<std::string, GgufValue>& metadata) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return kDefaultAlignment;
  const auto* value = std::get_if<int64_t>(&found->second);
  if (value == nullptr || *value < 1 || *value > kMostAlignment || (*value & (*value - 1)) != 0) {
    cursor.fail(cursor.at(), "general.alignment is no power of two up to 2^20");
  }
  return *value;
}

/// Makes offsets those in the file; tensors must be aligned, apart from each other and within the file.
void place_tensors(const Cursor& cursor, const FileReader& file, int64_t alignment, std::vector<GgufTensor>& tensors) {
  const int64_t data = round_up(cursor.at(), alignment);
  std::stable_sort(tensors.begin(), tensors.end(), [](const GgufTensor& a, const GgufTensor& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
  });
  int64_t end = data;
  for (GgufTensor& tensor : tensors) {
    const auto fail = [&](const std::string& what) {
      fail_at(file.path(), str_cat("byte ", tensor.offset, ": tensor '", tensor.name, "' ", what));
    };
    if (tensor.offset % alignment != 0) fail(str_cat("does not begin at a multiple of ", alignment));
    tensor.offset += data;
    if (tensor.offset < end) fail("overlaps the one before");
    if (tensor.bytes > file.size() - std::min(tensor.offset, file.size())) {
      fail(str_cat("has ", tensor.bytes, " bytes, the file ends at ", file.size(), ": it is truncated"));
    }
    end = tensor.offset + tensor.bytes;
  }
}

// ---- writing ----

template <typename T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_text(std::string& out, const std::string& text) {
  put(out, static_cast<uint64_t>(text.size()));
  out += text;
}

void put_list_head(std::string& out, ValueType type, size_t count) {
  put(out, ValueType::kList);
  put(out, type);
  put(out, static_cast<uint64_t>(count));
}

/// Integers are written as 32 bits unsigned where they fit, as llama.cpp reads them; floats as 32 bits.
struct ValuePrinter {
  std::string& out;

  void operator()(bool value) const {
    put(out, ValueType::kBool);
    put(out, static_cast<uint8_t>(value));
  }
  void operator()(int64_t value) const {
    const bool fits = value >= 0 && value <= int64_t{UINT32_MAX};
    put(out, fits ? ValueType::kU32 : ValueType::kI64);
    if (fits) {
      put(out, static_cast<uint32_t>(value));
    } else {
      put(out, value);
    }
  }
  void operator()(double value) const {
    put(out, ValueType::kF32);
    put(out, static_cast<float>(value));
  }
  void operator()(const std::string& value) const {
    put(out, ValueType::kText);
    put_text(out, value);
  }
  void operator()(const std::vector<int64_t>& values) const {
    put_list_head(out, ValueType::kI32, values.size());
    for (int64_t value : values) put(out, narrow<int32_t>(value));
  }
  void operator()(const std::vector<double>& values) const {
    put_list_head(out, ValueType::kF32, values.size());
    for (double value : values) put(out, static_cast<float>(value));
  }
  void operator()(const std::vector<std::string>& values) const {
    put_list_head(out, ValueType::kText, values.size());
    for (const std::string& value : values) put_text(out, value);
  }
};

}  // namespace

bool has_gguf_magic(const std::string& path) {
  if (!path_exists(path) || directory_exists(path)) return false;
  const FileReader file(path);
  if (file.size() < std::ssize(kMagic)) return false;
  std::string magic(kMagic.size(), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(magic)));
  return magic == kMagic;
}

GgufHeader read_gguf_header(const FileReader& file) {
  Cursor cursor(file);
  std::array<char, 4> magic = cursor.take<std::array<char, 4>>();
  if (std::string_view(magic.data(), magic.size()) != kMagic) cursor.fail(0, "the file does not begin with GGUF");
  const auto version = cursor.take<uint32_t>();
  if (version != 2 && version != 3) {
    cursor.fail(4, str_cat("version ", version, " is not supported; 2 and 3, little-endian, are"));
  }
  const int64_t tensors = cursor.take_count(kMostTensors, 24, "tensors");
  const int64_t pairs = cursor.take_count(kMostPairs, 13, "key-value pairs");
  GgufHeader header;
  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t where = cursor.at();
    const std::string key = cursor.take_text();
    if (!header.metadata.emplace(key, take_value(cursor)).second) {
      cursor.fail(where, str_cat("the key '", key, "' appears twice"));
    }
  }
  std::set<std::string> names;
  for (int64_t i = 0; i < tensors; ++i) {
    const int64_t where = cursor.at();
    header.tensors.push_back(take_tensor(cursor));
    if (!names.insert(header.tensors.back().name).second) {
      cursor.fail(where, str_cat("tensor '", header.tensors.back().name, "' appears twice"));
    }
  }
  place_tensors(cursor, file, alignment_of(cursor, header.metadata), header.tensors);
  return header;
}

GgufWriter::GgufWriter(const std::string& path, const std::map<std::string, GgufValue>& metadata,
                       std::vector<GgufTensor> tensors, FileOps& ops)
    : tensors_(std::move(tensors)), file_(path, FileOps::Create::kNew, ops) {
  std::string head(kMagic);
  put(head, uint32_t{3});
  put(head, static_cast<uint64_t>(tensors_.size()));
  put(head, static_cast<uint64_t>(metadata.size()));
  for (const auto& [key, value] : metadata) {
    put_text(head, key);
    std::visit(ValuePrinter{head}, value);
  }
  int64_t offset = 0;
  for (GgufTensor& tensor : tensors_) {
    put_text(head, tensor.name);
    put(head, static_cast<uint32_t>(tensor.shape.size()));
    int64_t elements = 1;
    for (size_t i = tensor.shape.size(); i-- > 0;) {
      put(head, static_cast<uint64_t>(tensor.shape[i]));
      elements *= tensor.shape[i];
    }
    put(head, tensor.type);
    put(head, static_cast<uint64_t>(offset));
    tensor.bytes = div_exact(elements, block_elements(tensor.type)) * block_bytes(tensor.type);
    tensor.offset = offset;
    offset += round_up(tensor.bytes, kDefaultAlignment);
  }
  head.resize(static_cast<size_t>(round_up(std::ssize(head), kDefaultAlignment)), '\0');
  file_.allocate(std::ssize(head) + offset);
  file_.append(head);
}

void GgufWriter::append(std::span<const std::byte> tensor) {
  MEGATRON_CHECK(next_ < tensors_.size() && std::ssize(tensor) == tensors_[next_].bytes,
                 "tensors come in order, whole");
  file_.append(tensor);
  const int64_t padding = round_up(std::ssize(tensor), kDefaultAlignment) - std::ssize(tensor);
  file_.append(std::string(static_cast<size_t>(padding), '\0'));
  ++next_;
}

void GgufWriter::finish() {
  MEGATRON_CHECK(next_ == tensors_.size(), "tensors are missing");
  file_.finish();
}

}  // namespace megatron
