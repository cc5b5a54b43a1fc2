// What a crash, a failing file operation or a damaged byte can do to checkpoints: nothing worse than losing the newest
// save.
#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>

#include "tests/checkpoint/helpers.h"

using namespace megatron;
using namespace megatron::testing;

namespace {

/// Runs `body` in a process of its own that dies without a word before file operation number `k`; false when the body
/// had fewer operations and ended by itself.
bool dies_before(int k, const std::function<void(FileOps&)>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    HookedOps ops([k](int now, const std::string&, const std::string&) {
      if (now == k) ::_exit(137);
      return 0;
    });
    try {
      body(ops);
    } catch (...) {
      ::_exit(3);
    }
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  REQUIRE((WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 137));
  return WEXITSTATUS(status) == 137;
}

/// The checkpoint that a new process would resume from is one of `allowed`, whole and unchanged.
int64_t check_resumable(const std::string& root, const std::vector<int64_t>& allowed) {
  std::vector<std::string> skipped;
  const auto reader = CheckpointReader::open_latest(root, Verify::kFull, &skipped);
  REQUIRE(reader.has_value());
  CHECK(skipped.empty());  // an incomplete one must not even look like a checkpoint
  REQUIRE(std::find(allowed.begin(), allowed.end(), reader->iteration()) != allowed.end());
  CHECK(Sample(reader->iteration()).matches(*reader));
  return reader->iteration();
}

struct Outcome {
  int points = 0;
  std::map<int64_t, int> loaded;
};

/// Kills `iteration`'s save before each of its operations, on top of saves of `before`.
Outcome enumerate_crashes(const std::vector<int64_t>& before, int64_t iteration, const StoreOptions& options) {
  Outcome outcome;
  for (int k = 0;; ++k) {
    TempFolder root;
    for (int64_t i : before) save(root.path(), i);
    const bool died = dies_before(
        k, [&](FileOps& ops) { CheckpointStore(root.path(), options, ops).save(Sample(iteration).content()); });
    ++outcome.loaded[check_resumable(root.path(), {before.back(), iteration})];
    save(root.path(), iteration + 1000, options);  // the next run goes on as if nothing had happened
    CHECK(check_resumable(root.path(), {iteration + 1000}) == iteration + 1000);
    for (const std::string& name : list_directory(root.path())) {
      const bool expected = starts_with(name, "iter_") || name == "latest" || name == ".owner" ||
                            starts_with(name, "latest.tmp-");  // of a dead process, replaced by nobody
      CHECK(expected);
    }
    if (!died) return outcome;
    outcome.points = k + 1;
  }
}

}  // namespace

TEST_CASE("a crash before any file operation of a save loses nothing") {
  const Outcome outcome = enumerate_crashes({10, 20}, 30, small_options());
  CHECK(outcome.points >= 30);
  CHECK(outcome.loaded.at(20) >= 25);
  CHECK(outcome.loaded.at(30) >= 3);  // the test would be empty if the new one were never seen
}

TEST_CASE("a crash before any file operation of a save with deletion loses nothing") {
  const Outcome outcome = enumerate_crashes({10, 20, 25}, 30, small_options(1));
  CHECK(outcome.points >= 50);
  CHECK(outcome.loaded.at(30) >= 20);
}

TEST_CASE("a crash while an iteration is saved again loses nothing") {
  for (int k = 0;; ++k) {
    TempFolder root;
    save(root.path(), 10);
    save(root.path(), 20);
    const bool died = dies_before(
        k, [&](FileOps& ops) { CheckpointStore(root.path(), small_options(), ops).save(Sample(20).content()); });
    check_resumable(root.path(), {20});
    if (!died) break;
  }
}

TEST_CASE("a crash in the very first save leaves no checkpoint or a whole one") {
  int none = 0, whole = 0;
  for (int k = 0;; ++k) {
    TempFolder root;
    const std::string folder = root.file("a/b/checkpoints");
    const bool died =
        dies_before(k, [&](FileOps& ops) { CheckpointStore(folder, small_options(), ops).save(Sample(1).content()); });
    const auto reader = CheckpointReader::open_latest(folder);
    ++(reader ? whole : none);
    if (reader) CHECK(Sample(1).matches(*reader));
    if (!died) break;
  }
  CHECK(none >= 25);
  CHECK(whole >= 3);
}

void enumerate_errors(const std::vector<int>& errors) {
  int failures = 0, harmless = 0;
  for (int error : errors) {
    bool more = true;
    for (int k = 0; more; ++k) {
      TempFolder root;
      save(root.path(), 10);
      save(root.path(), 20);
      std::string failed;
      HookedOps ops([&](int now, const std::string& name, const std::string&) {
        if (now != k) return 0;
        failed = name;
        return error;
      });
      bool saved = false;
      std::string message;
      try {
        CheckpointStore(root.path(), small_options(1), ops).save(Sample(30).content());
        saved = true;
      } catch (const DataError& e) {
        message = e.what();
      }
      more = !failed.empty();
      const int64_t loaded = check_resumable(root.path(), {20, 30});
      if (saved) {
        CHECK(loaded == 30);
        harmless += more;
      } else {
        ++failures;
        CHECK(contains(message, root.path()));
        if (error == ENOSPC) CHECK((contains(message, "No space left on device. Free some space")));
        CHECK(path_exists(root.file("iter_0000010")));  // nothing is deleted before the new one is safe
      }
      save(root.path(), 40, small_options(1));
      check_resumable(root.path(), {40});
      for (const std::string& name : list_directory(root.path())) {
        const bool leftover = starts_with(name, ".tmp-") || starts_with(name, ".trash-");
        CHECK_FALSE(leftover);
      }
    }
  }
  CHECK(failures >= 25 * std::ssize(errors));
  CHECK(harmless >= 5 * std::ssize(errors));  // closing, or what comes after the commit
}

