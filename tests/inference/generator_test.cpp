// Generation against a cache, compared with the whole forward without one; how texts end; what is refused.
#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "inference/generator.h"
#include "tests/catch.h"
#include "tests/inference/tiny_model.h"
#include "tokenizer/stream_decoder.h"

namespace megatron {
namespace {

using testing::kTinyModel;
using testing::open_model;
using testing::random_weight;
using testing::Reference;
using testing::TempFolder;
using testing::write_checkpoint;

const char kNull[] = "tokenizer_type: NullTokenizer";
const char kBytes[] = "tokenizer_type: ByteTokenizer";
const TextSink kNoSink = [](int64_t, const std::string&) {};

std::vector<TokenId> prompt_of(int64_t size, int64_t salt) {
  std::vector<TokenId> ids;
  for (int64_t i = 0; i < size; ++i) ids.push_back(static_cast<TokenId>((i * i + 3 * i * salt + salt) % 9));
  return ids;
}

GenerateOptions greedy(int64_t tokens) {
  GenerateOptions options;
  options.num_tokens_to_generate = tokens;
  options.sampling.temperature = 0;
  options.ignore_eod = true;
  return options;
}

std::vector<Generation> generate_quietly(InferenceModel& model, const std::vector<std::vector<TokenId>>& prompts,
                                         const GenerateOptions& options) {
  set_log_level(LogLevel::kError);
  return generate(model, prompts, options, kNoSink, nullptr);
}

/// Every generated token is the most likely one of the whole forward without a cache.
void check_against_reference(const InferenceModel& model, const Generation& result, int64_t expected_tokens) {
  REQUIRE(static_cast<int64_t>(result.tokens.size()) == expected_tokens);
  std::vector<TokenId> all = result.prompt;
  all.insert(all.end(), result.tokens.begin(), result.tokens.end());
  if (expected_tokens >= 30) CHECK(std::set<TokenId>(result.tokens.begin(), result.tokens.end()).size() > 2);
  Reference reference(model, static_cast<int64_t>(all.size()));
  for (size_t i = result.prompt.size(); i < all.size(); ++i) {
    INFO("prompt of " << result.prompt.size() << ", token " << i);
    CHECK(reference.argmax(all, static_cast<int64_t>(i) - 1) == all[i]);
  }
}

std::string model_of(const std::string& more) {
  return std::string(kTinyModel) + ", vocab_size: 10, seq_length: 400, max_position_embeddings: 400" + more;
}

const char kGpt2[] =
    "family: gpt, num_layers: 2, hidden_size: 16, num_attention_heads: 4, seq_length: 400, max_position_embeddings: "
    "400, "
    "position_embedding_type: learned_absolute, normalization: LayerNorm, hidden_dropout: 0.1, attention_dropout: 0.1, "
    "vocab_size: 10";

void check_generation(const std::string& model_yaml, const std::string& dtype) {
  INFO(model_yaml << ", " << dtype);
  const TempFolder folder;
  write_checkpoint(folder.path(), model_yaml, kNull, dtype, random_weight);
  InferenceModel model = open_model(folder.path());
  // Longer than a chunk of the prefill, exactly one, one more, and short: all in one batch.
  const std::vector<std::vector<TokenId>> prompts = {
      prompt_of(5, 1), prompt_of(128, 2), prompt_of(129, 3), prompt_of(300, 4), {7}};
  const std::vector<Generation> results = generate_quietly(model, prompts, greedy(6));
  REQUIRE(results.size() == prompts.size());
  std::set<TokenId> different;
  for (const Generation& result : results) {
    check_against_reference(model, result, 6);
    CHECK(result.finish_reason == "length");
    different.insert(result.tokens.begin(), result.tokens.end());
  }
  CHECK(different.size() > 3);  // a model that says one thing would prove nothing
}

TEST_CASE("greedy generation is the argmax of the forward without a cache") {
  check_generation(model_of(""), "fp64");
  check_generation(model_of(""), "fp32");
}

TEST_CASE("also with learned positions, windows, biases, QK norm, tied tables and other positions") {
  check_generation(kGpt2, "fp64");
  check_generation(model_of(", window_size: [7, 0]"), "fp64");
  check_generation(model_of(", window_size: [127, 0], qk_layernorm: true, add_qkv_bias: true"), "fp64");
  check_generation(model_of(", rotary_percent: 0.5, rotary_interleaved: true"), "fp64");
}

TEST_CASE("a long generation stays with the reference") {
  const TempFolder folder;
  write_checkpoint(folder.path(), model_of(", window_size: [9, 0]"), kNull, "fp64", random_weight);
  InferenceModel model = open_model(folder.path());
  check_against_reference(model, generate_quietly(model, {prompt_of(3, 5)}, greedy(90))[0], 90);
}

TEST_CASE("a prompt's result does not depend on the batch around it") {
  const TempFolder folder;
  write_checkpoint(folder.path(), model_of(""), kNull, "fp64", random_weight);
  InferenceModel model = open_model(folder.path());
  const std::vector<std::vector<TokenId>> prompts = {prompt_of(140, 1), prompt_of(2, 2), prompt_of(31, 3)};
  GenerateOptions options = greedy(20);
  const std::vector<Generation> batch = generate_quietly(model, prompts, options);
  for (size_t i = 0; i < prompts.size(); ++i) {
    CHECK(generate_quietly(model, {prompts[i]}, options)[0].tokens == batch[i].tokens);
  }
  // With draws: sequence 0 draws the same whoever is beside it, and again with the same seed.
  options.sampling = {.temperature = 1.5, .seed = 3};
  const std::vector<TokenId> alone = generate_quietly(model, {prompts[0]}, options)[0].tokens;
  CHECK(generate_quietly(model, prompts, options)[0].tokens == alone);
  CHECK(generate_quietly(model, {prompts[0], prompts[0]}, options)[1].tokens != alone);
  options.sampling.seed = 4;
  CHECK(generate_quietly(model, {prompts[0]}, options)[0].tokens != alone);
}

TEST_CASE("a sequence that ends does not disturb the others") {
  const TempFolder folder;
  write_checkpoint(folder.path(), model_of(""), kNull, "fp64", random_weight);
  InferenceModel model = open_model(folder.path());
  GenerateOptions options = greedy(60);
  options.sampling = {.temperature = 2.0, .seed = 1};  // tokens of all kinds, the end of the document (9) among them
  options.ignore_eod = false;
  std::vector<std::vector<TokenId>> prompts;
  for (int64_t i = 0; i < 6; ++i) prompts.push_back(prompt_of(4 + 3 * i, i + 1));
  const std::vector<Generation> ended = generate_quietly(model, prompts, options);
  options.ignore_eod = true;
  const std::vector<Generation> whole = generate_quietly(model, prompts, options);
  int64_t ends = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto eod = std::find(whole[i].tokens.begin(), whole[i].tokens.end(), TokenId{9});
    CHECK(ended[i].tokens == std::vector<TokenId>(whole[i].tokens.begin(), eod));
    CHECK(ended[i].finish_reason == (eod == whole[i].tokens.end() ? "length" : "eod"));
    ends += eod != whole[i].tokens.end();
  }
  CHECK(ends > 0);
}

/// A model that says its script, and what it sent while it did.
class Speaker {
 public:
  explicit Speaker(const std::string& script) {
    write_checkpoint(
        folder_.path(),
        std::string("family: gpt, num_layers: 1, hidden_size: 64, num_attention_heads: 4, seq_length: 64, "
                    "max_position_embeddings: 64, position_embedding_type: rope, normalization: RMSNorm, ") +
            "untie_embeddings_and_output_weights: true, hidden_dropout: 0.0, attention_dropout: 0.0",
        kBytes, "fp32", testing::scripted_weights(script));
    model_ = std::make_unique<InferenceModel>(open_model(folder_.path()));
  }

