// Feeds made-up bytes to the readers of files under AddressSanitizer and UndefinedBehaviorSanitizer, with which this
// program and those readers are always built. Inputs that reach code for the first time are kept and changed further.
//   fuzz_readers headers|json [--seconds S | --runs N] [--seed K] [--keep FILE]    FILE: where the last input is found
//   fuzz_readers headers|json --input FILE                                         one input again
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file_io.h"
#include "base/log.h"
#include "base/philox.h"
#include "base/strings.h"
#include "tests/checkpoint/fuzz/targets.h"

namespace {

constexpr size_t kEdges = 1 << 16;
std::array<uint8_t, kEdges> edges;  // steps from block to block of the input that runs, counted
uintptr_t last_block = 0;

}  // namespace

/// Memory is kept from use for a while after it was given back, but not so long that this takes most of the time.
extern "C" const char* __asan_default_options() {
  return "quarantine_size_mb=4:malloc_context_size=4";
}

/// Called by the readers at the start of every block of code.
extern "C" void __sanitizer_cov_trace_pc() {
  const auto block = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  const uintptr_t edge = (block * 0x9E3779B97F4A7C15ULL >> 40) ^ last_block;
  uint8_t& count = edges[edge % kEdges];
  if (count < 255) ++count;
  last_block = (block * 0x9E3779B97F4A7C15ULL >> 40) >> 1;
}

namespace megatron::fuzz {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kLongestInput = 1 << 14;
constexpr double kSlowSeconds = 5;

const std::string kSpice[] = {"{",
                              "}",
                              "[",
                              "]",
                              "\"",
                              ",",
                              ":",
                              "0",
                              "-1",
                              "9223372036854775807",
                              "1e999",
                              "\\",
                              "null",
                              "NaN",
                              "\\ud800",
                              "true",
                              "\xff",
                              " ",
                              "1.5",
                              "4611686018427387904",
                              "18446744073709551616",
                              "{}",
                              "[]",
                              "\"\"",
                              "\xe2\x96\x81"};
const uint64_t kNumbers[] = {0,
                             1,
                             2,
                             8,
                             9,
                             31,
                             255,
                             1 << 16,
                             (1 << 24) + 1,
                             INT32_MAX,
                             UINT32_MAX,
                             INT64_MAX,
                             UINT64_MAX,
                             uint64_t{1} << 62,
                             uint64_t{1} << 60};

/// Random changes, a function of the seed and the number of the run alone.
class Mutator {
 public:
  Mutator(uint64_t seed, uint64_t run) : key_(philox_key(seed, run)) {}

  size_t draw(size_t below) { return static_cast<size_t>(philox_uniform(key_, draws_++) * static_cast<double>(below)); }

  std::string change(std::string text, const std::string& other) {
    for (size_t edits = 1 + draw(4); edits > 0; --edits) edit(text, other);
    if (text.size() > kLongestInput) text.resize(kLongestInput);
    return text;
  }

 private:
  void edit(std::string& text, const std::string& other) {
    if (text.empty()) text = other;
    const size_t at = draw(text.size());
    switch (draw(9)) {
      case 0:
        text[at] = static_cast<char>(text[at] ^ (1 << draw(8)));
        return;
      case 1:
        text[at] = static_cast<char>(draw(256));
        return;
      case 2:
        text.erase(at, 1 + draw(20));
        return;
      case 3:
        text.insert(at, kSpice[draw(std::size(kSpice))]);
        return;
      case 4: {
        const std::string& spice = kSpice[draw(std::size(kSpice))];
        text.replace(at, std::min(text.size() - at, 1 + draw(4)), spice);
        return;
      }
      case 5:
        text.insert(at, text.substr(draw(text.size()), draw(40)));
        return;
      case 6:
        if (!other.empty()) text.replace(at, draw(40), other.substr(draw(other.size()), draw(80)));
        return;
      case 7: {  // a number of a binary format
        const uint64_t number = kNumbers[draw(std::size(kNumbers))] - draw(3) + draw(3);
        const size_t size = std::min<size_t>(text.size() - at, draw(2) == 0 ? 4 : 8);
        std::memcpy(text.data() + at, &number, size);
        return;
      }
      default:
        if (draw(8) == 0) text.resize(at);
    }
  }

  uint64_t key_;
  uint32_t draws_ = 0;
};

/// The input that runs, in a file that outlives this process.
class LastInput {
 public:
  explicit LastInput(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || ::ftruncate(fd, kBytes) != 0) throw DataError("cannot write " + path);
    memory_ = static_cast<char*>(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    ::close(fd);
    if (memory_ == MAP_FAILED) throw DataError("cannot map " + path);
  }
  void keep(size_t target, const std::string& bytes) {
    const uint32_t head[2] = {static_cast<uint32_t>(target), static_cast<uint32_t>(bytes.size())};
    std::memcpy(memory_, head, sizeof head);
    std::memcpy(memory_ + sizeof head, bytes.data(), bytes.size());
  }

