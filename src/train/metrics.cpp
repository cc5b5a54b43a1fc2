#include "train/metrics.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/strings.h"

namespace megatron {
namespace {

/// Writes the members of one object in the order of the calls.
class ObjectWriter {
 public:
  void integer(const std::string& key, int64_t value) { member(key, std::to_string(value)); }
  void boolean(const std::string& key, bool value) { member(key, value ? "true" : "false"); }

  void number(const std::string& key, double value) {
    if (!std::isfinite(value)) {
      member(key, "null");
      non_finite_.emplace_back(key, std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
      return;
    }
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, value).ptr;
    member(key, std::string(text, end));
  }

  void number(const std::string& key, const std::optional<double>& value) {
    value ? number(key, *value) : member(key, "null");
  }

  std::string finish() {
    std::string reasons;
    for (const auto& [key, text] : non_finite_) {
      reasons += str_cat(reasons.empty() ? "" : ", ", nlohmann::json(key).dump(), ": \"", text, "\"");
    }
    if (!reasons.empty()) member("non_finite", str_cat("{", reasons, "}"));
    return str_cat("{", text_, "}\n");
  }

  void member(const std::string& key, const std::string& json) {
    text_ += str_cat(text_.empty() ? "" : ", ", nlohmann::json(key).dump(), ": ", json);
  }

 private:
  std::string text_;
  std::vector<std::pair<std::string, std::string>> non_finite_;
};

void write_training(const StepMetrics& m, ObjectWriter& out) {
  out.number("lm_loss", m.lm_loss);
  for (const auto& [name, value] : m.losses) out.number(name, value);
  out.number("grad_norm", m.grad_norm);
  out.number("learning_rate", m.learning_rate);
  out.number("weight_decay", m.weight_decay);
  out.number("loss_scale", m.loss_scale);
  out.integer("batch_size", m.batch_size);
  out.number("step_seconds", m.step_seconds);
  out.number("tokens_per_second", m.tokens_per_second);
  out.number("tflops_per_gpu", m.tflops_per_gpu);
  out.number("mfu", m.mfu);
  out.member("peak_memory_bytes", m.peak_memory_bytes ? std::to_string(*m.peak_memory_bytes) : "null");
  out.number("data_wait_fraction", m.data_wait_fraction);
  out.boolean("skipped", m.skipped);
  out.integer("skipped_iterations", m.skipped_iterations);
}

}  // namespace

std::optional<double> dense_peak_flops(const std::string& device, DType dtype) {
  if (dtype != DType::kBF16 && dtype != DType::kF16) return std::nullopt;
  const auto named = [&](const char* part) { return device.find(part) != std::string::npos; };
  if (named("H100 PCIe")) return 756e12;
  if (named("H100 NVL")) return 835e12;
  if (named("H100") || named("H200") || named("GH200")) return 989.4e12;
  return std::nullopt;
}

void set_rates(StepMetrics& metrics, int64_t tokens, double flops, int64_t world_size,
               std::optional<double> peak_flops) {
  MEGATRON_CHECK(world_size > 0, "world size");
  const double seconds = std::max(metrics.step_seconds, 1e-9);  // a clock may stand still over a tiny step
  metrics.tokens_per_second = static_cast<double>(tokens) / seconds;
  metrics.tflops_per_gpu.reset();
  metrics.mfu.reset();
  if (flops <= 0) return;
  const double per_device = flops / seconds / static_cast<double>(world_size);
  metrics.tflops_per_gpu = per_device / 1e12;
  if (peak_flops) metrics.mfu = per_device / *peak_flops;
}

double perplexity(double loss) {
  return std::exp(std::min(20.0, loss));
}

std::string evaluation_key(const Evaluation& evaluation, const std::string& loss) {
  return str_cat(evaluation.split, "_", evaluation.set, evaluation.set.empty() ? "" : "_", loss);
}

std::string to_json_line(const StepMetrics& metrics) {
  ObjectWriter out;
  out.integer("iteration", metrics.iteration);
  out.integer("consumed_samples", metrics.consumed_samples);
  out.integer("consumed_tokens", metrics.consumed_tokens);
  if (metrics.trained) write_training(metrics, out);
  for (const Evaluation& evaluation : metrics.evaluations) {
    for (const auto& [name, value] : evaluation.losses) out.number(evaluation_key(evaluation, name), value);
  }
  return out.finish();
}

}  // namespace megatron