  Generation say(const std::string& prompt, int64_t tokens, const std::vector<std::string>& stop = {},
                 bool ignore_eod = false) {
    GenerateOptions options = greedy(tokens);
    options.stop = stop;
    options.ignore_eod = ignore_eod;
    pieces.clear();
    const TextSink sink = [this](int64_t, const std::string& text) { pieces.push_back(text); };
    return generate(*model_, {model_->tokenizer().encode(prompt)}, options, sink, &stats)[0];
  }

  std::string sent() const {
    std::string all;
    for (const std::string& piece : pieces) all += piece;
    return all;
  }

  std::vector<std::string> pieces;
  GenerateStats stats;

 private:
  TempFolder folder_;
  std::unique_ptr<InferenceModel> model_;
};

TEST_CASE("the end-of-document token ends a text and is no part of it") {
  Speaker speaker("abcdefgh");
  Generation result = speaker.say("xab", 20);
  CHECK(result.text == "cdefgh");
  CHECK(result.finish_reason == "eod");
  CHECK(result.tokens.size() == 6);
  CHECK(speaker.sent() == "cdefgh");
  CHECK(speaker.pieces.size() == 6);  // each at once
  CHECK(speaker.stats.prompt_tokens == 3);
  CHECK(speaker.stats.generated_tokens == 6);
  result = speaker.say("ab", 4);
  CHECK(result.text == "cdef");
  CHECK(result.finish_reason == "length");
  result = speaker.say("h", 5);
  CHECK(result.text.empty());
  CHECK(result.finish_reason == "eod");
  CHECK(speaker.say("h", 2, {}, true).tokens[0] == 256);
}

TEST_CASE("a stop text ends generation before it, wherever tokens are cut") {
  Speaker speaker("abcdefgh");
  Generation result = speaker.say("a", 20, {"efg"});
  CHECK(result.text == "bcd");
  CHECK(result.finish_reason == "stop");
  CHECK(speaker.sent() == "bcd");  // nothing of the stop text has been shown
  result = speaker.say("a", 20, {"gh", "cd", "bcd"});
  CHECK(result.text.empty());  // "cd" and "bcd" end at once: the one that begins first counts
  CHECK(speaker.sent().empty());
  result = speaker.say("a", 20, {"efx", "ghi"});
  CHECK(result.text == "bcdefgh");  // what only began like a stop text comes at the end
  CHECK(speaker.sent() == "bcdefgh");
  CHECK(result.finish_reason == "eod");
  // A stop text in the prompt, or half in it, does not count.
  CHECK(speaker.say("abc", 3, {"ab", "cd"}).text == "def");
}

TEST_CASE("streams send whole characters only") {
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";  // a, e acute, euro, a face, z; no byte twice
  Speaker speaker(text);
  for (const std::vector<std::string>& stop : {std::vector<std::string>{}, {"#"}, {"##"}, {"###"}, {"####"}}) {
    CHECK(speaker.say("a", 30, stop).text == text.substr(1));
    CHECK(speaker.sent() == text.substr(1));
    CHECK(speaker.pieces.size() > 2);
    for (const std::string& piece : speaker.pieces) CHECK(valid_utf8(piece) == piece);
  }
  CHECK(speaker.say("a", 30, {"\xF0\x9F\x98\x80"}).text == text.substr(1, 5));
  // Cut within a character: the rest is shown as one that is missing.
  CHECK(speaker.say("a", 4).text == "\xC3\xA9\xEF\xBF\xBD");
  CHECK(speaker.sent() == "\xC3\xA9\xEF\xBF\xBD");
}

template <typename Failure, typename Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const Failure& error) {
    return error.what();
  }
  return "nothing was thrown";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("calls that cannot be served are refused") {
  const TempFolder folder;
  write_checkpoint(folder.path(), kGpt2, kNull, "fp32", random_weight);
  InferenceModel model = open_model(folder.path());
  const auto refusal = [&](const std::vector<std::vector<TokenId>>& prompts, const GenerateOptions& options) {
    return message_of<UsageError>([&] { generate_quietly(model, prompts, options); });
  };
  CHECK(has(refusal({}, greedy(1)), "no prompt"));
  CHECK(has(refusal({{1}, {}}, greedy(1)), "prompt 2 has no tokens"));
  CHECK(has(refusal({{1}}, greedy(0)), "--num-tokens-to-generate"));
  CHECK(has(refusal({{1}, prompt_of(390, 1)}, greedy(11)), "prompt 2 has 390 tokens"));
  CHECK(has(refusal({prompt_of(390, 1)}, greedy(11)), "400 positions"));
  CHECK(generate_quietly(model, {prompt_of(390, 1)}, greedy(10))[0].tokens.size() == 10);
  GenerateOptions options = greedy(1);
  options.stop = {"x", ""};
  CHECK(has(refusal({{1}}, options), "--stop"));
  options = greedy(1);
  options.sampling.top_k = -3;
  CHECK(has(refusal({{1}}, options), "--top-k"));
}

