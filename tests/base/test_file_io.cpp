#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <thread>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "tests/catch.h"

using namespace megatron;

namespace {

/// A folder of its own for each test.
class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "megatron_base_XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::string file(std::string_view name) const { return path_join(path_, name); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Counts operations, notes their names, and makes number `fail_at` fail with `error`.
class FaultyOps : public FileOps {
 public:
  int fail_at = -1;
  int error = EIO;
  size_t max_write = 1 << 30;
  std::vector<std::string> log;

  int open_for_writing(const std::string& path, Create mode) override {
    return fails("open") ? -error : FileOps::open_for_writing(path, mode);
  }
  int64_t write_at(int fd, std::span<const std::byte> bytes, int64_t offset) override {
    return fails("write") ? -error : FileOps::write_at(fd, bytes.first(std::min(bytes.size(), max_write)), offset);
  }
  int sync(int fd) override { return fails("sync") ? -error : FileOps::sync(fd); }
  int rename(const std::string& a, const std::string& b) override {
    return fails("rename") ? -error : FileOps::rename(a, b);
  }
  int sync_directory(const std::string& path) override {
    return fails("sync_directory") ? -error : FileOps::sync_directory(path);
  }
  int64_t free_bytes(const std::string&) override { return 1000; }

 private:
  bool fails(const char* name) {
    log.emplace_back(name);
    return std::ssize(log) - 1 == fail_at;
  }
};

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const DataError& error) {
    return error.what();
  }
  return "no DataError";
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("an atomic write replaces the whole file, in the order that survives a power loss") {
  TempFolder folder;
  FaultyOps ops;
  atomic_write_file(folder.file("a"), "first", ops);
  CHECK(ops.log == std::vector<std::string>{"open", "write", "sync", "rename", "sync_directory"});
  atomic_write_file(folder.file("a"), "2nd");
  CHECK(read_file(folder.file("a")) == "2nd");
  atomic_write_file(folder.file("a"), "");
  CHECK(read_file(folder.file("a")).empty());
  CHECK(list_directory(folder.path()) == std::vector<std::string>{"a"});
}

TEST_CASE("an atomic write that fails anywhere keeps the old file and leaves nothing behind") {
  for (int error : {ENOSPC, EIO, EDQUOT, EROFS}) {
    for (int step = 0; step < 5; ++step) {
      TempFolder folder;
      atomic_write_file(folder.file("a"), "old");
      FaultyOps ops;
      ops.fail_at = step;
      ops.error = error;
      const std::string message = message_of([&] { atomic_write_file(folder.file("a"), "new", ops); });
      CHECK(contains(message, folder.path()));
      CHECK(read_file(folder.file("a")) == (step < 4 ? "old" : "new"));
      CHECK(list_directory(folder.path()) == std::vector<std::string>{"a"});
    }
  }
}

TEST_CASE("errors name path, reason and remedy") {
  TempFolder folder;
  FaultyOps ops;
  ops.fail_at = 1;
  ops.error = ENOSPC;
  const std::string full = message_of([&] { atomic_write_file(folder.file("a"), "x", ops); });
  CHECK(contains(full, "No space left on device. Free some space"));
  const std::string missing = message_of([&] { FileReader reader(folder.file("none")); });
  CHECK(missing == str_cat("cannot read ", folder.file("none"), ": No such file or directory. Check the path."));
  CHECK(contains(message_of([&] { FileReader reader(folder.path()); }), "Is a directory"));
  const std::string proc = message_of([&] { create_directories("/proc/megatron/x"); });
  CHECK(contains(proc, "cannot create the folder /proc/megatron"));
  const std::string space = message_of([&] { require_free_space(folder.path(), 1001, ops); });
  CHECK(contains(space, "1001 B"));
  require_free_space(folder.path(), 1000, ops);
  CHECK(message_of([&] { throw_file_error("write", "/x", EROFS); }) ==
        "cannot write /x: Read-only file system. Choose a folder that you may write to, or change its permissions.");
}

TEST_CASE("a writer puts together parts of all sizes, short writes included") {
  TempFolder folder;
  FaultyOps ops;
  ops.max_write = 1000;
  std::string expected;
  FileWriter writer(folder.file("a"), FileOps::Create::kNew, ops, /*hashed=*/true);
  writer.allocate(10);
  for (size_t i = 0; i < 60; ++i) {
    const std::string part(i * i * i % 200000, static_cast<char>('a' + i % 26));
    writer.append(part);
    expected += part;
  }
  CHECK(writer.appended() == std::ssize(expected));
  CHECK(writer.digest() == xxh64(expected));
  writer.finish();
  CHECK(read_file(folder.file("a")) == expected);
  CHECK_THROWS_AS(FileWriter(folder.file("a"), FileOps::Create::kNew), DataError);
  FileWriter more(folder.file("a"), FileOps::Create::kAppend);
  more.append("end");
  more.finish();
  CHECK(read_file(folder.file("a")) == expected + "end");
}

