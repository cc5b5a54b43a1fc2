// Declaration of the rotary position embedding, and its frequency rules.
#include "kernels/rope/rope.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr double kPi = 3.14159265358979323846;

double llama3_frequency(double frequency, const Llama3Scaling& s) {
  const double wavelength = 2 * kPi / frequency;
  if (wavelength < s.original / s.high) return frequency;
  if (wavelength > s.original / s.low) return frequency / s.factor;
  const double blend = (s.original / wavelength - s.low) / (s.high - s.low);
  return (1 - blend) * frequency / s.factor + blend * frequency;
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

/// Channel whose wave turns `rotations` times within the original context.
double yarn_channel(double rotations, double rot, double base, double context) {
  return rot * std::log(context / (2 * kPi * rotations)) / (2 * std::log(base));
}

void apply_yarn(const RopeSpec& spec, RopeTable& table) {
  const YarnScaling& yarn = spec.yarn;
  const auto rot = static_cast<double>(2 * table.inv_freq.size());
  double low = yarn_channel(yarn.beta_fast, rot, spec.base, yarn.original_max_position);
  double high = yarn_channel(yarn.beta_slow, rot, spec.base, yarn.original_max_position);
  if (yarn.round_to_int) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, rot - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < table.inv_freq.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    table.inv_freq[i] *= stretched / yarn.factor + (1 - stretched);
  }
  table.concentration = yarn.mscale && yarn.mscale_all_dim
                            ? yarn_mscale(yarn.factor, *yarn.mscale) / yarn_mscale(yarn.factor, *yarn.mscale_all_dim)
                            : yarn_mscale(yarn.factor, 1.0);
}

class Rope final : public OpKind {
 public:
  Rope(const RopeSpec& spec, bool inverse) : spec_(spec), table_(rope_table(spec)), inverse_(inverse) {}
  std::string name() const override { return inverse_ ? "rope_backward" : "rope"; }
  std::string attributes() const override {
    std::string text = str_cat("base=", spec_.base, " rotated=", 2 * table_.inv_freq.size(), "/", spec_.head_dim);
    if (spec_.interleaved) text += " interleaved";
    if (spec_.llama3.on) text += str_cat(" llama3=", spec_.llama3.factor);
    if (spec_.yarn.on) text += str_cat(" yarn=", spec_.yarn.factor);
    return text;
  }
  Signature signature(const Operands& operands) const override {
    const Dims& shape = operands[0]->shape;
    if (shape.rank() < 3 || shape.rank() > Dims::kMaxRank || shape.back() != spec_.head_dim) {
      throw PlacementError{
          str_cat("x is ", to_string(shape), " but the rotary embedding is for heads of ", spec_.head_dim),
          "reshape x to [s, b, heads..., d]"};
    }
    if (operands[1] == nullptr || operands[1]->dtype != DType::kI32)
      throw PlacementError{"position is int32", "give it"};
    const std::string letters = "sb" + std::string("ghijk").substr(0, static_cast<size_t>(shape.rank() - 3)) + "d";
    Signature s = parse_signature(letters + ",sb->" + letters, operands[0]->dtype);
    s.whole = "d";
    s.linear = {{0}};
    return s;
  }
  bool takes_strided(int i) const override { return i == 0; }
  bool gives_strided(int) const override { return true; }
  bool accumulates(int) const override { return true; }
  int overwrites(int) const override { return 0; }
  void backward(BackwardContext& c) const override {
    if (c.gradient(0) && c.wants(0)) {
      c.set(0, c.trace().emit1(rope_kind(spec_, !inverse_), {c.gradient(0), c.operand(1)}));
    }
  }
  Cost cost(const RunContext& c) const override {
    Cost cost = OpKind::cost(c);
    cost.flops = 3.0 * static_cast<double>(c.in(0).numel());
    return cost;
  }
  int64_t workspace(const RunContext& c, DeviceKind device) const override {
    return device == DeviceKind::kCpu ? rope_workspace_cpu(args(c)) : 0;
  }
  void run_cpu(const RunContext& c) const override {
    RopeArgs a = args(c);
    a.add = c.adds(0);
    rope_cpu(a, c.workspace, c.pool);
  }
#ifdef MEGATRON_HAVE_CUDA
  void run_cuda(const RunContext& c) const override {
    RopeArgs a = args(c);
    a.add = c.adds(0);
    rope_cuda(a, c.stream);
  }
#endif

 private:
  RopeArgs args(const RunContext& c) const {
    RopeArgs a;
    a.x = c.in(0);
    a.position = c.in(1);
    a.y = c.out(0);
    a.table = &table_;
    a.interpolation = spec_.seq_len_interpolation_factor;
    a.interleaved = spec_.interleaved;
    a.inverse = inverse_;
    return a;
  }

  RopeSpec spec_;
  RopeTable table_;
  bool inverse_;
};

}  // namespace

RopeTable rope_table(const RopeSpec& spec) {
  const auto rotated = static_cast<int64_t>(static_cast<double>(spec.head_dim) * spec.percent);
  if (rotated < 0 || rotated > spec.head_dim || rotated % 2 != 0) {
    throw UsageError(str_cat("rotary embedding: int(", spec.head_dim, " * ", spec.percent, ") = ", rotated,
                             " channels cannot rotate in pairs; choose rotary_percent so that it is even and at most ",
                             spec.head_dim));
  }
  if (spec.llama3.on && spec.yarn.on) throw UsageError("rotary embedding: choose LLaMA 3 scaling or YaRN, not both");
  if (spec.yarn.on && spec.interleaved)
    throw UsageError("rotary embedding: YaRN does not work with rotary_interleaved");
  MEGATRON_CHECK(spec.base > 0 && spec.seq_len_interpolation_factor > 0, "base and interpolation factor are positive");
  RopeTable table;
  for (int64_t i = 0; i < rotated / 2; ++i) {
    const double frequency = std::pow(spec.base, -2.0 * static_cast<double>(i) / static_cast<double>(rotated));
    table.inv_freq.push_back(spec.llama3.on ? llama3_frequency(frequency, spec.llama3) : frequency);
  }
  if (spec.yarn.on) apply_yarn(spec, table);
  return table;
}

std::shared_ptr<const OpKind> rope_kind(const RopeSpec& spec, bool inverse) {
  return std::make_shared<Rope>(spec, inverse);
}

Value rope(Trace& trace, Value x, Value position, const RopeSpec& spec) {
  return trace.emit1(rope_kind(spec), {x, position});
}

}  // namespace megatron
