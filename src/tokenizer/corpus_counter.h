// Counts the words of files, on several threads and in bounded memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "tokenizer/word_counter.h"

namespace megatron {

/// Counts the pieces that GPT-2's pattern cuts. Files are read a block at a time, and blocks are cut only where the
/// pattern cuts anyway, so the counts are those of the whole text and do not depend on the number of threads.
class CorpusCounter {
 public:
  explicit CorpusCounter(int threads);

  void add_text(std::string_view text);
  /// Plain text; or, when the name ends in .jsonl, an object a line, whose string `json_key` is the text. DataError
  /// names the file, and the line of a fault.
  void add_file(const std::string& path, const std::string& json_key);

  int64_t bytes() const { return bytes_; }  ///< of all texts so far
  /// The counts so far; the counter is empty afterwards.
  WordCounter take();

 private:
  void add_lines(std::string_view lines, const std::string& path, const std::string& json_key, int64_t first_line);

  ThreadPool pool_;
  std::vector<WordCounter> counters_;  ///< one per thread
  int64_t bytes_ = 0;
};

}  // namespace megatron
