// Broken safetensors files and manifests: each is refused with a DataError that says what and where; none crashes.
#include <chrono>
#include <cstring>

#include "base/hash.h"
#include "checkpoint/manifest.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/strict_json.h"
#include "tests/checkpoint/helpers.h"

using namespace megatron;
using namespace megatron::testing;

namespace {

struct Case {
  std::string what;      ///< part of the file
  std::string expected;  ///< part of the message
  int64_t data = 8;      ///< bytes after the header
};

std::string safetensors_bytes(const std::string& header, int64_t data) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(static_cast<size_t>(data), 'd');
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& range) {
  return str_cat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":", range, "}");
}

void check_refused(const TempFolder& folder, const std::string& bytes, const std::string& expected) {
  const std::string path = folder.file("x.safetensors");
  overwrite(path, bytes);
  INFO(bytes.substr(0, 300));
  std::string message = "nothing was thrown";
  const auto start = std::chrono::steady_clock::now();
  try {
    read_safetensors_header(FileReader(path));
  } catch (const DataError& error) {
    message = error.what();
  }
  INFO(message);
  CHECK(contains(message, path));
  CHECK(contains(message, expected));
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
}

const std::string kGood = tensor("a", "F32", "[2]", "[0,8]");

/// A table, longer than other functions may be.
std::vector<Case> safetensors_cases() {
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& range) {
    return "{" + tensor("a", dtype, shape, range) + "}";
  };
  const std::string deep(1000, '[');
  const std::string huge = "4611686018427387904";  // 2^62
  return {
      {"", "byte 8"},
      {" {}", "must begin with '{'"},
      {"[]", "must begin with '{'"},
      {"{", "not valid JSON"},
      {"{}}", "not valid JSON"},
      {"{\"a\":}", "not valid JSON"},
      {"{\"a\xff\":1}", "JSON"},
      {std::string("{\"a\":1\0}", 8), "not valid JSON"},
      {"{\"a\":NaN}", "not valid JSON"},
      {"{\"a\":" + deep, "nested deeper than 4"},
      {"{\"a\":" + std::string(200000, '['), "nested deeper than 4"},
      {"{\"a\":{\"b\":{\"c\":{\"d\":{}}}}}", "nested deeper than 4"},
      {"{" + kGood + "," + kGood + "}", "appears twice"},
      {R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "appears twice"},
      {"{}", "8 bytes belong to no tensor"},
      {"{\"a\":1}", "an object is expected"},
      {"{\"a\":null}", "an object is expected"},
      {"{\"a\":[]}", "an object is expected"},
      {R"({"a":{"shape":[2],"data_offsets":[0,8]}})", "'dtype' is missing"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", "'shape' is missing"},
      {R"({"a":{"dtype":"F32","shape":[2]}})", "'data_offsets' is missing"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", "unknown key 'x'"},
      {R"({"a":{"dtype":32,"shape":[2],"data_offsets":[0,8]}})", "a string is expected"},
      {"{" + tensor("", "F32", "[2]", "[0,8]") + "}", "empty name"},
      {one("f32", "[2]", "[0,8]"), "unknown dtype 'f32'"},
      {one("F33", "[2]", "[0,8]"), "unknown dtype"},
      {one("", "[2]", "[0,8]"), "unknown dtype"},
      {one("F32", "2", "[0,8]"), "a list of integers"},
      {one("F32", "{}", "[0,8]"), "a list of integers"},
      {one("F32", "[2.0]", "[0,8]"), "an integer is expected"},
      {one("F32", "[\"2\"]", "[0,8]"), "an integer is expected"},
      {one("F32", "[-2]", "[0,8]"), "outside of [0"},
      {one("F32", "[null]", "[0,8]"), "an integer is expected"},
      {one("F32", "[" + huge + "]", "[0,8]"), "outside of [0"},
      {one("F32", "[18446744073709551615]", "[0,8]"), "outside of [0"},
      {one("F32", "[99999999999999999999999]", "[0,8]"), "an integer is expected"},
      {one("F32", "[4294967296,4294967296]", "[0,8]"), "does not fit"},
      {one("U8", "[4294967296,4294967296,4294967296]", "[0,0]"), "does not fit"},
      {one("F32", "[3]", "[0,8]"), "need 12 bytes"},
      {one("F64", "[2]", "[0,8]"), "need 16 bytes"},
      {one("F32", "[2,0]", "[0,8]"), "need 0 bytes"},
      {one("F32", "[]", "[0,8]"), "need 4 bytes"},
      {one("F32", "[2]", "[0]"), "must be [begin, end]"},
      {one("F32", "[2]", "[]"), "must be [begin, end]"},
      {one("F32", "[2]", "[0,8,16]"), "at most 2"},
      {one("F32", "[2]", "[8,0]"), "must be [begin, end]"},
      {one("F32", "[2]", "[-8,0]"), "outside of [0"},
      {one("F32", "[2]", "[0.0,8.0]"), "an integer is expected"},
      {one("F32", "[2]", "[8,16]"), "leaves a gap"},
      {one("F32", "[1]", "[4,8]"), "leaves a gap"},
      {one("F32", "[1]", "[0,4]"), "4 bytes belong to no tensor"},
      {one("F32", "[4]", "[0,16]"), "truncated"},
      {one("U8", "[4611686018427387903]", "[0,4611686018427387903]"), "truncated"},
      {"{" + tensor("a", "F32", "[1]", "[0,4]") + "," + tensor("b", "F32", "[2]", "[0,8]") + "}", "overlaps"},
      {"{" + tensor("a", "F32", "[2]", "[0,8]") + "," + tensor("b", "F32", "[1]", "[4,8]") + "}", "overlaps"},
      {"{" + tensor("a", "U8", "[3]", "[0,3]") + "," + tensor("b", "F32", "[1]", "[4,8]") + "}", "leaves a gap"},
      {"{\"__metadata__\":1," + kGood + "}", "__metadata__ must be an object"},
      {"{\"__metadata__\":{\"a\":1}," + kGood + "}", "a string is expected"},
      {"{\"__metadata__\":{\"a\":{}}," + kGood + "}", "a string is expected"},
      {one("F32", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2]", "[0,8]"), "at most 32"},
      {one("F32", "[2]", "[0,8]"), "belong to no tensor", 9},
      {one("F32", "[2]", "[0,8]"), "truncated", 7},
      {one("F32", "[2]", "[0,8]"), "truncated", 0},
  };
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

/// Gives a changed manifest a right checksum, so that what is behind it is tested.
std::string resealed(const std::string& text) {
  const size_t line = text.find('\n') + 1;
  return str_cat("{\"checksum\": \"xxh64:", hex64(xxh64(std::string_view(text).substr(line))), "\",\n",
                 text.substr(line));
}

/// Two tensors in one shard of 64 + 32 + 8 bytes, and a text.
Manifest good_manifest() {
  Manifest m;
  m.sequence = 3;
  m.iteration = 10;
  m.chunk_bytes = 16;
  m.program = "0.1";
  m.state = {{"loss", 1.5}, {"bad", std::numeric_limits<double>::infinity()}};
  m.files = {{"s.safetensors", 104, 64, 1}, {"resolved.yaml", 5, 0, 2}};
  StoredTensor a{{"a", StateKind::kParameter, DType::kF32, {2, 4}}, {}};
  a.pieces.push_back({{{0, 0}, {2, 2}}, 0, 64, 16, {7}});
  a.pieces.push_back({{{0, 2}, {2, 2}}, 0, 80, 16, {8}});
  StoredTensor b{{"b", StateKind::kOptimizer, DType::kI64, {}}, {}};
  b.pieces.push_back({{{}, {}}, 0, 96, 8, {9}});
  m.tensors = {a, b};
  return m;
}

struct Change {
  std::string from, to, expected;
};

/// A table, longer than other functions may be.
std::vector<Change> manifest_changes() {
  return {
      {"\"sequence\": 3", "\"sequence\": 0", "line 2"},
      {"\"sequence\": 3", "\"sequence\": -3", "line 2"},
      {"\"sequence\": 3", "\"sequence\": 99999999999999999999", "line 2"},
      {"\"sequence\": 3,", "\"sequence\": 3.5,", "line 2"},
      {"\"sequence\": 3", "\"Sequence\": 3", "line 2"},
      {"\"sequence\": 3", "\"sequence\": x", "line 2"},
      {"megatron-checkpoint", "other", "not a checkpoint of this program"},
      {"\"format\"", "\"Format\"", "not a checkpoint of this program"},
      {"\"version\": 1", "\"version\": 2", "the format version is 2, this program reads version 1"},
      {"\"version\": 1", "\"version\": \"1\"", "the format version is"},
      {"\"version\": 1,\n", "", "the format version is null"},
      {"\"iteration\": 10", "\"iteration\": -1", "iteration: -1 is outside"},
      {"\"iteration\": 10", "\"iteration\": 10.0", "an integer is expected"},
      {"\"iteration\": 10", "\"iteration\": null", "an integer is expected"},
      {"\"iteration\": 10,\n", "", "'iteration' is missing"},
      {"\"iteration\": 10,", "\"iteration\": 10,\"iteration\": 11,", "appears twice"},
      {"\"iteration\": 10,", "\"iteration\": 10, \"extra\": 1,", "unknown key 'extra'"},
      {"\"program\": \"0.1\"", "\"program\": 1", "a string is expected"},
      {"\"tokenizer\": \"\"", "\"tokenizer\": []", "a string is expected"},
      {"\"chunk_bytes\": 16", "\"chunk_bytes\": 0", "outside"},
      {"\"chunk_bytes\": 16", "\"chunk_bytes\": 1073741825", "larger than 1 GiB"},
      {"\"chunk_bytes\": 16", "\"chunk_bytes\": 8", "checksums do not fit"},
      {"\"loss\": 1.5", "\"loss\": [1]", "state: loss"},
      {"\"loss\": 1.5", "\"loss\": null", "state: loss"},
      {"\"loss\": 1.5", "\"loss\": 18446744073709551615", "does not fit 64 bits"},
      {"{\"non_finite\":\"inf\"}", "{\"non_finite\":\"big\"}", "'big' is not one of"},
      {"{\"non_finite\":\"inf\"}", "{\"other\":\"inf\"}", "'non_finite' is missing"},
      {"\"state\": {\n", "\"state\": 5, \"x\": {\n", "unknown key 'x'"},
      {"\"files\": [", "\"files\": {}, \"x\": [", "unknown key 'x'"},
      {"\"name\":\"resolved.yaml\"", "\"name\":\"s.safetensors\"", "appears twice"},
      {"\"name\":\"resolved.yaml\"", "\"name\":\"../resolved.yaml\"", "not the plain name"},
      {"\"name\":\"resolved.yaml\"", "\"name\":\"/etc/passwd\"", "not the plain name"},
      {"\"name\":\"resolved.yaml\"", "\"name\":\"\"", "not the plain name"},
      {"\"name\":\"resolved.yaml\"", "\"name\":\"..\"", "not the plain name"},
      {"\"name\":\"resolved.yaml\"", "\"name\":\"a\\u0000b\"", "not the plain name"},
      {"\"name\":\"resolved.yaml\"", "\"name\":\"manifest.json\"", "not the plain name"},
      {"\"name\":\"resolved.yaml\"", "\"name\":7", "a string is expected"},
      {"\"bytes\":5", "\"bytes\":-5", "outside"},
      {"\"bytes\":104", "\"bytes\":105", "s.safetensors: byte 104 and later ones belong to no piece"},
      {"\"bytes\":104", "\"bytes\":100", "are not data of s.safetensors"},
      {"\"bytes\":104", "\"bytes\":4611686018427387903", "belong to no piece"},
      {"\"header_bytes\":64", "\"header_bytes\":200", "the header is larger than the file"},
      {"\"header_bytes\":64", "\"header_bytes\":56", "leave a gap at byte 56"},
      {"\"header_bytes\":64", "\"header_bytes\":72", "are not data of"},
      {"\"header_bytes\":64", "\"header_bytes\":0", "are not data of"},
      {"\"checksum\":\"0000000000000001\"", "\"checksum\":\"000000000000001\"", "16 lower-case"},
      {"\"checksum\":\"0000000000000001\"", "\"checksum\":1", "a string is expected"},
      {"\"name\":\"b\"", "\"name\":\"a\"", "the tensor 'a' appears twice"},
      {"\"name\":\"b\"", "\"name\":\"\"", "the name is empty"},
      {"\"kind\":\"optimizer\"", "\"kind\":\"gradient\"", "tensor 'b': unknown kind 'gradient'"},
      {"\"dtype\":\"int64\"", "\"dtype\":\"fp8\"", "tensor 'b': unknown element type 'fp8'"},
      {"\"dtype\":\"int64\"", "\"dtype\":\"int32\"", "8 bytes do not fit the box"},
      {"\"dtype\":\"fp32\"", "\"dtype\":\"fp64\"", "16 bytes do not fit the box"},
      {"\"shape\":[2,4]", "\"shape\":[2,5]", "tensor 'a': its pieces hold 8 of 10 elements"},
      {"\"shape\":[2,4]", "\"shape\":[2,3]", "leaves the tensor in dimension 1"},
      {"\"shape\":[2,4]", "\"shape\":[2,4,1]", "the box must have 3 dimensions"},
      {"\"shape\":[2,4]", "\"shape\":[4294967296,4294967296]", "does not fit 62 bits"},
      {"\"shape\":[2,4]", "\"shape\":\"2,4\"", "a list of integers"},
      {"\"offset\":[0,2]", "\"offset\":[0,1]", "overlap"},
      {"\"offset\":[0,2]", "\"offset\":[0,0]", "overlap"},
      {"\"offset\":[0,2]", "\"offset\":[1,2]", "leaves the tensor in dimension 0"},
      {"\"offset\":[0,2]", "\"offset\":[0,4611686018427387903]", "leaves the tensor"},
      {"\"offset\":[0,2]", "\"offset\":[0,9223372036854775807]", "outside"},
      {"\"extent\":[2,2]", "\"extent\":[2,1]", "do not fit the box"},
      {"\"extent\":[2,2]", "\"extent\":[0,2]", "do not fit the box"},
      {"\"file\":0", "\"file\":2", "no file number 2"},
      {"\"file\":0", "\"file\":-1", "outside"},
      {"\"file\":0", "\"file\":1", "are not data of resolved.yaml"},
      {"\"at\":80", "\"at\":64", "overlap or leave a gap at byte 64"},
      {"\"at\":80", "\"at\":81", "overlap or leave a gap"},
      {"\"at\":80", "\"at\":4611686018427387903", "are not data of"},
      {"\"at\":80", "\"at\":0", "are not data of"},
      {"\"checksums\":[\"0000000000000007\"]", "\"checksums\":[]", "0 checksums do not fit"},
      {"\"checksums\":[\"0000000000000007\"]", "\"checksums\":7", "must be a list"},
      {"\"checksums\":[\"0000000000000007\"]", "\"checksums\":[7]", "a string is expected"},
      {"\"checksums\":[\"0000000000000007\"]", "\"checksums\":[\"000000000000000G\"]", "16 lower-case"},
      {"\"tensors\": [", "\"tensors\": [1,", "an object is expected"},
      {"\"tensors\": [", "\"tensors\": [{},", "'name' is missing"},
      {"\"tensors\": [", "\"tensors\": [[[[[[[[[[", "nested deeper than 8"},
      {"\n]}\n", "\n]", "not valid JSON"},
      {"\n]}\n", "\n]}}", "not valid JSON"},
      {"\"pieces\":", "\"peaces\":", "'pieces' is missing"},
  };
}

}  // namespace

TEST_CASE("broken safetensors files are refused by name and place") {
  TempFolder folder;
  const auto cases = safetensors_cases();
  CHECK(cases.size() >= 60);
  for (const Case& c : cases) check_refused(folder, safetensors_bytes(c.what, c.data), c.expected);
}

TEST_CASE("safetensors lengths that lie are refused") {
  TempFolder folder;
  const std::string good = safetensors_bytes("{" + kGood + "}", 8);
  overwrite(folder.file("x.safetensors"), good);
  CHECK(read_safetensors_header(FileReader(folder.file("x.safetensors"))).entries.size() == 1);
  for (size_t size = 0; size < good.size(); ++size) check_refused(folder, good.substr(0, size), "");
  for (uint64_t length :
       {uint64_t{1} << 63, ~uint64_t{0}, uint64_t{100000001}, good.size() - 7, uint64_t{0}, uint64_t{1}}) {
    std::string bad = good;
    std::memcpy(bad.data(), &length, 8);
    check_refused(folder, bad, "");
  }
}

TEST_CASE("safetensors headers that the format allows are read") {
  TempFolder folder;
  const std::string path = folder.file("x.safetensors");
  const std::string header =
      "{\"__metadata__\":{\"k\":\"v\"}," + tensor("z", "U8", "[0,4611686018427387903]", "[3,3]") + "," +
      tensor("y", "BOOL", "[5]", "[3,8]") + "," + tensor("x", "F8_E4M3", "[3,1]", "[0,3]") + "}   ";
  overwrite(path, safetensors_bytes(header, 8));
  const SafetensorsHeader got = read_safetensors_header(FileReader(path));
  REQUIRE(got.entries.size() == 3);
  CHECK(got.entries[0].name == "x");
  CHECK(got.entries[1].name == "z");
  CHECK(got.entries[2].name == "y");
  CHECK(got.entries[2].offset == got.data_offset + 3);
  CHECK(got.metadata.at("k") == "v");
  overwrite(path, safetensors_bytes("{}", 0));
  CHECK(read_safetensors_header(FileReader(path)).entries.empty());
}

TEST_CASE("a safetensors writer must be given all bytes and different names") {
  TempFolder folder;
  SafetensorsWriter writer(folder.file("a"), {{"a", "F32", {2}}, {"b", "U8", {3}}}, {});
  writer.append(std::as_bytes(std::span("0123456789")).first(10));
  CHECK_THROWS_AS(writer.finish(), InternalError);
  CHECK_THROWS_AS(SafetensorsWriter(folder.file("b"), {{"a", "F32", {2}}, {"a", "U8", {3}}}, {}), InternalError);
  CHECK_THROWS_AS(SafetensorsWriter(folder.file("c"), {{"a", "F31", {2}}}, {}), InternalError);
}

TEST_CASE("a manifest is read as it was printed") {
  const Manifest good = good_manifest();
  const std::string text = print_manifest(good);
  const Manifest got = parse_manifest(text, "m");
  CHECK(print_manifest(got) == text);
  CHECK(got.sequence == 3);
  CHECK(got.tensors[0].pieces[1].box == Box{{0, 2}, {2, 2}});
  CHECK(resealed(text) == text);
}

TEST_CASE("broken manifests are refused by name and place") {
  const std::string good = print_manifest(good_manifest());
  const auto changes = manifest_changes();
  CHECK(changes.size() >= 70);
  for (const Change& change : changes) {
    const std::string bad = replaced(good, change.from, change.to);
    INFO(change.from << " -> " << change.to);
    std::string message = "nothing was thrown";
    try {
      parse_manifest(resealed(bad), "/x/manifest.json");
    } catch (const DataError& error) {
      message = error.what();
    }
    INFO(message);
    CHECK(starts_with(message, "/x/manifest.json"));
    CHECK(contains(message, change.expected));
    CHECK(contains(message_of([&] { parse_manifest(bad, "/x/manifest.json"); }), "the checksum differs"));
  }
}

TEST_CASE("a manifest whose first line is damaged is refused") {
  const std::string good = print_manifest(good_manifest());
  for (size_t size : {size_t{0}, size_t{1}, size_t{30}, size_t{39}}) {
    CHECK(contains(message_of([&] { parse_manifest(good.substr(0, size), "m"); }), "m: bytes [0, "));
  }
  CHECK_THROWS_AS(parse_manifest(good.substr(0, 40), "m"), DataError);
  CHECK_THROWS_AS(parse_manifest("\n" + good, "m"), DataError);
}

TEST_CASE("random damage to manifests with a right checksum never does worse than a DataError") {
  const std::string good = print_manifest(good_manifest());
  const std::string spice = "{}[]\",:0123456789-.eEtrufalsn \n\\\xff";
  int refused = 0;
  for (uint64_t round = 0; round < 4000; ++round) {
    std::string bad = good;
    auto draw = [&, n = uint64_t{0}](size_t below) mutable {
      return static_cast<size_t>(philox_uniform(round, n++) * static_cast<double>(below));
    };
    for (size_t edits = 1 + draw(3); edits > 0; --edits) {
      const size_t at = 40 + draw(bad.size() - 40);
      switch (draw(3)) {
        case 0:
          bad[at] = spice[draw(spice.size())];
          break;
        case 1:
          bad.erase(at, 1 + draw(20));
          break;
        default:
          bad.insert(at, 1, spice[draw(spice.size())]);
          break;
      }
    }
    try {
      parse_manifest(resealed(bad), "m");
    } catch (const DataError&) {
      ++refused;
    }
  }
  CHECK(refused > 3000);
}
