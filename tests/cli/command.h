// Runs the real program in a folder of its own and catches what it says.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace megatron::testing {

struct Outcome {
  int code = 0;  ///< exit code; 128 + n when signal n ended it
  std::string out, err;
};

bool has(const std::string& text, const std::string& part);

/// A program that runs on; killed with its owner. It dies by itself after two minutes.
class Process {
 public:
  Process(pid_t pid, std::string out, std::string err) : pid_(pid), out_(std::move(out)), err_(std::move(err)) {}
  Process(Process&& other) noexcept;
  ~Process();
  void signal(int number) const;
  Outcome wait();

 private:
  pid_t pid_;
  std::string out_, err_;
};

/// A temporary folder, in which the program is run, with `data/tokenizer.json`, `data/text_document` and `tiny.yaml`
/// after prepare().
class Workspace {
 public:
  Workspace();
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  std::string path(const std::string& name) const { return root_ + "/" + name; }
  void write(const std::string& name, const std::string& text) const;
  std::string read(const std::string& name) const;
  bool exists(const std::string& name) const;
  /// Replaces the byte at `offset` by another one.
  void damage(const std::string& name, int64_t offset) const;

  /// `megatron` with these words, to its end.
  Outcome run(const std::vector<std::string>& words) const;
  /// The same, of which success is required.
  std::string succeed(const std::vector<std::string>& words) const;
  Process start(const std::vector<std::string>& words) const;

  /// A corpus, its tokenizer, its token files, and tiny.yaml with run.dir out/tiny.
  void prepare() const;

 private:
  std::string root_;
};

/// English text of some 30 kB that every checkout has.
std::string real_text();

/// `tiny.yaml` of a run folder: the smallest model of the kind that users train, 30 iterations.
std::string tiny_yaml(const std::string& run_dir);

/// The numbers of metrics.jsonl by iteration; where one comes several times, the last line counts. Only what has to be
/// the same in two equal runs: loss, norm, learning rate, samples, evaluations.
std::map<int64_t, std::string> comparable_metrics(const std::string& jsonl);

}  // namespace megatron::testing
