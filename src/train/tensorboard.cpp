#include "train/tensorboard.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstdio>

#include "base/check.h"
#include "base/strings.h"

namespace megatron {
namespace {

// Field numbers of the messages, and protobuf wire types.
enum EventField : uint32_t { kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5 };
enum SummaryField : uint32_t { kValue = 1 };
enum ValueField : uint32_t { kTag = 1, kSimpleValue = 2 };
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1u) != 0 ? 0x82f63b78u : 0u);
    table[byte] = value;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kCrcTable = make_crc_table();

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>((value & 0x7f) | 0x80));
  out.push_back(static_cast<char>(value));
}

template <typename T>
void put_fixed(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
}

void put_key(std::string& out, uint32_t field, WireType type) {
  put_varint(out, (field << 3) | type);
}

void put_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  put_key(out, field, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

std::string event_head(double unix_seconds) {
  std::string event;
  put_key(event, kWallTime, kFixed64);
  put_fixed(event, std::bit_cast<uint64_t>(unix_seconds));
  return event;
}

void put_step(std::string& event, int64_t step) {
  put_key(event, kStep, kVarint);
  put_varint(event, static_cast<uint64_t>(step));
}

std::string record(std::string_view data) {
  std::string out;
  put_fixed(out, static_cast<uint64_t>(data.size()));
  put_fixed(out, masked_crc32c(out));
  out += data;
  put_fixed(out, masked_crc32c(data));
  return out;
}

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string prepared_path(const TensorBoardFile& file, FileOps& ops) {
  create_directories(file.directory, ops);
  return file.path();
}

/// "load_balancing_loss" stays as it is, as upstream; "lm_loss" is "lm loss".
std::string tag_of(const std::string& loss) {
  return loss == "lm_loss" ? "lm loss" : loss;
}

/// A scalar over iterations, and whether upstream also draws it over samples.
struct Scalar {
  std::string tag;
  double value;
  bool versus_samples;
};

std::vector<Scalar> training_scalars(const StepMetrics& m) {
  std::vector<Scalar> out = {{"learning-rate", m.learning_rate, true},
                             {"batch-size", static_cast<double>(m.batch_size), true}};
  if (m.lm_loss) out.push_back({tag_of("lm_loss"), *m.lm_loss, true});
  for (const auto& [name, value] : m.losses) out.push_back({tag_of(name), value, true});
  out.push_back({"loss-scale", m.loss_scale, true});
  if (m.grad_norm) out.push_back({"grad-norm", *m.grad_norm, true});
  out.push_back({"weight-decay", m.weight_decay, false});
  out.push_back({"skipped-iterations", static_cast<double>(m.skipped_iterations), false});
  out.push_back({"iteration-time", m.step_seconds, false});
  out.push_back({"tokens-per-second", m.tokens_per_second, false});
  out.push_back({"data-wait-fraction", m.data_wait_fraction, false});
  if (m.tflops_per_gpu) out.push_back({"throughput", *m.tflops_per_gpu, false});
  if (m.mfu) out.push_back({"mfu", *m.mfu, false});
  if (m.peak_memory_bytes) {
    out.push_back({"mem-max-allocated-bytes", static_cast<double>(*m.peak_memory_bytes), false});
  }
  return out;
}

std::vector<Scalar> evaluation_scalars(const Evaluation& evaluation) {
  const std::string split = evaluation.split == "valid" ? "validation" : evaluation.split;
  const std::string suffix = evaluation.set.empty() ? "" : str_cat("-", evaluation.set);
  std::vector<Scalar> out;
  for (const auto& [name, value] : evaluation.losses) {
    const std::string tag = str_cat(tag_of(name), " ", split, suffix);
    out.push_back({tag, value, true});
    if (name == "lm_loss") out.push_back({str_cat(tag, " ppl"), perplexity(value), true});
  }
  return out;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = 0xffffffffu;
  for (char c : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xffu];
  return ~crc;
}

uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

std::string TensorBoardFile::path() const {
  char name[32];
  std::snprintf(name, sizeof name, "%010lld", static_cast<long long>(unix_seconds));
  return path_join(directory, str_cat("events.out.tfevents.", name, ".", host, ".", process_id));
}

TensorBoardWriter::TensorBoardWriter(const TensorBoardFile& file, FileOps& ops) : file_(prepared_path(file, ops), ops) {
  std::string version = event_head(now_seconds());
  put_bytes(version, kFileVersion, "brain.Event:2");
  file_.append(record(version));
}

void TensorBoardWriter::add_scalars(const Scalars& scalars, int64_t step, double unix_seconds) {
  std::string summary;
  for (const auto& [tag, value] : scalars) {
    std::string entry;
    put_bytes(entry, kTag, tag);
    put_key(entry, kSimpleValue, kFixed32);
    put_fixed(entry, std::bit_cast<uint32_t>(static_cast<float>(value)));
    put_bytes(summary, kValue, entry);
  }
  std::string event = event_head(unix_seconds);
  put_step(event, step);
  put_bytes(event, kSummary, summary);
  file_.append(record(event));
}

TensorBoardSink::TensorBoardSink(const TensorBoardFile& file, int64_t log_interval, FileOps& ops)
    : writer_(file, ops), log_interval_(log_interval) {
  MEGATRON_CHECK(log_interval > 0, "TensorBoard log interval");
}

void TensorBoardSink::write(const StepMetrics& metrics) {
  if (metrics.iteration != last_iteration_) written_.clear();
  last_iteration_ = metrics.iteration;
  std::vector<Scalar> scalars;
  if (metrics.trained && metrics.iteration % log_interval_ == 0) scalars = training_scalars(metrics);
  for (const Evaluation& evaluation : metrics.evaluations) {
    for (Scalar& scalar : evaluation_scalars(evaluation)) scalars.push_back(std::move(scalar));
  }
  TensorBoardWriter::Scalars by_iteration, by_samples;
  for (const Scalar& scalar : scalars) {
    if (!written_.insert(scalar.tag).second) continue;
    by_iteration.emplace_back(scalar.tag, scalar.value);
    if (scalar.versus_samples) by_samples.emplace_back(scalar.tag + " vs samples", scalar.value);
  }
  const double now = now_seconds();
  if (!by_iteration.empty()) writer_.add_scalars(by_iteration, metrics.iteration, now);
  if (!by_samples.empty()) writer_.add_scalars(by_samples, metrics.consumed_samples, now);
}

}  // namespace megatron
