// Files that scripts/golden/tokenizer_golden.py made with Hugging Face's library, and temporary files for variants.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/file_io.h"
#include "tokenizer/tokenizer.h"

namespace megatron::test {

inline std::string golden_path(const std::string& name) {
  return std::string(MEGATRON_SOURCE_DIR) + "/tests/tokenizer/golden/" + name;
}

inline nlohmann::json golden_json(const std::string& name) {
  return nlohmann::json::parse(read_file(golden_path(name)));
}

/// A folder that is removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("megatron-tokenizer-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  /// Writes a file and returns its path.
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return (path_ / name).string();
  }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

inline std::unique_ptr<Tokenizer> load(const std::string& path) {
  TokenizerSpec spec;
  spec.tokenizer_type = "HuggingFaceTokenizer";
  spec.tokenizer_model = path;
  return make_tokenizer(spec);
}

/// The base tokenizer, changed by a JSON merge patch.
inline std::unique_ptr<Tokenizer> load_patched(const nlohmann::json& patch) {
  nlohmann::json document = golden_json("tokenizer.json");
  document.merge_patch(patch);
  const TemporaryFolder folder;
  return load(folder.write("tokenizer.json", document.dump()));
}

}  // namespace megatron::test
