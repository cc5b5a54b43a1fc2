// megatron data merge|stats|show|verify|samples: work on finished token files.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "cli/config_options.h"
#include "cli/tokenizer_options.h"
#include "data/data_tools.h"
#include "train/data_setup.h"
#include "train/export_samples.h"

namespace megatron {
namespace {

struct DataArguments {
  std::vector<std::string> prefixes;
  std::string prefix, output_prefix;
  TokenizerSpec tokenizer;
  int64_t document = 0, limit = 1000;
  std::optional<int64_t> vocab_size;
  bool decode = false;
  ConfigOptions config;
  std::string split = "train", output;
  int64_t first = 0, count = 0;
};

void run_merge(const DataArguments& arguments) {
  std::vector<std::string> prefixes;
  for (const std::string& input : arguments.prefixes) {
    if (!std::filesystem::is_directory(input)) {
      prefixes.push_back(input);
      continue;
    }
    for (const std::string& prefix : prefixes_in(input)) prefixes.push_back(prefix);
  }
  merge_indexed(prefixes, arguments.output_prefix);
  const IndexedFile merged(arguments.output_prefix);
  std::printf("%s: %zu inputs, %lld documents, %lld tokens\n", merged.prefix().c_str(), prefixes.size(),
              static_cast<long long>(merged.documents()), static_cast<long long>(merged.tokens()));
}

void print_line(const char* name, const std::string& value) {
  std::printf("%-18s %s\n", name, value.c_str());
}

void run_stats(const DataArguments& arguments) {
  const IndexedFile file(arguments.prefix);
  const DataStats stats = data_stats(file);
  print_line("documents", std::to_string(stats.documents));
  print_line("empty documents", std::to_string(stats.empty_documents));
  print_line("sequences", std::to_string(stats.sequences));
  print_line("tokens", std::to_string(stats.tokens));
  print_line("token type", dtype_name(stats.dtype));
  print_line("size of .bin", format_bytes(static_cast<double>(stats.bin_bytes)));
  print_line("size of .idx", format_bytes(static_cast<double>(stats.idx_bytes)));
  print_line("document length", str_cat("mean ", stats.mean, ", shortest ", stats.shortest, ", median ", stats.median,
                                        ", 90 % below ", stats.p90, ", longest ", stats.longest));
  if (!file.meta()) {
    print_line("tokenizer", "not known (no side file)");
    return;
  }
  char fingerprint[32];
  std::snprintf(fingerprint, sizeof fingerprint, "%016llx",
                static_cast<unsigned long long>(file.meta()->tokenizer.fingerprint));
  print_line("tokenizer", str_cat("fingerprint ", fingerprint, ", ", file.meta()->tokenizer.vocab_size, " ids"));
  print_line("greatest id", std::to_string(file.meta()->max_token_id));
}

void run_show(const DataArguments& arguments) {
  const IndexedFile file(arguments.prefix);
  if (arguments.document < 0 || arguments.document >= file.documents()) {
    throw UsageError(str_cat("--document ", arguments.document, ": ", arguments.prefix, " has documents 0 to ",
                             file.documents() - 1));
  }
  const int64_t first = file.document_begin(arguments.document), last = file.document_begin(arguments.document + 1);
  const int64_t begin = file.sequence_begin(first), count = file.sequence_begin(last) - begin;
  std::vector<TokenId> ids(static_cast<size_t>(std::min(count, arguments.limit)));
  file.read(begin, ids);
  if (arguments.decode) {
    const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(checked_tokenizer_spec(arguments.tokenizer));
    file.check_tokenizer(*tokenizer);
    file.check_ids(begin, ids, tokenizer->vocab_size());
    const std::string text = tokenizer->decode(ids);
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::printf("\n");
  } else {
    std::string line;
    for (const TokenId id : ids) line += (line.empty() ? "" : " ") + std::to_string(id);
    std::printf("%s\n", line.c_str());
  }
  std::fprintf(stderr, "document %lld: %lld tokens in %lld sequences%s\n", static_cast<long long>(arguments.document),
               static_cast<long long>(count), static_cast<long long>(last - first),
               count > arguments.limit ? str_cat(", the first ", arguments.limit, " shown (--limit)").c_str() : "");
}

void run_verify(const DataArguments& arguments) {
  const IndexedFile file(arguments.prefix);
  const VerifyReport report = verify_data(file, arguments.vocab_size);
  std::printf("%s: sound: %lld documents, %lld tokens, greatest id %d%s\n", arguments.prefix.c_str(),
              static_cast<long long>(file.documents()), static_cast<long long>(file.tokens()), report.max_token_id,
              report.hashes_checked ? ", hashes agree" : " (no side file: bytes not compared with hashes)");
}

void run_samples(const DataArguments& arguments) {
  const Config config = load_config(arguments.config).config;
  const DataSplits splits = open_data(config).splits;
  const DatasetPtr& dataset = arguments.split == "train"   ? splits.train
                              : arguments.split == "valid" ? splits.valid
                                                           : splits.test;
  if (!dataset) throw UsageError(str_cat("--split ", arguments.split, ": data.split leaves no such samples"));
  export_samples(*dataset, arguments.first, arguments.count, arguments.output);
  std::printf("%s: samples %lld to %lld of %s, %lld tokens each\n", arguments.output.c_str(),
              static_cast<long long>(arguments.first), static_cast<long long>(arguments.first + arguments.count - 1),
              arguments.split.c_str(), static_cast<long long>(dataset->seq_length() + 1));
}

CLI::App* add_file_command(CLI::App& parent, const char* name, const char* about, DataArguments& arguments) {
  CLI::App* command = parent.add_subcommand(name, about);
  command->add_option("prefix", arguments.prefix, "Token files: path without .bin or .idx.")
      ->type_name("PREFIX")
      ->required();
  return command;
}

void add_samples_command(CLI::App& parent, const std::shared_ptr<DataArguments>& arguments) {
  CLI::App* samples = parent.add_subcommand(
      "samples", "Write samples in the order in which a run reads them: safetensors, tokens [count, seq_length + 1].");
  add_config_options(*samples, arguments->config);
  samples->add_option("--count", arguments->count, "How many samples.")
      ->type_name("N")
      ->check(CLI::PositiveNumber.description(""))
      ->required();
  samples
      ->add_option(
          "--first", arguments->first,
          "The first one; without a step_batch_size_schedule iteration n starts at (n - 1) * global_batch_size.")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber.description(""))
      ->capture_default_str();
  samples->add_option("--split", arguments->split, "Which set.")
      ->check(CLI::IsMember({"train", "valid", "test"}).description("train|valid|test"))
      ->type_name("")
      ->capture_default_str();
  samples->add_option("--output", arguments->output, "The file to write.")->type_name("FILE")->required();
  samples->callback([arguments] { run_samples(*arguments); });
}

}  // namespace

