#include "inference/generator.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "base/error.h"
#include "base/log.h"
#include "base/strings.h"
#include "nn/language_model.h"
#include "program/passes.h"
#include "tensor/host_copy.h"
#include "tokenizer/stream_decoder.h"

namespace megatron {
namespace {

constexpr int64_t kPrefillChunk = 128;
constexpr TokenId kNoToken = -1;  ///< of logits that are not finite

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// The two programs of generation, their memory, and the logits that they make. On a pipeline they are those of the
/// own stage, which takes its input from the stage before and gives its output to the stage behind.
class Runner {
 public:
  Runner(InferenceModel& model, int64_t batch, int64_t longest_prompt, int64_t cache_length)
      : model_(model),
        parallel_(model.world().parallel.within_stage()),
        stage_(model.world().parallel.stage()),
        stages_(model.world().parallel.stages()),
        links_(stages_ > 1 ? model.world().comms.at("pp") : nullptr),
        store_(model.device()),
        ids_(model.device(), batch * static_cast<int64_t>(sizeof(TokenId))),
        batch_(batch),
        chunk_(std::min(longest_prompt, kPrefillChunk)) {
    Plan prefill = plan(chunk_, cache_length), decode = plan(1, cache_length);
    auto arena = std::make_shared<Buffer>(model.device(), std::max(prefill.arena_bytes(), decode.arena_bytes()));
    Executor::Options options;
    options.pool = &model.pool();
    options.comms = model.world().comms;
    model.load_parameters(decode.program, store_);
    prefill_ = std::make_unique<Executor>(std::move(prefill), store_, arena, options);
    decode_ = std::make_unique<Executor>(std::move(decode), store_, arena, options);
  }

  int64_t chunk() const { return chunk_; }

  /// One call: token (s, b) = tokens[b][s] at positions[b][s], negative: padding. Afterwards the logits are those of
  /// token last[b]. On a GPU it is only enqueued: a stage goes on to the next chunk of a prompt while the stages behind
  /// are busy with this one.
  void run(bool prompt, const std::vector<std::vector<TokenId>>& tokens,
           const std::vector<std::vector<int32_t>>& positions, const std::vector<int32_t>& last) {
    Executor& executor = prompt ? *prefill_ : *decode_;
    const auto length = static_cast<size_t>(prompt ? chunk_ : 1), batch = static_cast<size_t>(batch_);
    std::vector<int32_t> ids(length * batch), places(length * batch);
    for (size_t i = 0; i < length; ++i) {
      for (size_t b = 0; b < batch; ++b) {
        ids[i * batch + b] = tokens[b][i];
        places[i * batch + b] = positions[b][i];
      }
    }
    const auto write = [&](const char* name, const std::vector<int32_t>& values) {
      if (!executor.has_input(name)) return;  // of another stage
      write_tensor(executor.device(), executor.input(name), values.data(),
                   static_cast<int64_t>(values.size() * sizeof(int32_t)));
    };
    write(inputs::kTokens, ids);
    write(inputs::kPositions, places);
    write(inputs::kLast, last);
    const Program& program = executor.plan().program;
    void* stream = executor.device().stream();
    for (const Boundary& b : program.received) links_->receive(executor.received(b.name, 0), stage_ - 1, stream);
    executor.run(Phase::kForward);
    for (const Boundary& b : program.sent) links_->send(executor.output(b.name), stage_ + 1, stream);
    last_run_ = &executor;
  }

  /// Does this rank's stage make the logits?
  bool has_logits() const { return stage_ == stages_ - 1; }

  /// Brings the logits of the last run() to the host, where there are any.
  void fetch() {
    if (has_logits()) logits_ = to_host(last_run_->device(), last_run_->output("logits"));
  }

  /// What the last stage gives becomes everybody's.
  void share(std::vector<TokenId>& ids) {
    if (links_ == nullptr || ids.empty()) return;
    const Tensor shared = make_tensor(ids_.data(), DType::kI32, {std::ssize(ids)});
    if (has_logits()) write_tensor(model_.device(), shared, ids.data(), shared.bytes());
    links_->broadcast(shared, stages_ - 1, model_.device().stream());
    const HostTensor host = to_host(model_.device(), shared);
    std::copy_n(host.tensor.as<TokenId>(), ids.size(), ids.begin());
  }

  /// After fetch(), of sequence b and the ids that are text: a model may have more rows than its tokenizer has ids.
  std::vector<double> logits(int64_t b) const {
    std::vector<double> values(
        static_cast<size_t>(std::min(model_.spec().vocab_size, model_.tokenizer().vocab_size())));
    dispatch_floating("logits", logits_.tensor.dtype, [&](auto tag) {
      using T = decltype(tag);
      // [batch, V], or [V, batch] where ranks share the vocabulary.
      const bool shared = parallel_.tp_size() > 1;
      const T* first = logits_.tensor.as<T>() + b * (shared ? 1 : logits_.tensor.shape[1]);
      const auto step = static_cast<size_t>(shared ? batch_ : 1);
      for (size_t v = 0; v < values.size(); ++v) values[v] = static_cast<double>(first[v * step]);
    });
    return values;
  }

