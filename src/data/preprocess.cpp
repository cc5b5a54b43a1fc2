#include "data/preprocess.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <set>
#include <variant>

#include "base/error.h"
#include "base/strings.h"
#include "data/indexed_writer.h"
#include "data/input_reader.h"
#include "data/json_lines.h"
#include "data/ordered_pipeline.h"

namespace megatron {
namespace {

using Clock = std::chrono::steady_clock;
using Item = std::variant<TextItem, LineItem>;

/// What follows some tokens of a stream.
struct Mark {
  int64_t bytes = 0;
  bool ends_sequence = false, ends_document = false;
};

/// Packed tokens of one key, in order.
struct EncodedStream {
  std::string bytes;
  std::vector<Mark> marks;
  TokenId max_id = 0;
};

struct EncodedItem {
  std::vector<EncodedStream> streams;
  int64_t input_bytes = 0;
};

bool is_jsonl(const std::string& path) {
  const std::string name = lower(path);
  return ends_with(name, ".jsonl") || ends_with(name, ".json") || ends_with(name, ".ndjson");
}

InputFormat choose_format(const PreprocessOptions& options) {
  for (const std::string& path : options.inputs) {
    for (const char* suffix : {".gz", ".zst", ".xz", ".bz2"}) {
      if (ends_with(lower(path), suffix)) {
        throw UsageError(str_cat("--input ", path, ": compressed files aren't read; unpack into a pipe: ",
                                 "zcat FILE | megatron preprocess --input - --input-format text|jsonl ..."));
      }
    }
  }
  if (options.format != InputFormat::kAuto) return options.format;
  const int64_t lines = std::count_if(options.inputs.begin(), options.inputs.end(), is_jsonl);
  if (lines != 0 && lines != static_cast<int64_t>(options.inputs.size())) {
    throw UsageError("--input: text and JSONL files in one run; give --input-format text or jsonl, or run twice");
  }
  if (lines == 0 && std::count(options.inputs.begin(), options.inputs.end(), "-") > 0) {
    throw UsageError("--input -: standard input has no name to tell its format; give --input-format text or jsonl");
  }
  return lines > 0 ? InputFormat::kJsonl : InputFormat::kText;
}

void check_options(const PreprocessOptions& options, InputFormat format, const Tokenizer& tokenizer) {
  if (options.inputs.empty()) throw UsageError("--input: at least one file is needed");
  if (options.workers < 1) throw UsageError("--workers: at least 1");
  if (options.append_eod && !tokenizer.eod()) {
    throw UsageError("--append-eod: this tokenizer has no end-of-document token; train or choose one that has");
  }
  if (format == InputFormat::kJsonl) {
    if (!options.document_separator.empty()) throw UsageError("--document-separator: only for plain text input");
    const std::set<std::string> distinct(options.json_keys.begin(), options.json_keys.end());
    if (distinct.size() != options.json_keys.size()) throw UsageError("--json-keys: a key is named twice");
    if (distinct.empty()) throw UsageError("--json-keys: at least one key is needed");
  }
}

/// Reads the inputs one after the other.
class ItemSource {
 public:
  ItemSource(const PreprocessOptions& options, InputFormat format, const Tokenizer& tokenizer)
      : options_(options), format_(format), tokenizer_(tokenizer) {}

  std::optional<Item> next() {
    while (next_input_ < options_.inputs.size() || text_ || lines_) {
      if (text_) {
        if (std::optional<TextItem> item = text_->next()) return Item(std::move(*item));
      } else if (lines_) {
        if (std::optional<LineItem> item = lines_->next()) return Item(std::move(*item));
      }
      text_.reset();
      lines_.reset();
      if (next_input_ < options_.inputs.size()) open(options_.inputs[next_input_++]);
    }
    return std::nullopt;
  }

 private:
  void open(const std::string& path) {
    if (format_ == InputFormat::kJsonl) {
      lines_ = std::make_unique<LineReader>(path, options_.item_bytes);
    } else {
      text_ = std::make_unique<TextReader>(path, options_.document_separator, options_.item_bytes,
                                           options_.document_limit_bytes, tokenizer_);
    }
  }