TEST_CASE("a failed sync is an error and is not repeated") {
  TempFolder folder;
  FaultyOps ops;
  ops.fail_at = 2;
  FileWriter writer(folder.file("a"), FileOps::Create::kNew, ops);
  writer.append("x");
  CHECK_THROWS_AS(writer.finish(), DataError);
  CHECK(std::count(ops.log.begin(), ops.log.end(), "sync") == 1);
}

TEST_CASE("reads are positional, and a short file is named with the place") {
  TempFolder folder;
  atomic_write_file(folder.file("a"), "0123456789");
  FileReader reader(folder.file("a"));
  CHECK(reader.size() == 10);
  std::string out(4, ' ');
  reader.read_at(3, std::as_writable_bytes(std::span(out)));
  CHECK(out == "3456");
  const std::string message = message_of([&] { reader.read_at(8, std::as_writable_bytes(std::span(out))); });
  CHECK(message ==
        str_cat(folder.file("a"), ": the file ends at byte 10, 2 more bytes were expected: it is truncated"));
  CHECK_THROWS_AS(read_file(folder.file("a"), 9), DataError);
  FileReader moved = std::move(reader);
  moved.read_at(0, std::as_writable_bytes(std::span(out)));
  CHECK(out == "0123");
}

TEST_CASE("trees are made and removed, links are not followed") {
  TempFolder folder;
  FaultyOps ops;
  create_directories(folder.file("x/y/z"), ops);
  CHECK(ops.log == std::vector<std::string>{"sync_directory", "sync_directory", "sync_directory"});
  create_directories(folder.file("x/y/z/"));
  CHECK(directory_exists(folder.file("x/y/z")));
  atomic_write_file(folder.file("precious"), "1");
  create_directories(folder.file("other"));
  atomic_write_file(folder.file("other/precious"), "1");
  std::filesystem::create_symlink(folder.file("precious"), folder.file("x/link"));
  std::filesystem::create_directory_symlink(folder.file("other"), folder.file("x/y/link"));
  remove_tree(folder.file("x"));
  remove_tree(folder.file("x"));
  CHECK(list_directory(folder.path()) == std::vector<std::string>{"other", "precious"});
  CHECK(path_exists(folder.file("other/precious")));
  CHECK(list_directory(folder.file("none")).empty());
  CHECK_THROWS_AS(create_directories(folder.file("precious/x")), DataError);
}

TEST_CASE("paths") {
  CHECK(parent_directory("/a/b") == "/a");
  CHECK(parent_directory("/a/b/") == "/a");
  CHECK(parent_directory("/a") == "/");
  CHECK(parent_directory("a") == ".");
  CHECK(parent_directory("a/b") == "a");
  CHECK(path_join("a", "b") == "a/b");
  CHECK(path_join("a/", "b") == "a/b");
  CHECK(path_join("", "b") == "b");
}

TEST_CASE("a lock has one owner, who is named, and ends with its owner's process") {
  TempFolder folder;
  const std::string path = folder.file(".owner");
  std::string owner;
  {
    auto lock = FileLock::try_lock(path, "me, process 1", &owner);
    REQUIRE(lock.has_value());
    CHECK(lock->still_owned());
    CHECK_FALSE(FileLock::try_lock(path, "you", &owner).has_value());
    CHECK(owner == "me, process 1");
    FileLock moved = std::move(*lock);
    CHECK(moved.still_owned());
    lock.reset();
    CHECK_FALSE(FileLock::try_lock(path, "you", &owner).has_value());
    atomic_write_file(path, "me, process 1");
    CHECK_FALSE(moved.still_owned());  // the name belongs to another file now
  }
  const pid_t child = ::fork();
  if (child == 0) {
    auto lock = FileLock::try_lock(path, "child", nullptr);
    ::_exit(lock ? 9 : 1);  // dies with the lock in its hands
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WEXITSTATUS(status) == 9);
  auto lock = FileLock::try_lock(path, "after", &owner);
  REQUIRE(lock.has_value());
  CHECK(lock->still_owned());
  ::unlink(path.c_str());
  CHECK_FALSE(lock->still_owned());
}

TEST_CASE("asking for the owner of a lock while it is written is no error") {
  TempFolder folder;
  const std::string path = folder.file(".owner");
  std::atomic<bool> stop = false;
  std::thread holder([&] {
    while (!stop) FileLock::try_lock(path, std::string(2000, 'x'), nullptr);
  });
  int held = 0;
  std::string owner;
  CHECK_NOTHROW([&] {
    for (int i = 0; i < 400000 && held < 50000; ++i) held += FileLock::try_lock(path, "me", &owner) ? 0 : 1;
  }());
  stop = true;
  holder.join();
  CHECK(held > 0);
}
