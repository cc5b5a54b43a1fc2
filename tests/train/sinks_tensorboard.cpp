// TensorBoard event files, read back by a small reader that shares nothing with the writer.
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/file_io.h"
#include "base/strings.h"
#include "tests/catch.h"
#include "train/tensorboard.h"

namespace megatron {
namespace {

struct Point {
  int64_t step;
  float value;
};

struct EventFile {
  std::string version;
  std::map<std::string, std::vector<Point>> scalars;
  std::vector<double> times;
};

/// CRC-32C bit by bit, most significant bit first, with explicit reflection: another way than the writer's table.
uint32_t slow_crc(const std::string& bytes) {
  uint32_t crc = 0xffffffffu;
  for (unsigned char byte : bytes) {
    for (int bit = 0; bit < 8; ++bit) {
      const bool feed = ((crc >> 31) & 1u) != ((static_cast<uint32_t>(byte) >> bit) & 1u);
      crc = (crc << 1) ^ (feed ? 0x1edc6f41u : 0u);
    }
  }
  uint32_t reflected = 0;
  for (int bit = 0; bit < 32; ++bit) reflected |= ((crc >> bit) & 1u) << (31 - bit);
  return ~reflected;
}

uint32_t slow_masked(const std::string& bytes) {
  const uint32_t crc = slow_crc(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

template <typename T>
T load(const std::string& bytes, size_t at) {
  REQUIRE(at + sizeof(T) <= bytes.size());
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

/// One field of a protobuf message: number, and its value as a number or as bytes.
struct Field {
  uint64_t number;
  uint64_t scalar = 0;
  std::string bytes;
};

uint64_t varint(const std::string& m, size_t& at) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    REQUIRE(at < m.size());
    const auto byte = static_cast<unsigned char>(m[at++]);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

std::vector<Field> parse(const std::string& m) {
  std::vector<Field> fields;
  for (size_t at = 0; at < m.size();) {
    const uint64_t key = varint(m, at);
    Field field{key >> 3, 0, {}};
    switch (key & 7) {
      case 0:
        field.scalar = varint(m, at);
        break;
      case 1:
        field.scalar = load<uint64_t>(m, at), at += 8;
        break;
      case 5:
        field.scalar = load<uint32_t>(m, at), at += 4;
        break;
      case 2: {
        const uint64_t size = varint(m, at);
        REQUIRE(at + size <= m.size());
        field.bytes = m.substr(at, size), at += size;
        break;
      }
      default:
        FAIL("wire type " << (key & 7));
    }
    fields.push_back(field);
  }
  return fields;
}

void add_value(EventFile& file, const std::string& message, int64_t step) {
  std::string tag;
  float value = 0;
  for (const Field& field : parse(message)) {
    if (field.number == 1) tag = field.bytes;
    if (field.number == 2) value = std::bit_cast<float>(static_cast<uint32_t>(field.scalar));
  }
  REQUIRE_FALSE(tag.empty());
  file.scalars[tag].push_back({step, value});
}

EventFile read_events(const std::string& path) {
  const std::string bytes = read_file(path);
  EventFile file;
  for (size_t at = 0; at < bytes.size();) {
    const auto size = load<uint64_t>(bytes, at);
    CHECK(load<uint32_t>(bytes, at + 8) == slow_masked(bytes.substr(at, 8)));
    REQUIRE(at + 16 + size <= bytes.size());
    const std::string data = bytes.substr(at + 12, size);
    CHECK(load<uint32_t>(bytes, at + 12 + size) == slow_masked(data));
    at += 16 + size;
    int64_t step = 0;
    for (const Field& field : parse(data)) {
      if (field.number == 1) file.times.push_back(std::bit_cast<double>(field.scalar));
      if (field.number == 2) step = static_cast<int64_t>(field.scalar);
      if (field.number == 3) file.version = field.bytes;
      if (field.number != 5) continue;
      for (const Field& value : parse(field.bytes)) add_value(file, value.bytes, step);
    }
  }
  return file;
}

struct Scratch {
  std::filesystem::path dir = std::filesystem::temp_directory_path() / str_cat("megatron-tb-", ::getpid());
  Scratch() { std::filesystem::remove_all(dir); }
  ~Scratch() { std::filesystem::remove_all(dir); }
};

StepMetrics step(int64_t iteration) {
  StepMetrics m;
  m.iteration = iteration;
  m.consumed_samples = 8 * iteration;
  m.lm_loss = 3.0 - 0.125 * static_cast<double>(iteration);
  m.grad_norm = 0.5;
  m.learning_rate = 1e-3;
  m.batch_size = 8;
  m.step_seconds = 0.25;
  return m;
}

}  // namespace

TEST_CASE("CRC-32C equals the published check values") {
  CHECK(crc32c("") == 0u);
  CHECK(crc32c("123456789") == 0xe3069283u);  // the check value of the catalogue of parametrised CRC algorithms
  CHECK(crc32c(std::string(32, '\0')) == 0x8a9136aau);  // RFC 3720, B.4
  CHECK(crc32c(std::string(32, '\xff')) == 0x62a8ab43u);
  CHECK(masked_crc32c("123456789") == slow_masked("123456789"));
}

TEST_CASE("event files are named as TensorBoard expects and start with the version") {
  const Scratch scratch;
  const TensorBoardFile name{scratch.dir.string(), 1700000000, "node7", 4242};
  CHECK(name.path() == (scratch.dir / "events.out.tfevents.1700000000.node7.4242").string());
  CHECK(TensorBoardFile{"d", 5, "h", 1}.path() == "d/events.out.tfevents.0000000005.h.1");
  { const TensorBoardWriter writer(name); }
  const EventFile file = read_events(name.path());
  CHECK(file.version == "brain.Event:2");
  CHECK(file.scalars.empty());
}

TEST_CASE("scalars come back with tag, step, time and fp32 value") {
  const Scratch scratch;
  const TensorBoardFile name{scratch.dir.string(), 1, "h", 1};
  TensorBoardWriter writer(name);
  writer.add_scalars({{"a tag", 0.1}, {"b", -2.0}}, 3000000000, 1234.5);
  writer.add_scalars({{std::string(300, 'x'), 1e300}}, 1, 1235.5);
  EventFile file = read_events(name.path());
  REQUIRE(file.scalars.size() == 3);
  CHECK(file.scalars["a tag"][0].step == 3000000000);
  CHECK(file.scalars["a tag"][0].value == 0.1f);
  CHECK(file.scalars["b"][0].value == -2.0f);
  CHECK(file.scalars[std::string(300, 'x')][0].value == std::numeric_limits<float>::infinity());
  CHECK(file.times.at(1) == 1234.5);
}

TEST_CASE("the sink writes Megatron's tags over iterations and over samples") {
  const Scratch scratch;
  const TensorBoardFile name{scratch.dir.string(), 1, "h", 1};
  TensorBoardSink sink(name, 2);
  for (int64_t i = 1; i <= 4; ++i) {
    StepMetrics m = step(i);
    if (i == 3) m.evaluations = {{"valid", "", {{"lm_loss", 2.0}}}};
    if (i == 4) m.evaluations = {{"valid", "books", {{"lm_loss", 30.0}}}};
    sink.write(m);
    if (i != 4) continue;
    m.evaluations.push_back({"test", "", {{"lm_loss", 1.5}}});
    sink.write(m);  // the same iteration again, with an evaluation made later
  }
  EventFile file = read_events(name.path());
  for (const char* tag : {"lm loss", "learning-rate", "batch-size", "loss-scale", "grad-norm"}) {
    INFO(tag);
    REQUIRE(file.scalars[tag].size() == 2);
    CHECK(file.scalars[tag][0].step == 2);
    CHECK(file.scalars[tag][1].step == 4);
    REQUIRE(file.scalars[std::string(tag) + " vs samples"].size() == 2);
    CHECK(file.scalars[std::string(tag) + " vs samples"][1].step == 32);
  }
  CHECK(file.scalars["lm loss"][1].value == 2.5f);
  CHECK(file.scalars["iteration-time"].size() == 2);
  CHECK(file.scalars.count("iteration-time vs samples") == 0);
  REQUIRE(file.scalars["lm loss validation"].size() == 1);
  CHECK(file.scalars["lm loss validation"][0].step == 3);
  CHECK(file.scalars["lm loss validation ppl"][0].value == Approx(std::exp(2.0)));
  CHECK(file.scalars["lm loss validation vs samples"][0].step == 24);
  REQUIRE(file.scalars["lm loss validation-books"].size() == 1);
  CHECK(file.scalars["lm loss validation-books ppl"][0].value == Approx(std::exp(20.0)));  // capped as upstream
  REQUIRE(file.scalars["lm loss test"].size() == 1);
  CHECK(file.scalars.count("mfu") == 0);
}

}  // namespace megatron