  const PreprocessOptions& options_;
  InputFormat format_;
  const Tokenizer& tokenizer_;
  size_t next_input_ = 0;
  std::unique_ptr<TextReader> text_;
  std::unique_ptr<LineReader> lines_;
};

/// The part that runs on the workers.
class Encoder {
 public:
  Encoder(const Tokenizer& tokenizer, const PreprocessOptions& options)
      : tokenizer_(tokenizer),
        keys_(options.json_keys),
        special_(options.include_special_tokens),
        dtype_(dtype_for_vocab(tokenizer.vocab_size())) {
    if (special_) find_special_tokens();
  }

  EncodedItem encode(Item&& item) const {
    return std::holds_alternative<TextItem>(item) ? encode_text(std::get<TextItem>(item))
                                                  : encode_lines(std::get<LineItem>(item));
  }

 private:
  EncodedItem encode_text(const TextItem& item) const {
    EncodedItem out{std::vector<EncodedStream>(1), item.input_bytes};
    for (const TextPiece& piece : item.pieces) {
      std::vector<TokenId> ids = tokenizer_.encode(piece.text);
      if (piece.begins_document) ids.insert(ids.begin(), before_.begin(), before_.end());
      if (piece.ends_document) ids.insert(ids.end(), after_.begin(), after_.end());
      add(ids, {0, piece.ends_document, piece.ends_document}, out.streams[0]);
    }
    return out;
  }

  EncodedItem encode_lines(const LineItem& item) const {
    EncodedItem out{std::vector<EncodedStream>(keys_.size()), static_cast<int64_t>(item.text.size())};
    std::vector<JsonTexts> values;
    std::string_view rest = item.text;
    for (int64_t number = item.first_line; !rest.empty(); ++number) {
      const size_t end = std::min(rest.find('\n'), rest.size());
      const std::string_view line = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      if (trim(line).empty()) continue;  // an empty line holds no document
      extract_texts(line, keys_, item.file, number, values);
      for (size_t k = 0; k < keys_.size(); ++k) add_document(values[k], out.streams[k]);
    }
    return out;
  }

  void add_document(const JsonTexts& texts, EncodedStream& stream) const {
    const size_t first = stream.marks.size();
    for (const std::string& text : texts) {
      const std::vector<TokenId> ids = special_ ? tokenizer_.encode_with_special_tokens(text) : tokenizer_.encode(text);
      if (!ids.empty()) add(ids, {0, true, false}, stream);  // empty sentences are dropped, as upstream
    }
    if (stream.marks.size() == first) stream.marks.push_back({});
    stream.marks.back().ends_document = true;
  }

  void add(const std::vector<TokenId>& ids, Mark mark, EncodedStream& stream) const {
    const size_t old = stream.bytes.size();
    pack_tokens(ids, dtype_, stream.bytes);
    for (const TokenId id : ids) stream.max_id = std::max(stream.max_id, id);
    mark.bytes = static_cast<int64_t>(stream.bytes.size() - old);
    stream.marks.push_back(mark);
  }

  /// A document that comes in pieces needs what stands before and after a text apart.
  void find_special_tokens() {
    const std::vector<TokenId> inner = tokenizer_.encode("1"), all = tokenizer_.encode_with_special_tokens("1");
    const auto found = std::search(all.begin(), all.end(), inner.begin(), inner.end());
    if (inner.empty() || found == all.end()) {
      throw UsageError(
          "this tokenizer doesn't just put its special tokens around a text; leave them out with "
          "--tokenizer-hf-no-include-special-tokens");
    }
    before_.assign(all.begin(), found);
    after_.assign(found + static_cast<int64_t>(inner.size()), all.end());
  }