 private:
  static constexpr size_t kBytes = kLongestInput + 64;
  char* memory_ = nullptr;
};

class Fuzzer {
 public:
  explicit Fuzzer(std::vector<Target> targets) : targets_(std::move(targets)) {
    for (const Target& target : targets_) {
      corpora_.push_back(target.seeds);
      seen_.emplace_back(kEdges);
      for (const std::string& seed : target.seeds) {
        target.read(seed);  // each is good
        is_new(seen_.size() - 1);
      }
    }
  }

  /// Returns the number of runs.
  uint64_t run(double seconds, uint64_t runs, uint64_t seed, LastInput* last) {
    const auto start = Clock::now();
    auto before = start;
    uint64_t run = 0;
    for (; run < runs; ++run) {
      const size_t t = run % targets_.size();
      Mutator mutator(seed, run);
      std::vector<std::string>& corpus = corpora_[t];
      // Half of the inputs come from what was found last.
      const size_t recent = std::min<size_t>(corpus.size(), 32);
      const size_t pick = mutator.draw(2) == 0 ? mutator.draw(corpus.size()) : corpus.size() - 1 - mutator.draw(recent);
      std::string input = mutator.change(corpus[pick], corpus[mutator.draw(corpus.size())]);
      if (last != nullptr) last->keep(t, input);
      feed(t, input);
      if (is_new(t)) corpus.push_back(std::move(input));
      const auto now = Clock::now();
      if (std::chrono::duration<double>(now - before).count() > kSlowSeconds) throw InternalError("this input is slow");
      if (std::chrono::duration<double>(now - start).count() >= seconds) return run + 1;
      before = now;
    }
    return run;
  }

  void feed(size_t target, const std::string& bytes) {
    const std::vector<char> exact(bytes.begin(), bytes.end());  // no byte behind its end
    try {
      targets_.at(target).read({exact.data(), exact.size()});
      ++accepted_;
    } catch (const DataError&) {
    }
  }

  std::string figures() const {
    std::string text;
    for (size_t t = 0; t < targets_.size(); ++t) {
      text += str_cat(t == 0 ? "" : ", ", targets_[t].name, " ", corpora_[t].size());
    }
    return str_cat(accepted_, " were read; kept: ", text);
  }

 private:
  /// Did the last input take a step, or take one so many times, as none before?
  bool is_new(size_t target) {
    std::vector<uint8_t>& seen = seen_[target];
    bool found = false;
    for (size_t word = 0; word < kEdges; word += sizeof(uint64_t)) {
      uint64_t any = 0;
      std::memcpy(&any, &edges[word], sizeof any);
      if (any == 0) continue;
      for (size_t i = word; i < word + sizeof any; ++i) {
        const auto bucket = static_cast<uint8_t>(edges[i] == 0    ? 0
                                                 : edges[i] < 4   ? edges[i]
                                                 : edges[i] < 16  ? 4
                                                 : edges[i] < 128 ? 8
                                                                  : 16);
        if ((bucket & ~seen[i]) == 0) continue;
        seen[i] |= bucket;
        found = true;
      }
    }
    edges.fill(0);
    last_block = 0;
    return found;
  }

  std::vector<Target> targets_;
  std::vector<std::vector<std::string>> corpora_;
  std::vector<std::vector<uint8_t>> seen_;
  uint64_t accepted_ = 0;
};

int main_or_throw(const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments.size() % 2 == 0) throw UsageError("see the first lines of this file");
  Fuzzer fuzzer(arguments[0] == "headers" ? header_targets() : json_targets());
  double seconds = 1e9;
  uint64_t runs = UINT64_MAX, seed = 1;
  std::string keep;
  for (size_t i = 1; i < arguments.size(); i += 2) {
    const std::string &option = arguments[i], &value = arguments[i + 1];
    if (option == "--seconds") seconds = std::stod(value);
    if (option == "--runs") runs = std::stoull(value);
    if (option == "--seed") seed = std::stoull(value);
    if (option == "--keep") keep = value;
    if (option != "--input") continue;
    const std::string file = read_file(value);
    uint32_t head[2];
    std::memcpy(head, file.data(), sizeof head);
    fuzzer.feed(head[0], file.substr(sizeof head, head[1]));
    std::printf("fuzz_readers: nothing found in this input\n");
    return 0;
  }
  std::unique_ptr<LastInput> last;
  if (!keep.empty()) last = std::make_unique<LastInput>(keep);
  const uint64_t done = fuzzer.run(seconds, runs, seed, last.get());
  std::printf("fuzz_readers %s: %llu inputs, nothing found; %s\n", arguments[0].c_str(),
              static_cast<unsigned long long>(done), fuzzer.figures().c_str());
  return done >= std::min<uint64_t>(runs, 1000) ? 0 : 1;  // fewer test nothing
}

}  // namespace
}  // namespace megatron::fuzz

int main(int argc, char** argv) {
  megatron::set_log_level(megatron::LogLevel::kError);
  return megatron::fuzz::main_or_throw({argv + 1, argv + argc});  // whatever is thrown ends it with a trace
}
