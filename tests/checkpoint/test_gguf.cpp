// GGUF files against the `gguf` package (tests/golden/gguf/README.md).
#include <cmath>
#include <map>

#include "checkpoint/gguf.h"
#include "checkpoint/safetensors.h"
#include "tests/checkpoint/helpers.h"

using namespace megatron;
using namespace megatron::testing;

namespace {

const std::string kGolden = std::string(MEGATRON_SOURCE_DIR) + "/tests/golden/gguf/";

std::map<std::string, std::vector<float>> read_floats(const std::string& path) {
  std::map<std::string, std::vector<float>> tensors;
  const FileReader file(path);
  for (const SafetensorsEntry& entry : read_safetensors_header(file).entries) {
    std::vector<float>& values = tensors[entry.name];
    values.resize(static_cast<size_t>(entry.bytes) / sizeof(float));
    file.read_at(entry.offset, std::as_writable_bytes(std::span(values)));
  }
  return tensors;
}

std::vector<std::byte> stored_bytes(const FileReader& file, const GgufTensor& tensor) {
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.bytes));
  file.read_at(tensor.offset, bytes);
  return bytes;
}

}  // namespace

TEST_CASE("gguf: every type is read as the gguf package reads it, bit for bit") {
  const auto expected = read_floats(kGolden + "types.safetensors");
  const FileReader file(kGolden + "types.gguf");
  const GgufHeader header = read_gguf_header(file);
  CHECK(header.tensors.size() == 8);
  for (const GgufTensor& tensor : header.tensors) {
    CAPTURE(tensor.name);
    CHECK(name_of(tensor.type) == tensor.name);
    CHECK(tensor.shape == std::vector<int64_t>{3, 512});
    const std::vector<std::byte> blocks = stored_bytes(file, tensor);
    std::vector<float> values(3 * 512);
    dequantize(tensor.type, blocks, values);
    CHECK(values == expected.at(tensor.name));
  }
}

TEST_CASE("gguf: F32, BF16 and Q8_0 are written as the gguf package writes them, bit for bit") {
  const std::vector<float> values = read_floats(kGolden + "types.safetensors").at("values");
  const FileReader file(kGolden + "types.gguf");
  for (const GgufTensor& tensor : read_gguf_header(file).tensors) {
    if (tensor.type != GgmlType::kF32 && tensor.type != GgmlType::kBF16 && tensor.type != GgmlType::kQ8_0) continue;
    CAPTURE(tensor.name);
    const std::vector<std::byte> expected = stored_bytes(file, tensor);
    std::vector<std::byte> blocks(expected.size());
    quantize(tensor.type, values, blocks);
    CHECK(blocks == expected);
  }
}

TEST_CASE("gguf: key-value pairs of all kinds") {
  const FileReader file(kGolden + "types.gguf");
  const auto metadata = read_gguf_header(file).metadata;
  CHECK(std::get<std::string>(metadata.at("general.architecture")) == "test");
  CHECK(std::get<int64_t>(metadata.at("test.large")) == int64_t{1} << 40);
  CHECK(std::get<bool>(metadata.at("test.truth")));
  CHECK(std::get<double>(metadata.at("test.half")) == 0.5);
  CHECK(std::get<std::vector<std::string>>(metadata.at("test.words")) == std::vector<std::string>{"a", "bc", ""});
  CHECK(std::get<std::vector<int64_t>>(metadata.at("test.numbers")) == std::vector<int64_t>{1, -2, 3});
}

TEST_CASE("gguf: what is written is read back") {
  const TempFolder folder;
  const std::map<std::string, GgufValue> metadata = {{"a.bool", true},
                                                     {"a.int", int64_t{7}},
                                                     {"a.negative", int64_t{-7}},
                                                     {"a.float", 0.25},
                                                     {"a.text", std::string("x")},
                                                     {"a.ints", std::vector<int64_t>{1, -1}},
                                                     {"a.floats", std::vector<double>{0.5, 2.0}},
                                                     {"a.texts", std::vector<std::string>{"", "yz"}}};
  GgufWriter writer(folder.file("x.gguf"), metadata,
                    {{"odd", GgmlType::kBF16, {3, 5}, 0, 0}, {"blocks", GgmlType::kQ8_0, {2, 64}, 0, 0}});
  const std::vector<std::byte> odd(30, std::byte{1}), blocks(4 * 34, std::byte{2});
  writer.append(odd);
  writer.append(blocks);
  writer.finish();
  const FileReader file(folder.file("x.gguf"));
  const GgufHeader header = read_gguf_header(file);
  CHECK(header.metadata == metadata);
  REQUIRE(header.tensors.size() == 2);
  CHECK(header.tensors[0].name == "odd");
  CHECK(header.tensors[0].shape == std::vector<int64_t>{3, 5});
  CHECK(stored_bytes(file, header.tensors[0]) == odd);
  CHECK(stored_bytes(file, header.tensors[1]) == blocks);
}
