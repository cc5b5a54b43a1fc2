#include "device/choice_cache.h"

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "tests/catch.h"

using namespace megatron;

namespace {

class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "megatron_choices_XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::string file(std::string_view name) const { return path_join(path_, name); }

 private:
  std::string path_;
};

std::string must_not_choose() {
  FAIL("chosen again");
  return "";
}

/// Sets an environment variable for the life of the object; nullptr unsets it.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    value == nullptr ? ::unsetenv(name) : ::setenv(name, value, 1);
  }
  ~Variable() { old_ ? ::setenv(name_, old_->c_str(), 1) : ::unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> old_;
};

}  // namespace

TEST_CASE("a choice is made once, and is there in the next run") {
  const TempFolder folder;
  const std::string path = folder.file("a/b/choices");
  {
    ChoiceCache cache(path, "gpu 1");
    REQUIRE(cache.keeps());
    CHECK(!cache.find("x"));
    CHECK(cache.find_or_choose("x", [] { return "1"; }) == "1");
    CHECK(cache.find_or_choose("x", must_not_choose) == "1");
    CHECK(cache.find_or_choose("y", [] { return "2"; }) == "2");
  }
  ChoiceCache next(path, "gpu 1");
  CHECK(next.find("x") == "1");
  CHECK(next.find_or_choose("y", must_not_choose) == "2");
}

TEST_CASE("objects that share a file see each other's choices before they choose") {
  const TempFolder folder;
  const std::string path = folder.file("choices");
  ChoiceCache a(path, "gpu"), b(path, "gpu");
  a.find_or_choose("x", [] { return "a"; });
  CHECK(b.find_or_choose("x", must_not_choose) == "a");
  b.find_or_choose("y", [] { return "b"; });
  a.find_or_choose("z", [] { return "c"; });
  const ChoiceCache all(path, "gpu");
  CHECK(all.find("x") == "a");
  CHECK(all.find("y") == "b");
  CHECK(all.find("z") == "c");
}

TEST_CASE("threads that choose at once agree, and every problem is measured once") {
  const TempFolder folder;
  constexpr int kThreads = 6, kKeys = 20;
  std::vector<std::vector<std::string>> seen(kThreads);
  std::atomic<int> chosen = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      ChoiceCache cache(folder.file("choices"), "gpu");
      for (int k = 0; k < kKeys; ++k) {
        seen[static_cast<size_t>(t)].push_back(cache.find_or_choose(str_cat("key", k), [&] {
          ++chosen;
          return str_cat("from", t);
        }));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(chosen == kKeys);
  for (const auto& one : seen) CHECK(one == seen.front());
}

TEST_CASE("a damaged file, and one of another machine, is not used and is replaced") {
  const TempFolder folder;
  const std::string path = folder.file("choices");
  const auto fill = [&] {
    std::filesystem::remove(path);
    ChoiceCache cache(path, "gpu 1");
    cache.find_or_choose("x", [] { return "1"; });
    cache.find_or_choose("y", [] { return "2"; });
  };
  const auto starts_anew = [&](const char* title) {
    ChoiceCache cache(path, title);
    CHECK(cache.keeps());
    CHECK(!cache.find("x"));
    CHECK(cache.find_or_choose("x", [] { return "9"; }) == "9");
    CHECK(ChoiceCache(path, title).find("x") == "9");
    CHECK(!ChoiceCache(path, title).find("y"));
  };
  fill();
  starts_anew("gpu 2");
  fill();
  const std::string good = read_file(path);
  for (const size_t cut : {size_t{0}, size_t{5}, good.size() / 2, good.size() - 1}) {
    atomic_write_file(path, good.substr(0, cut));
    starts_anew("gpu 1");
  }
  std::string flipped = good;
  flipped[good.size() - 2] = '7';
  atomic_write_file(path, flipped);
  starts_anew("gpu 1");
}

TEST_CASE("a choice that cannot be used is made anew") {
  const TempFolder folder;
  const std::string path = folder.file("choices");
  ChoiceCache(path, "gpu").find_or_choose("x", [] { return "bad"; });
  ChoiceCache cache(path, "gpu");
  cache.forget("x");
  CHECK(!cache.find("x"));
  CHECK(cache.find_or_choose("x", [] { return "good"; }) == "good");
  CHECK(ChoiceCache(path, "gpu").find("x") == "good");
}

TEST_CASE("a choice that throws leaves nothing behind, and the lock free") {
  const TempFolder folder;
  ChoiceCache cache(folder.file("choices"), "gpu");
  CHECK_THROWS_AS(cache.find_or_choose("x", []() -> std::string { throw DeviceError("no"); }), DeviceError);
  CHECK(cache.find_or_choose("x", [] { return "1"; }) == "1");
}

TEST_CASE("without a folder to write to nothing is kept") {
  const TempFolder folder;
  CHECK(!ChoiceCache("", "gpu").keeps());
  atomic_write_file(folder.file("file"), "in the way");
  CHECK(!ChoiceCache(folder.file("file/choices"), "gpu").keeps());
}

TEST_CASE("the cache folder comes from the environment") {
  const Variable xdg("XDG_CACHE_HOME", "/xdg"), home("HOME", "/home/u");
  {
    const Variable own("MEGATRON_CACHE_DIR", "/own");
    CHECK(user_cache_directory() == "/own");
  }
  {
    const Variable own("MEGATRON_CACHE_DIR", "");
    CHECK(user_cache_directory().empty());
  }
  const Variable own("MEGATRON_CACHE_DIR", nullptr);
  CHECK(user_cache_directory() == "/xdg/megatron");
  const Variable no_xdg("XDG_CACHE_HOME", nullptr);
  CHECK(user_cache_directory() == "/home/u/.cache/megatron");
  const Variable no_home("HOME", nullptr);
  CHECK(user_cache_directory().empty());
}