 private:
  Plan plan(int64_t tokens, int64_t cache_length) const {
    Program program;
    program.name = tokens == 1 ? "decode" : "prefill";
    program.mesh = parallel_.mesh();
    Trace t(program);
    trace_generation(t, model_.spec(), parallel_, {batch_, tokens, cache_length, model_.part()});
    remove_dead_ops(program);
    PackOptions options;
    options.own_slots = stages_ > 1;
    options.device = model_.device().kind();
    return pack(std::move(program), options);
  }

  InferenceModel& model_;
  const ParallelContext parallel_;  ///< of the own stage
  const int stage_, stages_;
  Comm* const links_;  ///< of the stages; null without a pipeline
  Store store_;        ///< its own: the caches have the sizes of this batch
  Buffer ids_;         ///< a token of each sequence, on their way between stages
  int64_t batch_, chunk_;
  std::unique_ptr<Executor> prefill_, decode_;
  Executor* last_run_ = nullptr;
  HostTensor logits_;
};

/// One sequence in flight.
struct Sequence {
  std::vector<TokenId> context;  ///< prompt and generated
  Generation result;
  StreamDecoder decoder;
  size_t sent = 0;  ///< bytes of result.text given to the sink
  bool done = false;

  explicit Sequence(const Tokenizer& tokenizer) : decoder(tokenizer) {}
};

class Session {
 public:
  Session(InferenceModel& model, const GenerateOptions& options, const TextSink& sink)
      : model_(model), options_(options), sink_(sink), eod_(model.tokenizer().eod()) {
    for (const std::string& stop : options.stop) longest_stop_ = std::max(longest_stop_, stop.size());
  }

  void add(const std::vector<TokenId>& prompt) {
    sequences_.emplace_back(model_.tokenizer());
    sequences_.back().context = prompt;
    sequences_.back().result.prompt = prompt;
  }

  std::vector<Generation> run(GenerateStats& stats) {
    size_t longest = 0;
    for (const Sequence& s : sequences_) {
      longest = std::max(longest, s.context.size());
      stats.prompt_tokens += static_cast<int64_t>(s.context.size());
    }
    const auto length = static_cast<int64_t>(longest) + options_.num_tokens_to_generate;
    Runner runner(model_, static_cast<int64_t>(sequences_.size()), static_cast<int64_t>(longest), round_up(length, 64));
    const double begin = now();
    prefill(runner, static_cast<int64_t>(longest));
    const double middle = now();
    while (!all_done()) step(runner);
    stats.prefill_seconds = middle - begin;
    stats.decode_seconds = now() - middle;
    std::vector<Generation> results;
    for (Sequence& s : sequences_) {
      stats.generated_tokens += static_cast<int64_t>(s.result.tokens.size());
      results.push_back(std::move(s.result));
    }
    return results;
  }

 private:
  bool all_done() const {
    return std::all_of(sequences_.begin(), sequences_.end(), [](const Sequence& s) { return s.done; });
  }

  void prefill(Runner& runner, int64_t longest) {
    const int64_t chunk = runner.chunk();
    for (int64_t begin = 0; begin < longest; begin += chunk) {
      std::vector<std::vector<TokenId>> tokens;
      std::vector<std::vector<int32_t>> positions;
      std::vector<int32_t> last;
      for (const Sequence& s : sequences_) {
        const auto size = static_cast<int64_t>(s.result.prompt.size());
        tokens.emplace_back(static_cast<size_t>(chunk), 0);
        positions.emplace_back(static_cast<size_t>(chunk), -1);
        for (int64_t i = begin; i < std::min(size, begin + chunk); ++i) {
          tokens.back()[static_cast<size_t>(i - begin)] = s.result.prompt[static_cast<size_t>(i)];
          positions.back()[static_cast<size_t>(i - begin)] = narrow<int32_t>(i);
        }
        last.push_back(narrow<int32_t>(std::clamp<int64_t>(size - 1 - begin, 0, chunk - 1)));
      }
      runner.run(true, tokens, positions, last);
      std::vector<size_t> ended;  // a prompt that ends in this chunk gets its first token
      for (size_t b = 0; b < sequences_.size(); ++b) {
        const auto size = static_cast<int64_t>(sequences_[b].result.prompt.size());
        if (size > begin && size <= begin + chunk) ended.push_back(b);
      }
      take(runner, ended);
    }
  }

  void step(Runner& runner) {
    std::vector<std::vector<TokenId>> tokens;
    std::vector<std::vector<int32_t>> positions;
    for (const Sequence& s : sequences_) {
      tokens.push_back({s.done ? 0 : s.context.back()});
      positions.push_back({s.done ? -1 : narrow<int32_t>(static_cast<int64_t>(s.context.size()) - 1)});
    }
    runner.run(false, tokens, positions, std::vector<int32_t>(sequences_.size(), 0));
    std::vector<size_t> going;
    for (size_t b = 0; b < sequences_.size(); ++b) {
      if (!sequences_[b].done) going.push_back(b);
    }
    take(runner, going);
  }