void add_data_command(CLI::App& app) {
  CLI::App* data = app.add_subcommand("data", "Merge, examine, check and export token files.");
  data->require_subcommand(1);
  auto arguments = std::make_shared<DataArguments>();

  CLI::App* merge = data->add_subcommand("merge", "Join token files of one tokenizer, in the given order.");
  merge
      ->add_option("--input", arguments->prefixes, "Prefixes, or folders (all pairs of files in them, sorted by name).")
      ->type_name("PREFIX")
      ->required();
  merge->add_option("--output-prefix", arguments->output_prefix, "Where the result goes: path without suffix.")
      ->type_name("PREFIX")
      ->required();
  merge->callback([arguments] { run_merge(*arguments); });

  CLI::App* stats = add_file_command(*data, "stats", "Print counts, sizes and lengths of documents.", *arguments);
  stats->callback([arguments] { run_stats(*arguments); });

  CLI::App* show = add_file_command(*data, "show", "Print one document as ids, or as text.", *arguments);
  show->add_option("--document", arguments->document, "Which document, counted from 0.")
      ->type_name("N")
      ->capture_default_str();
  show->add_option("--limit", arguments->limit, "Print at most so many tokens.")
      ->type_name("N")
      ->check(CLI::PositiveNumber.description(""))
      ->capture_default_str();
  show->add_flag("--decode", arguments->decode, "Print text; needs the tokenizer that made the data.");
  add_tokenizer_options(*show, arguments->tokenizer);
  show->callback([arguments] { run_show(*arguments); });

  CLI::App* verify = add_file_command(
      *data, "verify", "Read everything: structure, range of ids, and hashes where known. Exit code 3 on damage.",
      *arguments);
  verify->add_option("--vocab-size", arguments->vocab_size, "Also refuse ids from this number on.")
      ->type_name("N")
      ->check(CLI::PositiveNumber.description(""));
  verify->callback([arguments] { run_verify(*arguments); });
  add_samples_command(*data, arguments);
}

}  // namespace megatron
