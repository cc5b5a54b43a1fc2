// Feeds made-up bytes to everything that reads checkpoint files. Nothing but a DataError may come of them; memory
// errors and undefined behaviour are for the sanitizers to find. Built and run by tests/checkpoint/fuzz.sh: with
// clang's libFuzzer where there is one, else with the mutations of main() below.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file_io.h"
#include "base/hash.h"
#include "base/philox.h"
#include "base/strings.h"
#include "checkpoint/manifest.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/shard_exchange.h"

using namespace megatron;

namespace {

/// A file in memory that a FileReader can open.
const std::string& memory_file(std::string_view bytes) {
  static const int fd = ::memfd_create("fuzz", 0);
  static const std::string path = str_cat("/proc/self/fd/", fd);
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, bytes.data(), bytes.size(), 0) != std::ssize(bytes)) std::abort();
  return path;
}

/// With the right checksum in its first line, so that what is behind it is reached.
std::string sealed_manifest(std::string_view body) {
  return str_cat("{\"checksum\": \"xxh64:", hex64(xxh64(body)), "\",\n", body);
}

/// With the right length of the header.
std::string sealed_safetensors(std::string_view header) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes.append(header).append(16, 'd');
}

enum Target : uint8_t { kSafetensors, kSealedSafetensors, kManifest, kSealedManifest, kShards, kTargets };

void read(uint8_t target, std::string_view text) {
  switch (target % kTargets) {
    case kSafetensors:
      read_safetensors_header(FileReader(memory_file(text)));
      return;
    case kSealedSafetensors:
      read_safetensors_header(FileReader(memory_file(sealed_safetensors(text))));
      return;
    case kManifest:
      print_manifest(parse_manifest(text, "m"));
      return;
    case kSealedManifest: {
      const std::string printed = print_manifest(parse_manifest(sealed_manifest(text), "m"));
      if (print_manifest(parse_manifest(printed, "m")) != printed) std::abort();
      return;
    }
    default:
      decode_shards(std::string(text));
  }
}

std::string seed_header() {
  std::vector<SafetensorsEntry> entries = {{"a", "F32", {2}}, {"b", "BF16", {2, 2}}};
  const std::string bytes = make_safetensors_header(entries, {{"format", "pt"}});
  return bytes;
}

std::string seed_manifest() {
  Manifest m;
  m.sequence = 3;
  m.iteration = 10;
  m.chunk_bytes = 16;
  m.program = "0.1";
  m.state = {{"loss", 1.5}, {"name", std::string("x")}, {"on", true}, {"n", int64_t{-4}}};
  m.files = {{"s.safetensors", 104, 64, 1}, {"resolved.yaml", 5, 0, 2}};
  StoredTensor a{{"a", StateKind::kParameter, DType::kF32, {2, 4}}, {}};
  a.pieces.push_back({{{0, 0}, {2, 2}}, 0, 64, 16, {7}});
  a.pieces.push_back({{{0, 2}, {2, 2}}, 0, 80, 16, {8}});
  StoredTensor b{{"b", StateKind::kOptimizer, DType::kI64, {}}, {}};
  b.pieces.push_back({{{}, {}}, 0, 96, 8, {9}});
  m.tensors = {a, b};
  return print_manifest(m);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  try {
    read(data[0], {reinterpret_cast<const char*>(data) + 1, size - 1});
  } catch (const DataError&) {
  }
  return 0;
}

/// One good input of each kind. Called with a folder: writes them there, for libFuzzer to start from.
std::vector<std::string> seeds() {
  const std::string header = seed_header(), manifest = seed_manifest();
  const std::string body = manifest.substr(manifest.find('\n') + 1);
  const ShardSet shards{{{"s", 104, 64, 1}}, {{{"a", StateKind::kParameter, DType::kF32, {2}}, {}}}};
  const std::string texts[kTargets] = {header + std::string(16, 'd'), header.substr(8), manifest, body,
                                       encode_shards(shards)};
  std::vector<std::string> all;
  for (uint8_t target = 0; target < kTargets; ++target) {
    all.push_back(std::string(1, static_cast<char>(target)) + texts[target]);
  }
  return all;
}

#ifndef MEGATRON_LIBFUZZER
namespace {

const char* const kSpice[] = {"{",
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
                              "4611686018427387904",
                              "18446744073709551616"};

std::string mutated(const std::string& seed, uint64_t round) {
  std::string text = seed;
  uint32_t draws = 0;
  const auto draw = [&](size_t below) {
    return static_cast<size_t>(philox_uniform(round, draws++) * static_cast<double>(below));
  };
  for (size_t edits = 1 + draw(5); edits > 0 && text.size() > 1; --edits) {
    const size_t at = 1 + draw(text.size() - 1);
    const size_t from = 1 + draw(text.size() - 1);
    const std::string copied = text.substr(from, draw(40));
    switch (draw(6)) {
      case 0:
        text[at] = static_cast<char>(text[at] ^ (1 << draw(8)));
        break;
      case 1:
        text.erase(at, 1 + draw(20));
        break;
      case 2:
        text.insert(at, kSpice[draw(std::size(kSpice))]);
        break;
      case 3:
        text.replace(at, std::min<size_t>(text.size() - at, 1 + draw(4)), kSpice[draw(std::size(kSpice))]);
        break;
      case 4:
        text.insert(at, copied);
        break;
      default:
        text.resize(at);
    }
  }
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  const auto start = std::chrono::steady_clock::now();
  const std::vector<std::string> all = seeds();
  for (const std::string& seed : all) {
    read(static_cast<uint8_t>(seed[0]), std::string_view(seed).substr(1));  // each is good
  }
  uint64_t runs = 0;
  for (; std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds; ++runs) {
    const std::string text = mutated(all[runs % all.size()], runs);
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  }
  std::printf("fuzz: %llu inputs, nothing found\n", static_cast<unsigned long long>(runs));
  return runs > 1000 ? 0 : 1;
}
#else
/// Writes the good inputs where libFuzzer is told to start from.
extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  if (const char* folder = std::getenv("MEGATRON_FUZZ_SEEDS")) {
    int number = 0;
    for (const std::string& seed : seeds()) atomic_write_file(str_cat(folder, "/seed-", number++), seed);
  }
  return 0;
}
#endif