  const Tokenizer& tokenizer_;
  const std::vector<std::string>& keys_;
  bool special_;
  TokenDtype dtype_;
  std::vector<TokenId> before_, after_;
};

/// Appends one stream to its file. A sequence with no tokens is not written; its document is, empty.
int64_t write_stream(const EncodedStream& stream, std::optional<TokenId> eod, IndexedWriter& writer) {
  const char* bytes = stream.bytes.data();
  int64_t sequences_before = writer.sequences(), empty = 0;
  for (const Mark& mark : stream.marks) {
    writer.append_packed({bytes, static_cast<size_t>(mark.bytes)}, stream.max_id);
    bytes += mark.bytes;
    if (mark.ends_document && eod && writer.open_tokens() > 0) writer.append({&*eod, 1});
    if ((mark.ends_sequence || mark.ends_document) && writer.open_tokens() > 0) writer.end_sequence();
    if (!mark.ends_document) continue;
    if (writer.sequences() == sequences_before) ++empty;
    sequences_before = writer.sequences();
    writer.end_document();
  }
  return empty;
}

std::vector<std::string> output_prefixes(const PreprocessOptions& options, InputFormat format) {
  if (format == InputFormat::kText) return {options.output_prefix + "_document"};
  std::vector<std::string> prefixes;
  for (const std::string& key : options.json_keys) prefixes.push_back(options.output_prefix + "_" + key + "_document");
  return prefixes;
}

/// Also finds a missing file before hours of work.
int64_t total_size(const std::vector<std::string>& inputs) {
  int64_t total = 0;
  bool known = true;
  for (const std::string& path : inputs) {
    const int64_t size = InputStream(path).size();
    if (size < 0) known = false;
    total += size;
  }
  return known ? total : -1;
}

}  // namespace

PreprocessReport preprocess(const PreprocessOptions& options, const Tokenizer& tokenizer,
                            const std::function<void(const PreprocessProgress&)>& progress) {
  const InputFormat format = choose_format(options);
  check_options(options, format, tokenizer);
  PreprocessReport report;
  report.prefixes = output_prefixes(options, format);
  report.totals.total_bytes = total_size(options.inputs);
  std::vector<std::unique_ptr<IndexedWriter>> writers;
  for (const std::string& prefix : report.prefixes) {
    writers.push_back(std::make_unique<IndexedWriter>(prefix, dtype_for_vocab(tokenizer.vocab_size())));
  }
  const std::optional<TokenId> eod = options.append_eod ? tokenizer.eod() : std::nullopt;
  const Clock::time_point start = Clock::now();
  Clock::time_point reported = start;
  const auto update_totals = [&] {
    report.totals.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    report.totals.documents = writers[0]->documents();
    report.totals.tokens = 0;
    for (const auto& writer : writers) report.totals.tokens += writer->tokens() + writer->open_tokens();
  };
  const auto sink = [&](EncodedItem&& item) {
    for (size_t i = 0; i < writers.size(); ++i) {
      report.empty_documents += write_stream(item.streams[i], eod, *writers[i]);
    }
    report.totals.input_bytes += item.input_bytes;
    const Clock::time_point now = Clock::now();
    if (!progress || std::chrono::duration<double>(now - reported).count() < options.report_seconds) return;
    reported = now;
    update_totals();
    progress(report.totals);
  };
  ItemSource source(options, format, tokenizer);
  const Encoder encoder(tokenizer, options);
  {
    OrderedPipeline<Item, EncodedItem> pipeline(options.workers,
                                                [&](Item&& item) { return encoder.encode(std::move(item)); });
    pipeline.run(
        static_cast<size_t>(2 * options.workers + 2), [&] { return source.next(); }, sink);
  }
  update_totals();
  if (report.totals.tokens == 0) {
    throw DataError(str_cat(options.inputs[0], ": ", options.inputs.size() > 1 ? "these inputs hold" : "holds",
                            " no token of text; nothing was written"));
  }
  for (const auto& writer : writers) writer->finish(identity_of(tokenizer));
  return report;
}

std::string format_progress(const PreprocessProgress& p) {
  char text[200];
  const double megabytes = static_cast<double>(p.input_bytes) / 1e6;
  const double seconds = std::max(p.seconds, 1e-9);
  std::string done;
  std::snprintf(text, sizeof text, "%.1f MB", megabytes);
  done = text;
  if (p.total_bytes > 0) {
    std::snprintf(text, sizeof text, " of %.1f MB (%.0f %%)", static_cast<double>(p.total_bytes) / 1e6,
                  100.0 * static_cast<double>(p.input_bytes) / static_cast<double>(p.total_bytes));
    done += text;
  }
  std::snprintf(text, sizeof text, " | %.1f MB/s | %s tokens/s | %lld documents", megabytes / seconds,
                format_count(static_cast<double>(p.tokens) / seconds).c_str(), static_cast<long long>(p.documents));
  done += text;
  if (p.total_bytes > p.input_bytes && p.input_bytes > 0) {
    const double left = static_cast<double>(p.total_bytes - p.input_bytes) / static_cast<double>(p.input_bytes);
    done += str_cat(" | ", format_duration(left * p.seconds), " left");
  }
  return done;
}

}  // namespace megatron
