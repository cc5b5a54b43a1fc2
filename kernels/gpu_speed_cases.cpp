#include "kernels/gpu_speed_cases.h"

#include <algorithm>

#include "base/strings.h"
#include "kernels/activation/cases.h"
#include "kernels/adamw/cases.h"
#include "kernels/attention/cases.h"
#include "kernels/attention_merge/cases.h"
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
#include "kernels/spread_groups/cases.h"
#include "kernels/zigzag_order/cases.h"

namespace megatron {
namespace {

constexpr int64_t kSequence = 4096, kBatch = 2, kHidden = 4096, kHead = 128, kVocabulary = 50304;
const Dims kTokens{kSequence, kBatch, kHidden};

/// Micro-batches whose memory-bound operations are timed.
struct Model {
  const char* name;
  int64_t sequence, batch, hidden, ffn, heads, head, vocabulary;

  std::string label(int64_t width) const { return str_cat(name, ' ', sequence * batch, 'x', width); }
  Dims tokens() const { return {sequence, batch, hidden}; }
};
constexpr Model kGpt2{"gpt2-124m", 1024, 64, 768, 3072, 12, 64, 50304};
constexpr Model kLlama1b{"llama3.2-1b", 8192, 2, 2048, 8192, 32, 64, 50304};
constexpr Model kLlama8b{"llama3-8b", 8192, 1, 4096, 14336, 32, 128, 50304};
const Dims kWeight{4 * kHidden, kHidden};

/// A case of the tables with other sizes of operand 0.
OpCase resized(OpCase c, const std::string& name, const Dims& shape) {
  c.name = name;
  c.operands[0].shape = shape;
  return c;
}

OpCase gated_case(const Model& m) {
  return activation_case(ActivationKind::kSilu, true, {m.sequence, m.batch, 2, m.ffn}, 1.0);
}
OpCase norm_case(const Model& m, bool mean) {
  return mean ? layernorm_case(m.label(m.hidden), m.tokens(), true, {})
              : rmsnorm_case(m.label(m.hidden), m.tokens(), true, {});
}
OpCase rope_of(const Model& m) {
  RopeSpec spec;
  spec.base = 500000.0;
  spec.llama3.on = true;
  return rope_case(m.label(m.heads * m.head), {m.sequence, m.batch, m.heads, m.head}, spec);
}
OpCase embedding_of(const Model& m) {
  return embedding_case(m.label(m.hidden), {m.vocabulary, m.hidden}, {m.sequence, m.batch}, m.vocabulary);
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
  std::vector<OpCase> cases;
  // Sequence, batch, groups, heads of a group, head size: GPT-2 124M; LLaMA-3.2-1B; LLaMA-3-8B; a short sequence.
  add_by_implementation(cases, "causal 1024x64, 12 x 64", {1024, 1024, 64, 12, 1, 64, 64}, {});
  add_by_implementation(cases, "causal 8192x2, 8x4 x 64", {8192, 8192, 2, 8, 4, 64, 64}, {});
  add_by_implementation(cases, "causal 8192x1, 8x4 x 128", {8192, 8192, 1, 8, 4, 128, 128}, {});
  add_by_implementation(cases, "causal 4096x2, 8x4 x 128", {4096, 4096, 2, 8, 4, 128, 128}, {});
  add_by_implementation(cases, "causal 2048x1, 8x4 x 128", {2048, 2048, 1, 8, 4, 128, 128}, {});
  add_by_implementation(cases, "causal 1024x16, 2x6 x 128", {1024, 1024, 16, 2, 6, 128, 128}, {});
  add_by_implementation(cases, "full 4096x2, 32 x 128", {kSequence, kSequence, kBatch, 32, 1, kHead, kHead}, full);
  return cases;
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
  std::vector<OpCases> ops = {
      {"activation",
       {activation_case(ActivationKind::kGeluTanh, false, {kGpt2.sequence, kGpt2.batch, kGpt2.ffn}, 1.0)}},
      {"adamw", {adamw_case("64 M parameters", kWeight, 10, 0)}},
      {"attention", attention_speed_cases()},
      {"bias_grad", {resized(bias_gradient_cases().back(), "8192x4096", kTokens)}},
      {"cast", {cast_case(DType::kF32, "8192x4096 to fp32"), cast_case(DType::kBF16, "8192x4096 to bf16")}},
      {"dropout_add",
       {dropout_add_case(kGpt2.label(kGpt2.hidden) + " p=0.1", kGpt2.tokens(), true, 0.1),
        dropout_add_case(kGpt2.label(kGpt2.hidden) + " p=0", kGpt2.tokens(), true, 0)}},
      {"embedding", {embedding_of(kGpt2), embedding_of(kLlama1b), embedding_of(kLlama8b)}},
      {"fill_zero", {resized(fill_zero_cases().back(), "64 M elements", kWeight)}},
      {"gated_activation", {gated_case(kLlama1b), gated_case(kLlama8b)}},
      {"gather_rows", {gather_rows_case("4096x2x4096", kSequence, kBatch, kHidden)}},
      {"kv_cache",
       {attention_full_cache_case("one token, 16 x 4096, 8x4 x 128", kSequence, 16, 8, 4, kHead),
        attention_full_cache_case("one token, 1 x 32768, 8x4 x 128", 8 * kSequence, 1, 8, 4, kHead),
        attention_full_cache_case("one token, 8 x 8192, 8x4 x 64", 2 * kSequence, 8, 8, 4, 64),
        attention_full_cache_case("one token, 8 x 8192, 12 x 64", 2 * kSequence, 8, 12, 1, 64)}},
      {"layernorm", {norm_case(kGpt2, true), norm_case(kLlama8b, true)}},
      {"linear", linear_speed_cases()},
      {"lm_head_loss", lm_head_loss_speed_cases()},
      {"rmsnorm", {norm_case(kGpt2, false), norm_case(kLlama1b, false), norm_case(kLlama8b, false)}},
      {"rope", {rope_of(kLlama1b), rope_of(kLlama8b)}},
      {"sgd", {sgd_case("64 M parameters", kWeight, 0.9, 10, 0)}},
      {"sum_of_squares", {resized(sum_of_squares_cases().back(), "64 M elements", kWeight)}},
  };
  for (OpCases& op : ops) {
    for (OpCase& c : op.cases) c.speed = true;
  }
  return ops;
}

namespace {

/// The products of a grid, and what tensor-parallel ranks leave of LLaMA-3-8B.
std::vector<OpCase> linear_machine_cases() {
  std::vector<OpCase> cases = linear_speed_cases();
  const auto add = [&](int64_t rows, int64_t out, int64_t in) {
    cases.push_back(product_case("product", rows, out, in, false));
  };
  for (const int64_t rows : {2048, 8192}) {
    for (const int64_t out : {1024, 2048, 4096, 8192}) {
      for (const int64_t in : {1024, 2048, 4096, 8192}) add(rows, out, in);
    }
    add(rows, 28672, 4096);
    add(rows, 4096, 14336);
  }
  for (const int64_t ranks : {2, 4}) {
    add(8192, 6144 / ranks, 4096);
    add(8192, 28672 / ranks, 4096);
    add(8192, 4096, 14336 / ranks);
  }
  return cases;
}

/// As models choose it: the best implementation that repeats to the same bits.
std::vector<OpCase> attention_machine_cases() {
  std::vector<OpCase> cases;
  const auto add = [&](const AttentionCaseShape& shape, double dropout = 0) {
    AttentionOptions options;
    options.dropout = dropout;
    cases.push_back(attention_case(str_cat("causal ", shape.s, dropout > 0 ? ", dropout" : ""), shape, options));
  };
  add({1024, 1024, 64, 12, 1, 64, 64});
  add({2048, 2048, 1, 8, 4, 128, 128});
  add({4096, 4096, 2, 8, 4, 128, 128});
  add({8192, 8192, 2, 8, 4, 64, 64});
  for (const int64_t groups : {2, 4, 8}) add({8192, 8192, 1, groups, 4, 128, 128});
  add({16384, 16384, 1, 8, 4, 128, 128});
  add({32768, 32768, 1, 8, 4, 128, 128});
  add({1024, 1024, 16, 12, 1, 64, 64}, 0.1);
  add({2048, 2048, 4, 16, 1, 128, 128}, 0.1);
  return cases;
}

}  // namespace

std::vector<OpCases> gpu_machine_cases() {
  std::vector<OpCases> ops = gpu_speed_cases();
  std::erase_if(ops, [](const OpCases& op) { return op.op == "kv_cache"; });
  const auto cases_of = [&](const std::string& name) -> std::vector<OpCase>& {
    const auto found = std::find_if(ops.begin(), ops.end(), [&](const OpCases& op) { return op.op == name; });
    if (found != ops.end()) return found->cases;
    ops.push_back({name, {}});
    return ops.back().cases;
  };
  cases_of("linear") = linear_machine_cases();
  cases_of("attention") = attention_machine_cases();
  const auto head = [&](int64_t tokens, int64_t vocabulary) {
    return lm_head_loss_case(str_cat("8b ", tokens, ", ", vocabulary, " words"), tokens, 1, 4096, vocabulary,
                             vocabulary, 0.02);
  };
  cases_of("lm_head_loss").push_back(head(8192, 64128));
  cases_of("lm_head_loss").push_back(head(2048, 128256));
  cases_of("spread_groups") = {spread_groups_case("8b qkv", 2, {8, 6, 128, 4096})};
  cases_of("zigzag_order") = {zigzag_order_case("8b keys", 2, {32768, 1, 8, 128}, SequenceOrder::kNatural)};
  cases_of("attention_merge") = {attention_merge_case("8b", 2, {8192, 1, 8, 4, 128})};
  for (OpCases& op : ops) {
    for (OpCase& c : op.cases) c.speed = true;
  }
  return ops;
}

}  // namespace megatron
