// megatron tokenizer train | encode | decode
#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/file_io.h"
#include "base/log.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "cli/tokenizer_options.h"
#include "tokenizer/bpe_trainer.h"
#include "tokenizer/corpus_counter.h"
#include "tokenizer/tokenizer_files.h"

namespace megatron {
namespace {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

double megabytes(int64_t bytes) {
  return static_cast<double>(bytes) * 1e-6;
}

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

struct TrainArguments {
  std::vector<std::string> inputs;
  std::string output, json_key = "text";
  int workers = 0;
  BpeTrainOptions options;
};

/// A name that readers do not take for the end token by themselves is written to tokenizer_config.json.
void save(const TrainArguments& arguments, const BpeDefinition& definition) {
  atomic_write_file(arguments.output, tokenizer_json_text(definition));
  const BpeDefinition read = read_tokenizer_json(arguments.output);
  if (read.eod == definition.eod) return;
  const std::string config = path_join(parent_directory(arguments.output), "tokenizer_config.json");
  const std::string end = nlohmann::json(arguments.options.special_tokens[0]).dump();
  if (path_exists(config)) {
    throw DataError(
        str_cat(config, ": /eos_token: is not ", end,
                ", the first of --special-tokens. Remove the file or write the tokenizer to another folder"));
  }
  atomic_write_file(config, str_cat("{\n  \"eos_token\": ", end, "\n}\n"));
  log_info(str_cat("wrote ", config, ", which says that ", end, " ends a document"));
}

void train(TrainArguments& arguments) {
  BpeTrainOptions& options = arguments.options;
  (void)train_bpe(WordCounter(), options);  // refuses what can't be before the corpus is read
  if (options.special_tokens.empty())
    throw UsageError("--special-tokens: give at least one, the end-of-document token");
  create_directories(parent_directory(arguments.output));
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  CorpusCounter counter(arguments.workers > 0 ? arguments.workers : static_cast<int>(cores));
  const Stopwatch all;
  for (const std::string& input : arguments.inputs) {
    counter.add_file(input, arguments.json_key);
    log_info(str_cat("counted ", input, ": ", fixed(megabytes(counter.bytes()), 1), " MB of text so far, ",
                     fixed(megabytes(counter.bytes()) / std::max(all.seconds(), 1e-9), 1), " MB/s"));
  }
  const int64_t bytes = counter.bytes();
  if (bytes == 0)
    throw DataError(str_cat(join(arguments.inputs, ", "), ": no text to learn from. Give a file with text"));
  const WordCounter words = counter.take();
  log_info(str_cat(words.size(), " different words; learning merges"));
  const Stopwatch merging;
  double said = 0;
  options.progress = [&](int64_t tokens) {
    if (merging.seconds() < said + 5) return;
    said = merging.seconds();
    log_info(str_cat(tokens, " of ", options.vocab_size, " tokens after ", format_duration(said)));
  };
  const BpeDefinition definition = train_bpe(words, options);
  save(arguments, definition);
  const auto tokens = static_cast<int64_t>(definition.tokens.size());
  if (tokens < options.vocab_size) {
    log_warn(str_cat("the vocabulary has ", tokens, " tokens instead of ", options.vocab_size, ": no pair occurs ",
                     options.min_frequency, " times any more. Give more text or a smaller --vocab-size"));
  }
  log_info(str_cat("wrote ", arguments.output, ": ", tokens, " tokens from ", fixed(megabytes(bytes), 1), " MB in ",
                   format_duration(all.seconds()), " (", fixed(megabytes(bytes) / std::max(all.seconds(), 1e-9), 1),
                   " MB/s)"));
}

void add_train(CLI::App& parent) {
  CLI::App* command = parent.add_subcommand("train", "Learn a byte-level BPE vocabulary and write a tokenizer.json.");
  auto arguments = std::make_shared<TrainArguments>();
  BpeTrainOptions& options = arguments->options;
  command->add_option("--input", arguments->inputs, "Text files, or *.jsonl with an object a line.")
      ->required()
      ->expected(1, 100000)
      ->allow_extra_args(false)
      ->type_name("FILE ...");
  command->add_option("--vocab-size", options.vocab_size, "Number of tokens, special ones and the 256 bytes included.")
      ->required()
      ->type_name("N");
  command->add_option("--output", arguments->output, "The tokenizer.json to write.")->required()->type_name("FILE");
  command
      ->add_option(
          "--special-tokens", options.special_tokens,
          "Tokens with ids from 0 on that no merge makes; the first one ends a document. Default: <|endoftext|>.")
      ->expected(1, 1000)
      ->allow_extra_args(false)  // or CLI11 takes the brackets off [PAD]
      ->type_name("TOKEN ...");
  command->add_option("--min-frequency", options.min_frequency, "Pairs that occur less often are not merged.")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  command->add_option("--json-key", arguments->json_key, "*.jsonl: the key that holds the text.")
      ->capture_default_str()

      ->type_name("KEY");
  command->add_option("--workers", arguments->workers, "Threads that count words. Default: one for each core.")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  command->footer(
      "The text is cut as GPT-2 cuts it, so that no token goes over a word's end. Hugging Face's `tokenizers` loads "
      "the\n"
      "file and gives the same ids.\n"
      "Example: megatron tokenizer train --input corpus.txt --vocab-size 8192 --output tokenizer.json");
  command->callback([arguments] { train(*arguments); });
}

struct CodingArguments {
  TokenizerSpec spec;
  std::string text, input;
  std::vector<TokenId> ids;
  bool lines = false, special = false, stats = false;
};

std::string read_input(const std::string& path) {
  if (path != "-") return read_file(path, int64_t{1} << 40);
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

void write_output(const std::string& bytes) {
  const bool good = std::fwrite(bytes.data(), 1, bytes.size(), stdout) == bytes.size() && std::fflush(stdout) == 0;
  if (!good) throw DataError("cannot write to standard output: the disk is full or the reader is gone");
}

/// Calls body for the whole text, or for each line without its newline.
template <typename Body>
void for_each_text(std::string_view text, bool lines, const Body& body) {
  if (!lines) return body(text);
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    body(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

void encode(const CodingArguments& arguments, bool text_given) {
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(checked_tokenizer_spec(arguments.spec));
  const std::string text = text_given ? arguments.text : read_input(arguments.input);
  std::string output;
  int64_t count = 0;
  double seconds = 0;
  for_each_text(text, arguments.lines, [&](std::string_view part) {
    const Stopwatch watch;
    const std::vector<TokenId> ids =
        arguments.special ? tokenizer->encode_with_special_tokens(part) : tokenizer->encode(part);
    seconds += watch.seconds();
    count += static_cast<int64_t>(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      if (i > 0) output += ' ';
      output += std::to_string(ids[i]);
    }
    output += '\n';
  });
  write_output(output);
  if (!arguments.stats) return;
  const auto bytes = static_cast<int64_t>(text.size());
  const std::string ratio = fixed(static_cast<double>(bytes) / static_cast<double>(std::max<int64_t>(count, 1)), 2);
  std::fprintf(stderr, "%lld bytes, %lld tokens, %s bytes per token, %s MB/s on one core\n",
               static_cast<long long>(bytes), static_cast<long long>(count), ratio.c_str(),
               fixed(megabytes(bytes) / std::max(seconds, 1e-9), 1).c_str());
}

/// Ids in decimal with white space between them.
std::vector<TokenId> parse_ids(std::string_view text) {
  std::vector<TokenId> ids;
  constexpr std::string_view kSpaces = " \t\r\n\v\f";
  while (true) {
    text.remove_prefix(std::min(text.find_first_not_of(kSpaces), text.size()));
    if (text.empty()) return ids;
    const std::string_view word = text.substr(0, text.find_first_of(kSpaces));
    TokenId id = 0;
    const auto [stop, fault] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (fault != std::errc() || stop != word.data() + word.size()) {
      throw DataError(str_cat("'", word.substr(0, 40), "' is no id. Give whole numbers with spaces between them"));
    }
    ids.push_back(id);
    text.remove_prefix(word.size());
  }
}

void decode(const CodingArguments& arguments, bool ids_given) {
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(checked_tokenizer_spec(arguments.spec));
  if (ids_given) return write_output(tokenizer->decode(arguments.ids) + "\n");
  std::string output;
  for_each_text(read_input(arguments.input), arguments.lines, [&](std::string_view part) {
    output += tokenizer->decode(parse_ids(part));
    if (arguments.lines) output += '\n';
  });
  write_output(output);
}

void add_encode(CLI::App& parent) {
  CLI::App* command = parent.add_subcommand("encode", "Print the ids of a text.");
  auto arguments = std::make_shared<CodingArguments>();
  CLI::Option* text = command->add_option("--text", arguments->text, "The text itself.")->type_name("TEXT");
  CLI::Option* input = command->add_option("--input", arguments->input, "A file with the text; - for standard input.")
                           ->type_name("FILE");
  text->excludes(input);
  command->add_flag("--lines", arguments->lines, "Each line is a text of its own, without its newline.");
  command->add_flag("--with-special-tokens", arguments->special,
                    "Add what the tokenizer's post-processor puts around a text, for example a begin token.");
  command->add_flag("--stats", arguments->stats, "Print bytes, tokens and speed to standard error.");
  add_tokenizer_options(*command, arguments->spec);
  command->footer("Example: megatron tokenizer encode --tokenizer-model tokenizer.json --text \"Hello, world\"");
  command->callback([arguments, text, input] {
    if (text->count() + input->count() == 0) throw UsageError("give the text with --text or --input");
    encode(*arguments, text->count() > 0);
  });
}

void add_decode(CLI::App& parent) {
  CLI::App* command = parent.add_subcommand("decode", "Print the text of ids.");
  auto arguments = std::make_shared<CodingArguments>();
  CLI::Option* ids =
      command->add_option("--ids", arguments->ids, "The ids; a newline is printed behind their text.")->type_name("ID");
  CLI::Option* input =
      command
          ->add_option("--input", arguments->input,
                       "A file with ids and white space between them; - for standard input. The text is "
                       "printed as it is, without a newline.")
          ->type_name("FILE");
  ids->excludes(input);
  command->add_flag("--lines", arguments->lines, "Each line of ids is a text, printed on a line.")->excludes(ids);
  add_tokenizer_options(*command, arguments->spec);
  command->footer("Example: megatron tokenizer decode --tokenizer-model tokenizer.json --ids 39 68 75 75 78");
  command->callback([arguments, ids, input] {
    if (ids->count() + input->count() == 0) throw UsageError("give the ids with --ids or --input");
    decode(*arguments, ids->count() > 0);
  });
}

}  // namespace

void add_tokenizer_command(CLI::App& app) {
  CLI::App* tokenizer = app.add_subcommand("tokenizer", "Train a tokenizer; encode and decode text.");
  tokenizer->require_subcommand(1);
  add_train(*tokenizer);
  add_encode(*tokenizer);
  add_decode(*tokenizer);
}

}  // namespace megatron