TEST_CASE("rotary positions go beyond the trained length") {
  const TempFolder folder;
  write_checkpoint(folder.path(),
                   std::string(kTinyModel) + ", vocab_size: 10, seq_length: 16, max_position_embeddings: 16", kNull,
                   "fp64", random_weight);
  InferenceModel model = open_model(folder.path());
  check_against_reference(model, generate_quietly(model, {prompt_of(10, 1)}, greedy(30))[0], 30);
}

TEST_CASE("ids that the tokenizer does not know are never drawn") {
  const TempFolder folder;
  write_checkpoint(folder.path(),
                   std::string(kTinyModel) + ", vocab_size: 2000, seq_length: 64, max_position_embeddings: 64", kBytes,
                   "fp32", random_weight);
  InferenceModel model = open_model(folder.path());
  GenerateOptions options;
  options.num_tokens_to_generate = 50;
  options.ignore_eod = true;
  const std::vector<Generation> results = generate_quietly(model, {{65}, {66}}, options);
  for (const Generation& result : results) {
    REQUIRE(result.tokens.size() == 50);
    for (TokenId id : result.tokens) CHECK(id < 257);
  }
}

TEST_CASE("weights that are not finite are an error, not a text") {
  const TempFolder folder;
  const auto weight = [](const std::string& name, int64_t index, int64_t row_size) {
    return name == "decoder.final_layernorm.weight" ? std::nan("") : random_weight(name, index, row_size);
  };
  write_checkpoint(folder.path(), model_of(""), kNull, "fp32", weight);
  InferenceModel model = open_model(folder.path());
  CHECK(has(message_of<DataError>([&] { generate_quietly(model, {{1, 2}}, greedy(3)); }), "not finite"));
}

TEST_CASE("where a checkpoint is looked for") {
  const TempFolder folder;
  const RunConfig run;
  const auto open = [&](const std::string& path, std::optional<int64_t> step) {
    return message_of<DataError>([&] { InferenceModel(path, step, run); });
  };
  CHECK(has(open(folder.path() + "/none", {}), "no such folder"));
  CHECK(has(open(folder.path(), {}), "holds no checkpoint"));
  write_checkpoint(folder.path() + "/checkpoints", model_of(""), kNull, "fp32", random_weight);
  const std::string expected = folder.path() + "/checkpoints/iter_0000001";
  CHECK(open_model(folder.path()).folder() == expected);
  CHECK(open_model(folder.path() + "/checkpoints").folder() == expected);
  CHECK(open_model(expected).folder() == expected);
  CHECK(InferenceModel(folder.path(), 1, run).folder() == expected);
  CHECK(has(open(folder.path(), 2), "2"));
}

}  // namespace
}  // namespace megatron
