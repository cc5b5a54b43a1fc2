#include "kernels/gpu_speed_cases.h"

#include "base/strings.h"
#include "kernels/activation/cases.h"
#include "kernels/adamw/cases.h"
#include "kernels/attention/cases.h"
#include "kernels/cast/cases.h"
#include "kernels/dropout/cases.h"
#include "kernels/embedding/cases.h"
#include "kernels/gather_rows/cases.h"
#include "kernels/gradient_norm/cases.h"
#include "kernels/kv_cache/cases.h"
#include "kernels/layernorm/cases.h"
#include "kernels/linear/cases.h"
#include "kernels/lm_head_loss/cases.h"
#include "kernels/rmsnorm/cases.h"
#include "kernels/rope/cases.h"
#include "kernels/sgd/cases.h"

namespace megatron {
namespace {

constexpr int64_t kSequence = 4096, kBatch = 2, kHidden = 4096, kHead = 128, kVocabulary = 50304;
const Dims kTokens{kSequence, kBatch, kHidden};
const Dims kWeight{4 * kHidden, kHidden};

/// A case of the tables with other sizes of operand 0.
OpCase resized(OpCase c, const std::string& name, const Dims& shape) {
  c.name = name;
  c.operands[0].shape = shape;
  return c;
}

OpCase cast_case(DType to, const std::string& name) {
  OpCase c;
  c.name = name;
  c.make = [to](DType) { return cast_kind(to); };
  c.operands = {{.name = "x", .shape = kTokens}};
  return c;
}

std::vector<OpCase> attention_speed_cases() {
  AttentionOptions full;
  full.causal = false;
  return {attention_case("causal 4096x2, 8 groups of 4 x 128", {kSequence, kSequence, kBatch, 8, 4, kHead, kHead}, {}),
          attention_case("full 4096x2, 32 heads x 128", {kSequence, kSequence, kBatch, 32, 1, kHead, kHead}, full)};
}

/// y = x w^T of `rows` tokens.
OpCase product_case(const std::string& name, int64_t rows, int64_t out, int64_t in, bool bias) {
  return linear_case(str_cat(name, " ", rows, "x", in, " x ", out), {rows, 1, in}, {out, in}, bias ? Dims{out} : Dims{},
                     {});
}

/// The products of three models: GPT-2 124M on 64 x 1024 tokens, LLaMA-3.2-1B on 2 x 8192, LLaMA-3-8B on 8192.
std::vector<OpCase> linear_speed_cases() {
  return {linear_case("8192x4096 x 4096x4096", kTokens, {kHidden, kHidden}, {}, {}),
          linear_case("8192x4096 x 16384x4096", kTokens, kWeight, {}, {}),
          linear_case("8192x4096 x 16384x4096 + bias", kTokens, kWeight, {4 * kHidden}, {}),
          product_case("gpt2 qkv", 65536, 2304, 768, true),
          product_case("gpt2 proj", 65536, 768, 768, false),
          product_case("gpt2 fc1", 65536, 3072, 768, true),
          product_case("gpt2 fc2", 65536, 768, 3072, false),
          product_case("1b qkv", 16384, 3072, 2048, false),
          product_case("1b proj", 16384, 2048, 2048, false),
          product_case("1b fc1", 16384, 16384, 2048, false),
          product_case("1b fc2", 16384, 2048, 8192, false),
          product_case("8b qkv", 8192, 6144, 4096, false),
          product_case("8b fc1", 8192, 28672, 4096, false),
          product_case("8b fc2", 8192, 4096, 14336, false)};
}

std::vector<OpCase> lm_head_loss_speed_cases() {
  const auto head = [](const std::string& name, int64_t tokens, int64_t width, int64_t vocabulary) {
    return lm_head_loss_case(str_cat(name, " ", tokens, "x", width, ", ", vocabulary, " words"), tokens, 1, width,
                             vocabulary, vocabulary, 0.02);
  };
  return {lm_head_loss_case("8192x4096, 50304 words", kSequence, kBatch, kHidden, kVocabulary, kVocabulary, 0.02),
          head("gpt2", 65536, 768, kVocabulary), head("1b", 16384, 2048, 128256), head("8b", 8192, 4096, 128256)};
}

}  // namespace

std::vector<OpCases> gpu_speed_cases() {
  const Dims gated{kSequence, kBatch, 2, 3 * kHidden};
  std::vector<OpCases> ops = {
      {"activation", {activation_case(ActivationKind::kGeluTanh, false, {kSequence, kBatch, 4 * kHidden}, 1.0)}},
      {"adamw", {adamw_case("64 M parameters", kWeight, 10, 0)}},
      {"attention", attention_speed_cases()},
      {"bias_grad", {resized(bias_gradient_cases().back(), "8192x4096", kTokens)}},
      {"cast", {cast_case(DType::kF32, "8192x4096 to fp32"), cast_case(DType::kBF16, "8192x4096 to bf16")}},
      {"dropout_add", {dropout_add_case("8192x4096 p=0.1", kTokens, true, 0.1)}},
      {"embedding", {embedding_case("50304x4096, ids 8192", {kVocabulary, kHidden}, {kSequence, kBatch}, kVocabulary)}},
      {"fill_zero", {resized(fill_zero_cases().back(), "64 M elements", kWeight)}},
      {"gated_activation", {activation_case(ActivationKind::kSilu, true, gated, 1.0)}},
      {"gather_rows", {gather_rows_case("4096x2x4096", kSequence, kBatch, kHidden)}},
      {"kv_cache", {attention_cached_case("one token, 16 x 4096 positions", 1, kSequence, 16, 8, 4, kHead)}},
      {"layernorm", {layernorm_case("8192x4096 residual", kTokens, true, {})}},
      {"linear", linear_speed_cases()},
      {"lm_head_loss", lm_head_loss_speed_cases()},
      {"rmsnorm", {rmsnorm_case("8192x4096 residual", kTokens, true, {})}},
      {"rope", {rope_case("8192x32x128", {kSequence, kBatch, 32, kHead}, {})}},
      {"sgd", {sgd_case("64 M parameters", kWeight, 0.9, 10, 0)}},
      {"sum_of_squares", {resized(sum_of_squares_cases().back(), "64 M elements", kWeight)}},
  };
  for (OpCases& op : ops) {
    for (OpCase& c : op.cases) c.speed = true;
  }
  return ops;
}

}  // namespace megatron