TEST_CASE("an error in any file operation is reported, keeps the old checkpoints, and the next save works") {
  enumerate_errors({ENOSPC});
}

TEST_CASE("each kind of error in any file operation is survived", "[full]") {
  enumerate_errors({EIO, EDQUOT, EROFS, ESTALE});
}

TEST_CASE("a rename that is reported as failed although it was done counts as done") {
  TempFolder root;
  save(root.path(), 10);
  class LyingOps : public FileOps {
    int rename(const std::string& from, const std::string& to) override {
      const int result = FileOps::rename(from, to);
      return ends_with(to, "iter_0000020") ? -EIO : result;
    }
  } ops;
  CheckpointStore(root.path(), small_options(), ops).save(Sample(20).content());
  check_resumable(root.path(), {20});
}

TEST_CASE("a disk that is too small is found before anything is written") {
  TempFolder root;
  save(root.path(), 10);
  class SmallDisk : public HookedOps {
   public:
    SmallDisk() : HookedOps([](int, const std::string&, const std::string&) { return 0; }) {}
    int64_t free_bytes(const std::string&) override { return 1000; }
  } ops;
  CheckpointStore store(root.path(), small_options(1), ops);
  const std::string message = message_of([&] { store.save(Sample(20).content()); });
  CHECK(contains(message, str_cat("not enough space in ", root.path())));
  CHECK(ops.count() == 0);
  check_resumable(root.path(), {10});
}

TEST_CASE("damage that the storage does to staged files is found before they are published") {
  TempFolder root;
  save(root.path(), 10);
  class BadDisk : public FileOps {
    int64_t write_at(int fd, std::span<const std::byte> bytes, int64_t offset) override {
      std::vector<std::byte> copy(bytes.begin(), bytes.end());
      if (++writes_ == 2) copy[copy.size() / 2] ^= std::byte{4};
      return FileOps::write_at(fd, copy, offset);
    }
    int writes_ = 0;
  } ops;
  CheckpointStore store(root.path(), small_options(1), ops);
  CHECK(contains(message_of([&] { store.save(Sample(20).content()); }), "the checksum differs"));
  check_resumable(root.path(), {10});
}

TEST_CASE("every flipped byte is detected, and file and place are named") {
  TempFolder root;
  save(root.path(), 10);
  save(root.path(), 20);
  int flips = 0;
  for (const std::string& name : list_directory(root.file("iter_0000020"))) {
    const std::string path = root.file("iter_0000020/" + name);
    const std::string good = read_file(path);
    for (size_t at = 0; at < good.size(); ++at) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << (at % 8)));
      overwrite(path, bad);
      std::vector<std::string> skipped;
      const auto reader = CheckpointReader::open_latest(root.path(), Verify::kFull, &skipped);
      REQUIRE(reader->iteration() == 10);
      REQUIRE(skipped.size() == 1);
      const size_t place = skipped[0].find(path + ": bytes [");
      REQUIRE(place == 0);
      long long from = 0, to = 0;
      REQUIRE(std::sscanf(skipped[0].c_str() + path.size(), ": bytes [%lld, %lld)", &from, &to) == 2);
      const bool inside = from <= static_cast<long long>(at) && static_cast<long long>(at) < to;
      REQUIRE(inside);
      ++flips;
    }
    overwrite(path, good);
  }
  CHECK(flips > 3000);
  check_resumable(root.path(), {20});
}

TEST_CASE("every truncation, growth and missing file is detected and named") {
  TempFolder root;
  save(root.path(), 10);
  save(root.path(), 20);
  for (const std::string& name : list_directory(root.file("iter_0000020"))) {
    const std::string path = root.file("iter_0000020/" + name);
    const std::string good = read_file(path);
    const auto check_named = [&] {
      std::vector<std::string> skipped;
      REQUIRE(CheckpointReader::open_latest(root.path(), Verify::kSizes, &skipped)->iteration() == 10);
      REQUIRE(skipped.size() == 1);
      CHECK(contains(skipped[0], "iter_0000020"));
      return skipped[0];
    };
    for (size_t size = 0; size < good.size(); size += 1 + good.size() / 40) {
      overwrite(path, std::string_view(good).substr(0, size));
      CHECK(contains(check_named(), name));
    }
    overwrite(path, good + "x");
    CHECK(contains(check_named(), name));
    std::filesystem::remove(path);
    CHECK(contains(check_named(), name));
    overwrite(path, good);
  }
  check_resumable(root.path(), {20});
}