  /// The next token of each of `which`, after their logits were made.
  void take(Runner& runner, const std::vector<size_t>& which) {
    if (which.empty()) return;
    std::vector<TokenId> ids(which.size());
    runner.fetch();
    if (runner.has_logits()) draw(runner, which, ids);
    runner.share(ids);
    // All stages end alike: none may wait for one that gave up.
    if (std::find(ids.begin(), ids.end(), kNoToken) != ids.end()) throw DataError(kLogitsNotFinite);
    for (size_t i = 0; i < which.size(); ++i) append(which[i], ids[i]);
  }

  /// Samples, on all cores: a large vocabulary keeps one busy for a millisecond.
  void draw(const Runner& runner, const std::vector<size_t>& which, std::vector<TokenId>& ids) {
    model_.pool().parallel_for(static_cast<int64_t>(which.size()), 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        const auto b = static_cast<int64_t>(which[i]);
        try {
          ids[i] = sample(runner.logits(b), sequences_[which[i]].context, options_.sampling, b);
        } catch (const DataError&) {
          ids[i] = kNoToken;
        }
      }
    });
  }

  /// Adds a token to sequence b and decides whether it ends.
  void append(size_t b, TokenId id) {
    Sequence& s = sequences_[b];
    if (eod_ && id == *eod_ && !options_.ignore_eod) return finish(b, "eod");
    s.context.push_back(id);
    s.result.tokens.push_back(id);
    s.result.text += s.decoder.push(id);
    const size_t stop = first_stop(s.result.text);
    if (stop != std::string::npos) {
      s.result.text.resize(stop);
      return finish(b, "stop");
    }
    if (static_cast<int64_t>(s.result.tokens.size()) >= options_.num_tokens_to_generate) return finish(b, "length");
    // Text that may become the beginning of a stop text waits.
    size_t certain = s.result.text.size() - std::min(s.result.text.size(), longest_stop_ > 0 ? longest_stop_ - 1 : 0);
    while (certain > 0 && certain < s.result.text.size() && is_continuation(s.result.text[certain])) --certain;
    send(b, certain);
  }

  /// Of all stop texts the place of the first one; npos: none.
  size_t first_stop(const std::string& text) const {
    size_t first = std::string::npos;
    for (const std::string& stop : options_.stop) first = std::min(first, text.find(stop));
    return first;
  }

  /// A byte within a UTF-8 character: no piece of text begins with it.
  static bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

  void finish(size_t b, const char* reason) {
    Sequence& s = sequences_[b];
    s.done = true;
    s.result.finish_reason = reason;
    if (s.result.finish_reason != "stop") s.result.text += s.decoder.finish();
    send(b, s.result.text.size());
  }

  void send(size_t b, size_t end) {
    Sequence& s = sequences_[b];
    if (end <= s.sent) return;
    sink_(static_cast<int64_t>(b), s.result.text.substr(s.sent, end - s.sent));
    s.sent = end;
  }

  InferenceModel& model_;
  const GenerateOptions& options_;
  const TextSink& sink_;
  std::optional<TokenId> eod_;
  std::vector<Sequence> sequences_;
  size_t longest_stop_ = 0;
};

void check_lengths(const InferenceModel& model, const std::vector<std::vector<TokenId>>& prompts, int64_t new_tokens) {
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto size = static_cast<int64_t>(prompts[i].size());
    if (size == 0) throw UsageError(str_cat("prompt ", i + 1, " has no tokens; give at least one character"));
    const int64_t limit = model.spec().max_positions;
    if (size + new_tokens <= limit) continue;
    const std::string text = str_cat("prompt ", i + 1, " has ", size, " tokens, with ", new_tokens,
                                     " new ones more than the model's ", limit, " positions");
    if (model.spec().learned_positions) throw UsageError(text + "; shorten the prompt or --num-tokens-to-generate");
    log_warn(text + "; quality falls beyond them");
  }
}

}  // namespace

std::vector<Generation> generate(InferenceModel& model, const std::vector<std::vector<TokenId>>& prompts,
                                 const GenerateOptions& options, const TextSink& sink, GenerateStats* stats) {
  check(options.sampling);
  if (options.num_tokens_to_generate < 1) throw UsageError("--num-tokens-to-generate: give 1 or more");
  if (prompts.empty()) throw UsageError("there is no prompt; give --prompt TEXT or --prompts FILE");
  for (const std::string& stop : options.stop) {
    if (stop.empty()) throw UsageError("--stop: give a text that is not empty");
  }
  check_lengths(model, prompts, options.num_tokens_to_generate);
  Session session(model, options, sink);
  for (const std::vector<TokenId>& prompt : prompts) session.add(prompt);
  GenerateStats local;
  return session.run(stats != nullptr ? *stats : local);
}

}  // namespace megatron
