// Shared by the checkpoint tests: a temporary folder, a small training state, and file operations that fail or die.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file_io.h"
#include "base/log.h"
#include "base/philox.h"
#include "base/strings.h"
#include "checkpoint/reader.h"
#include "checkpoint/store.h"
#include "tests/catch.h"

namespace megatron::testing {

class TempFolder {
 public:
  TempFolder() {
    set_log_level(LogLevel::kOff);
    // In memory where there is such a folder: the tests make thousands of files.
    const std::filesystem::path shm = "/dev/shm";
    const auto base = ::access(shm.c_str(), W_OK) == 0 ? shm : std::filesystem::temp_directory_path();
    std::string name = (base / "megatron_ckpt_XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::string file(std::string_view name) const { return path_join(path_, name); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline void overwrite(const std::string& path, std::string_view bytes) {
  FileWriter writer(path, FileOps::Create::kReplace);
  writer.append(bytes);
  writer.flush();
}

/// A small state whose every byte depends on the iteration, and so tells which checkpoint was loaded.
class Sample {
 public:
  explicit Sample(int64_t iteration) : iteration_(iteration) {
    add("embedding.word_embeddings.weight", StateKind::kParameter, DType::kF32, {6, 4});
    add("decoder.layers.0.mlp.linear_fc1.weight", StateKind::kParameter, DType::kBF16, {2, 5, 3});
    add("decoder.final_layernorm.weight", StateKind::kParameter, DType::kF16, {3});
    add("optimizer.state.exp_avg.embedding.word_embeddings.weight", StateKind::kOptimizer, DType::kF32, {6, 4});
    add("optimizer.step", StateKind::kOptimizer, DType::kI64, {});
    add("mask", StateKind::kParameter, DType::kU8, {7});
    add("nothing", StateKind::kParameter, DType::kF64, {0, 4});
    add("table", StateKind::kParameter, DType::kI32, {1, 9});
    add("wide", StateKind::kOptimizer, DType::kF64, {4, 2});
  }

  CheckpointContent content() const {
    CheckpointContent content;
    content.iteration = iteration_;
    content.tokenizer = "xxh64:0123";
    content.state = {{"consumed_samples", iteration_ * 8}, {"lr", 0.1 / 3}, {"done", false}, {"phase", "train"}};
    for (size_t i = 0; i < records_.size(); ++i) content.tensors.push_back(whole_tensor(records_[i], data_[i]));
    content.texts = {{"resolved.yaml", str_cat("training:\n  train_iters: ", iteration_, "\n")}};
    return content;
  }

  /// Throws DataError when `reader` fails; false when it gives other bytes than this sample has.
  bool matches(const CheckpointReader& reader) const {
    bool same = reader.iteration() == iteration_ && reader.state_int("consumed_samples") == iteration_ * 8 &&
                reader.read_text("resolved.yaml") == content().texts.at("resolved.yaml") &&
                reader.manifest().tensors.size() == records_.size();
    for (size_t i = 0; i < records_.size(); ++i) {
      std::vector<std::byte> out(data_[i].size());
      reader.read(records_[i], out);
      same = same && out == data_[i];
    }
    return same;
  }

  const std::vector<TensorRecord>& records() const { return records_; }
  const std::vector<std::vector<std::byte>>& data() const { return data_; }

 private:
  void add(std::string name, StateKind kind, DType dtype, std::vector<int64_t> shape) {
    std::vector<std::byte> bytes(static_cast<size_t>(element_count(shape) * size_of(dtype)));
    const uint64_t key = philox_key(static_cast<uint64_t>(iteration_), hash_name(name));
    for (size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<std::byte>(philox(key, static_cast<uint32_t>(i), 0, 0, 0).v[0]);
    }
    records_.push_back({std::move(name), kind, dtype, std::move(shape)});
    data_.push_back(std::move(bytes));
  }

  int64_t iteration_;
  std::vector<TensorRecord> records_;
  std::vector<std::vector<std::byte>> data_;
};

/// Small shards and chunks, so that a small state has several of each.
inline StoreOptions small_options(int64_t keep = 0) {
  StoreOptions options;
  options.shard_bytes = 160;
  options.chunk_bytes = 48;
  options.most_recent_k = keep;
  options.program = "test";
  return options;
}

/// The real operations but for waiting for the storage, which only costs time where no power is lost.
class UnsyncedOps : public FileOps {
 public:
  int sync(int) override { return 0; }
  int sync_directory(const std::string&) override { return 0; }
};

inline void save(const std::string& root, int64_t iteration, const StoreOptions& options = small_options()) {
  UnsyncedOps ops;
  CheckpointStore(root, options, ops).save(Sample(iteration).content());
}

/// Calls before(k, name, path) ahead of changing operation number k. When that gives a number other than 0, the
/// operation is not done and fails with it.
class HookedOps : public FileOps {  // waits for no storage either
 public:
  using Hook = std::function<int(int, const std::string&, const std::string&)>;
  explicit HookedOps(Hook before) : before_(std::move(before)) {}
  int count() const { return count_; }

  int open_for_writing(const std::string& path, Create mode) override {
    const int error = hook("open", path);
    return error ? -error : FileOps::open_for_writing(path, mode);
  }
  int64_t write_at(int fd, std::span<const std::byte> bytes, int64_t offset) override {
    const int error = hook("write", "");
    return error ? -error : FileOps::write_at(fd, bytes, offset);
  }
  int allocate(int fd, int64_t bytes) override {
    const int error = hook("allocate", "");
    return error ? -error : FileOps::allocate(fd, bytes);
  }
  int sync(int) override {
    const int error = hook("sync", "");
    return -error;
  }
  int close(int fd) override {
    const int error = hook("close", "");
    const int result = FileOps::close(fd);
    return error ? -error : result;
  }
  int rename(const std::string& from, const std::string& to) override {
    const int error = hook("rename", to);
    return error ? -error : FileOps::rename(from, to);
  }
  int exchange(const std::string& a, const std::string& b) override {
    const int error = hook("exchange", b);
    return error ? -error : FileOps::exchange(a, b);
  }
  int unlink(const std::string& path) override {
    const int error = hook("unlink", path);
    return error ? -error : FileOps::unlink(path);
  }
  int make_directory(const std::string& path) override {
    const int error = hook("mkdir", path);
    return error ? -error : FileOps::make_directory(path);
  }
  int remove_directory(const std::string& path) override {
    const int error = hook("rmdir", path);
    return error ? -error : FileOps::remove_directory(path);
  }
  int sync_directory(const std::string& path) override {
    const int error = hook("sync_directory", path);
    return -error;
  }

 private:
  int hook(const char* name, const std::string& path) { return before_(count_++, name, path); }
  Hook before_;
  int count_ = 0;
};

template <typename Body>
std::string message_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

inline bool contains(const std::string& a, std::string_view b) {
  return a.find(b) != a.npos;
}
}  // namespace megatron::testing
