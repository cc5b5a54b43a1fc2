// megatron preprocess: text in, token files out.
#include <glob.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "base/error.h"
#include "base/log.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "cli/tokenizer_options.h"
#include "data/preprocess.h"

namespace megatron {
namespace {

struct PreprocessArguments {
  PreprocessOptions options;
  TokenizerSpec tokenizer;
  std::string format = "auto";
  bool no_special_tokens = false;
};

/// Patterns that the shell has not expanded (they were quoted) are expanded here, sorted.
std::vector<std::string> expand(const std::vector<std::string>& inputs) {
  std::vector<std::string> files;
  for (const std::string& input : inputs) {
    if (input.find_first_of("*?[") == std::string::npos) {
      files.push_back(input);
      continue;
    }
    glob_t found{};
    const int result = ::glob(input.c_str(), 0, nullptr, &found);
    for (size_t i = 0; result == 0 && i < found.gl_pathc; ++i) files.emplace_back(found.gl_pathv[i]);
    ::globfree(&found);
    if (result != 0) throw DataError(str_cat("--input ", input, ": no file matches"));
  }
  return files;
}

/// "\n", "\t" and "\\" as people write them on a command line.
std::string unescape(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char next = text[i] == '\\' && i + 1 < text.size() ? text[i + 1] : '\0';
    if (next == 'n' || next == 't' || next == 'r' || next == '\\') {
      out += next == 'n' ? '\n' : next == 't' ? '\t' : next == 'r' ? '\r' : '\\';
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

void run_preprocess(const PreprocessArguments& arguments) {
  PreprocessOptions options = arguments.options;
  options.inputs = expand(options.inputs);
  options.document_separator = unescape(options.document_separator);
  options.format = arguments.format == "auto"   ? InputFormat::kAuto
                   : arguments.format == "text" ? InputFormat::kText
                                                : InputFormat::kJsonl;
  options.include_special_tokens = !arguments.no_special_tokens;
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(checked_tokenizer_spec(arguments.tokenizer));
  const PreprocessReport report = preprocess(options, *tokenizer, [](const PreprocessProgress& progress) {
    log_info("preprocess: " + format_progress(progress));
  });
  log_info("preprocess: done: " + format_progress(report.totals));
  if (report.empty_documents > 0) {
    log_info(str_cat("preprocess: ", report.empty_documents, " documents have no token; they are kept, empty"));
  }
  for (const std::string& prefix : report.prefixes) std::printf("%s\n", prefix.c_str());
}

constexpr const char* kAbout =
    "The output has the format of Megatron-LM (.bin and .idx).\n\n"
    "JSONL input (names in .jsonl, .json, .ndjson): one JSON object a line; each key of --json-keys holds the text of "
    "a\n"
    "document, or a list of its sentences, and gives the files PREFIX_KEY_document.\n"
    "Plain text input (all other names): each file is one document, or, with --document-separator, what lies between\n"
    "separators; it gives the files PREFIX_document. Large files are read in pieces that are cut only where no token\n"
    "changes; memory doesn't grow with the size of the input.\n"
    "Compressed input: zcat FILE | megatron preprocess --input - --input-format jsonl ...\n\n"
    "The output doesn't depend on --workers. It appears under its names only when it is complete. The paths to give "
    "as\n"
    "data.data_path are printed on standard output, progress on standard error.";

}  // namespace

void add_preprocess_command(CLI::App& app) {
  auto* command =
      app.add_subcommand("preprocess", "Turn text or JSONL into token files (.bin, .idx) that training reads.");
  command->footer(kAbout);
  auto arguments = std::make_shared<PreprocessArguments>();
  PreprocessOptions& options = arguments->options;
  command->add_option("--input", options.inputs, "Input files or quoted patterns, in this order; - is standard input.")
      ->type_name("FILE")
      ->required();
  command->add_option("--output-prefix", options.output_prefix, "Where the output goes: path without suffix.")
      ->type_name("PREFIX")
      ->required();
  command->add_option("--input-format", arguments->format, "What the input is; auto goes by the names.")
      ->check(CLI::IsMember({"auto", "text", "jsonl"}).description(""))
      ->type_name("auto|text|jsonl")
      ->capture_default_str();
  command->add_option("--json-keys", options.json_keys, "JSONL: keys whose text is taken.")
      ->type_name("KEY")
      ->capture_default_str();
  command
      ->add_option("--document-separator", options.document_separator,
                   "Plain text: what separates documents, such as \"\\n\\n\" (\\n, \\t, \\r, \\\\ are understood). "
                   "Without it each file is one document.")
      ->type_name("TEXT");
  command->add_flag("--append-eod", options.append_eod, "Append the end-of-document token to each document.");
  command->add_flag("--tokenizer-hf-no-include-special-tokens", arguments->no_special_tokens,
                    "Leave out the tokens that the tokenizer itself puts around a text (such as a begin token).");
  command->add_option("--workers", options.workers, "Threads that tokenise.")
      ->type_name("N")
      ->check(CLI::Range(1, 1024).description(""))
      ->capture_default_str();
  command->add_option("--log-interval", options.report_seconds, "Seconds between two lines of progress.")
      ->type_name("SECONDS")
      ->check(CLI::PositiveNumber.description(""))
      ->capture_default_str();
  add_tokenizer_options(*command, arguments->tokenizer);
  command->callback([arguments] { run_preprocess(*arguments); });
}

}  // namespace megatron
