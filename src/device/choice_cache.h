// Choices that were made by measuring (which of several kernels is fastest here), kept on disk: a later run, a resumed
// one above all, must make the same ones to give the same bits.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

namespace megatron {

/// A small text file of choices. Several processes and threads may share it, each with an object of its own: a choice
/// that one of them has made is what all others get. What is written stays.
class ChoiceCache {
 public:
  /// `path` empty: nothing is kept. `title`, one line, says what the choices depend on (machine, library): a file with
  /// another title, or a damaged one, is not used, is replaced by the first choice, and gives one warning. A folder
  /// that cannot be written gives one warning too.
  ChoiceCache(std::string path, std::string title);

  /// False: choices would not outlast the process, so that none should be made by measuring.
  bool keeps() const { return keeps_; }
  const std::string& path() const { return path_; }

  /// What this object knows; reads nothing.
  std::optional<std::string> find(const std::string& key) const;

  /// The choice for `key`, from the file or else from `choose`, which runs while all others who need a choice from this
  /// file wait, and must itself wait for nobody; what it gives is in the file on return. Neither key nor choice may be
  /// empty or hold white space. Only where keeps(). DataError when the lock of the file is held for a minute.
  std::string find_or_choose(const std::string& key, const std::function<std::string()>& choose);

  /// Forgets a choice of the file that turned out not to be usable.
  void forget(const std::string& key);

 private:
  void read();
  void write();
  void warn_once(const std::string& message);

  std::string path_, title_;
  bool keeps_ = false, warned_ = false;
  std::map<std::string, std::string> choices_;
  std::map<std::string, std::string> refused_;  ///< forgotten choices, which the file may still hold
};

/// Folder for what may be lost and made again: $MEGATRON_CACHE_DIR, $XDG_CACHE_HOME/megatron or ~/.cache/megatron, the
/// first that is set; "" when none is, or when MEGATRON_CACHE_DIR is set to nothing.
std::string user_cache_directory();

}  // namespace megatron
