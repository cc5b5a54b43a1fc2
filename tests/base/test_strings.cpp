#include <limits>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "tests/catch.h"

using namespace megatron;

TEST_CASE("split, join and trim") {
  CHECK(split("a,b,,c", ',') == std::vector<std::string>{"a", "b", "", "c"});
  CHECK(split("", ',') == std::vector<std::string>{""});
  CHECK(split(",", ',') == std::vector<std::string>{"", ""});
  CHECK(join({"a", "b", "c"}, ", ") == "a, b, c");
  CHECK(join({}, ", ").empty());
  CHECK(trim(" \t a b\n") == "a b");
  CHECK(trim("  ").empty());
  CHECK(str_cat("a", 1, 'x', 2.5) == "a1x2.5");
}

TEST_CASE("prefixes, suffixes, lower case") {
  CHECK(starts_with("iter_1", "iter_"));
  CHECK_FALSE(starts_with("ite", "iter_"));
  CHECK(starts_with("x", ""));
  CHECK(ends_with("a.bin", ".bin"));
  CHECK_FALSE(ends_with("bin", ".bin"));
  CHECK(lower("AbC_1") == "abc_1");
}

TEST_CASE("edit distance counts a transposition once") {
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("abc", "abc") == 0);
  CHECK(edit_distance("abc", "acb") == 1);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("num_layer", "num_layers") == 1);
}

TEST_CASE("the closest match is near, or there is none") {
  const std::vector<std::string> keys = {"num_layers", "hidden_size", "lr"};
  CHECK(closest_match("num_layer", keys) == "num_layers");
  CHECK(closest_match("HIDDEN_SIZE", keys) == "hidden_size");
  CHECK(closest_match("hiden_sise", keys) == "hidden_size");
  CHECK(closest_match("something_else", keys).empty());
  CHECK(closest_match("x", {}).empty());
}

TEST_CASE("sizes, counts and durations read well") {
  CHECK(format_bytes(0) == "0 B");
  CHECK(format_bytes(12) == "12 B");
  CHECK(format_bytes(1536) == "1.50 KiB");
  CHECK(format_bytes(1024.0 * 1024 * 1024 * 1.5) == "1.50 GiB");
  CHECK(format_count(999) == "999");
  CHECK(format_count(8.03e9) == "8.03 B");
  CHECK(format_count(124.4e6) == "124.40 M");
  CHECK(format_duration(4.24) == "4.2s");
  CHECK(format_duration(200) == "3m20s");
  CHECK(format_duration(7500) == "2h05m");
  CHECK(format_duration(17 * 86400 + 3 * 3600) == "17d03h");
}

TEST_CASE("names are hashed with FNV-1a") {
  CHECK(hash_name("") == 0xcbf29ce484222325u);
  CHECK(hash_name("a") == 0xaf63dc4c8601ec8cu);
  CHECK(hash_name("foobar") == 0x85944171f73967e8u);
  CHECK(hash_name("\xff") == 0xaf64724c8602eb6eu);  // bytes above 127 count as unsigned
}

TEST_CASE("exact division and narrowing refuse to lose anything") {
  CHECK(div_exact(12, 4) == 3);
  CHECK_THROWS_AS(div_exact(13, 4), InternalError);
  CHECK_THROWS_AS(div_exact(13, 0), InternalError);
  CHECK(div_ceil(13, 4) == 4);
  CHECK(round_up(13, 4) == 16);
  CHECK(narrow<int>(int64_t{5}) == 5);
  CHECK_THROWS_AS(narrow<int>(int64_t{1} << 40), InternalError);
  CHECK_THROWS_AS(narrow<unsigned>(-1), InternalError);
  CHECK_THROWS_AS(narrow<int>(std::numeric_limits<unsigned>::max()), InternalError);
}

TEST_CASE("every error has its exit code") {
  CHECK(UsageError("").code() == ExitCode::kUsage);
  CHECK(DataError("").code() == ExitCode::kData);
  CHECK(DeviceError("").code() == ExitCode::kDevice);
  CHECK(InternalError("").code() == ExitCode::kInternal);
}
