#include "device/choice_cache.h"

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/file_io.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/strings.h"

namespace megatron {
namespace {

constexpr const char* kMagic = "megatron choices 1 ";
constexpr int64_t kMostBytes = int64_t{16} << 20;

/// Waits for the lock: other holders keep it for as long as one choice takes.
FileLock wait_for_lock(const std::string& path) {
  constexpr auto kStep = std::chrono::milliseconds(1);
  constexpr auto kMost = std::chrono::seconds(60);
  const std::string name = str_cat("pid ", ::getpid(), "\n");
  const auto end = std::chrono::steady_clock::now() + kMost;
  std::string owner;
  do {
    if (std::optional<FileLock> lock = FileLock::try_lock(path, name, &owner)) return std::move(*lock);
    std::this_thread::sleep_for(kStep);
  } while (std::chrono::steady_clock::now() < end);
  throw DataError(str_cat("cannot lock ", path, ": held for a minute by ", trim(owner),
                          ". End that process, or set MEGATRON_CACHE_DIR to another folder"));
}

bool is_word(const std::string& text) {
  return !text.empty() && text.find_first_of(" \t\r\n") == std::string::npos;
}

/// The choices of a file, or why it holds none.
struct Contents {
  std::map<std::string, std::string> choices;
  std::string fault;
};

Contents parse(const std::string& text, const std::string& title) {
  const size_t end = text.find('\n');
  if (end == std::string::npos || !starts_with(text, kMagic)) return {{}, "is no file of choices"};
  const std::string_view body = std::string_view(text).substr(end + 1);
  const std::string_view sum = std::string_view(text).substr(0, end).substr(std::string_view(kMagic).size());
  if (parse_hex64(sum) != xxh64(body)) return {{}, "is damaged (its checksum is wrong)"};
  std::vector<std::string> lines = split(body, '\n');
  if (lines.front() != title) return {{}, str_cat("was made for \"", lines.front(), "\", not \"", title, "\"")};
  Contents contents;
  for (size_t i = 1; i < lines.size(); ++i) {
    const size_t space = lines[i].find(' ');
    if (space != std::string::npos) contents.choices[lines[i].substr(0, space)] = lines[i].substr(space + 1);
  }
  return contents;
}

}  // namespace

ChoiceCache::ChoiceCache(std::string path, std::string title) : path_(std::move(path)), title_(std::move(title)) {
  if (path_.empty()) return;
  try {
    const std::string folder = parent_directory(path_);
    create_directories(folder);
    keeps_ = ::access(folder.c_str(), W_OK | X_OK) == 0;
    if (keeps_) {
      read();
    } else {
      warn_once(str_cat("cannot write to ", folder, ". Nothing is chosen by measuring; set MEGATRON_CACHE_DIR"));
    }
  } catch (const DataError& error) {
    keeps_ = false;
    warn_once(str_cat(error.what(), " Nothing is chosen by measuring; set MEGATRON_CACHE_DIR to another folder"));
  }
}

std::optional<std::string> ChoiceCache::find(const std::string& key) const {
  const auto found = choices_.find(key);
  return found == choices_.end() ? std::nullopt : std::optional<std::string>(found->second);
}

std::string ChoiceCache::find_or_choose(const std::string& key, const std::function<std::string()>& choose) {
  MEGATRON_CHECK(keeps_, "choices are not kept");
  MEGATRON_CHECK(is_word(key), "a key is one word: '" + key + "'");
  if (const std::optional<std::string> known = find(key)) return *known;
  const FileLock lock = wait_for_lock(path_ + ".lock");
  read();
  if (const std::optional<std::string> known = find(key)) return *known;
  const std::string choice = choose();
  MEGATRON_CHECK(is_word(choice), "a choice is one word: '" + choice + "'");
  choices_[key] = choice;
  write();
  return choice;
}

void ChoiceCache::forget(const std::string& key) {
  const auto found = choices_.find(key);
  if (found == choices_.end()) return;
  refused_.insert(*found);
  choices_.erase(found);
}

void ChoiceCache::read() {
  if (!path_exists(path_)) return;
  Contents contents = parse(read_file(path_, kMostBytes), title_);
  if (!contents.fault.empty()) {
    return warn_once(str_cat(path_, " ", contents.fault, ": not used, and replaced when something is chosen"));
  }
  for (auto& [key, choice] : contents.choices) {
    const auto refused = refused_.find(key);
    // What this process has used stays, whatever others write.
    if (refused == refused_.end() || refused->second != choice) choices_.try_emplace(key, std::move(choice));
  }
}

void ChoiceCache::write() {
  std::string body = title_ + "\n";
  for (const auto& [key, choice] : choices_) body += str_cat(key, " ", choice, "\n");
  try {
    atomic_write_file(path_, str_cat(kMagic, hex64(xxh64(body)), "\n", body));
  } catch (const DataError& error) {
    warn_once(str_cat(error.what(), " Later runs may choose other kernels, and differ in the last bits"));
  }
}

void ChoiceCache::warn_once(const std::string& message) {
  if (!std::exchange(warned_, true)) log_warn(message);
}

std::string user_cache_directory() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? std::string() : std::string(value);
  };
  if (std::getenv("MEGATRON_CACHE_DIR") != nullptr) return variable("MEGATRON_CACHE_DIR");
  if (const std::string xdg = variable("XDG_CACHE_HOME"); !xdg.empty()) return path_join(xdg, "megatron");
  if (const std::string home = variable("HOME"); !home.empty()) return path_join(home, ".cache/megatron");
  return "";
}

}  // namespace megatron
