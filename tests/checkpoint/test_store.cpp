// Saving and loading when all goes well, and the rules of ownership, choice and retention.
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "checkpoint/layout.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/strict_json.h"
#include "tests/checkpoint/helpers.h"

using namespace megatron;
using namespace megatron::testing;

namespace {

std::vector<std::string> folders(const std::string& root) {
  std::vector<std::string> names;
  for (const std::string& name : list_directory(root)) {
    if (name != ".owner" && name != "latest") names.push_back(name);
  }
  return names;
}

void flip_byte(const std::string& path, size_t at) {
  std::string text = read_file(path);
  text[at] = static_cast<char>(text[at] ^ 1);
  overwrite(path, text);
}

}  // namespace

TEST_CASE("what was saved is what is loaded") {
  TempFolder root;
  const Sample sample(100);
  CheckpointStore store(root.file("checkpoints"), small_options());
  const SaveResult result = store.save(sample.content());
  CHECK(result.folder == root.file("checkpoints/iter_0000100"));
  CHECK(result.bytes > 300);
  const auto reader = CheckpointReader::open_latest(store.root());
  REQUIRE(reader.has_value());
  CHECK(sample.matches(*reader));
  CHECK_FALSE(Sample(101).matches(*reader));
  CHECK(reader->manifest().tokenizer == "xxh64:0123");
  CHECK(reader->manifest().program == "test");
  CHECK(reader->manifest().sequence == 1);
  CHECK(read_file(root.file("checkpoints/latest")) == "iter_0000100\n");
  CHECK(reader->find("mask")->record.kind == StateKind::kParameter);
  CHECK(reader->find("wide")->record.kind == StateKind::kOptimizer);
  CHECK(reader->find("none") == nullptr);
  CHECK(folders(store.root()) == std::vector<std::string>{"iter_0000100"});
}

TEST_CASE("state scalars keep type and every bit") {
  TempFolder root;
  CheckpointContent content;
  content.iteration = 1;
  const std::vector<double> numbers = {0.1,
                                       1.0 / 3,
                                       -0.0,
                                       1e308,
                                       5e-324,
                                       3.0,
                                       1e22,
                                       std::numeric_limits<double>::infinity(),
                                       -std::numeric_limits<double>::infinity()};
  for (size_t i = 0; i < numbers.size(); ++i) content.state[str_cat("d", i)] = numbers[i];
  content.state["nan"] = std::nan("");
  content.state["max"] = std::numeric_limits<int64_t>::max();
  content.state["min"] = std::numeric_limits<int64_t>::min();
  content.state["text"] = "quote \" newline \n ä";
  content.state["yes"] = true;
  CheckpointStore(root.path()).save(content);
  const auto reader = CheckpointReader::open(root.path(), 1);
  for (size_t i = 0; i < numbers.size(); ++i) {
    CHECK(reader.state_double(str_cat("d", i)) == numbers[i]);
    CHECK(std::signbit(reader.state_double(str_cat("d", i))) == std::signbit(numbers[i]));
  }
  CHECK(std::isnan(reader.state_double("nan")));
  CHECK(reader.state_int("max") == std::numeric_limits<int64_t>::max());
  CHECK(reader.state_int("min") == std::numeric_limits<int64_t>::min());
  CHECK(reader.state_string("text") == "quote \" newline \n ä");
  CHECK(reader.state_bool("yes"));
  CHECK(reader.has_state("yes"));
  CHECK(contains(message_of([&] { reader.state_int("none"); }), "no entry 'none'"));
  CHECK(contains(message_of([&] { reader.state_int("d5"); }), "'d5' has another type"));
}

TEST_CASE("a wrong name, type or shape is refused with both sides") {
  TempFolder root;
  save(root.path(), 5);
  const auto reader = CheckpointReader::open(root.path(), 5);
  std::vector<std::byte> out(96);
  const auto text = [&](const TensorRecord& record) { return message_of([&] { reader.read(record, out); }); };
  CHECK(contains(text({"none", StateKind::kParameter, DType::kF32, {6, 4}}), "has no tensor 'none'"));
  const std::string name = "embedding.word_embeddings.weight";
  CHECK(contains(text({name, StateKind::kParameter, DType::kF32, {4, 6}}), "is fp32[6, 4], fp32[4, 6] is wanted"));
  CHECK(contains(text({name, StateKind::kParameter, DType::kI32, {6, 4}}), "int32[6, 4] is wanted"));
  CHECK(contains(message_of([&] { reader.read_text("tokenizer.json"); }), "has no file 'tokenizer.json'"));
}

TEST_CASE("boxes read what slicing gives, across pieces, shards and chunks") {
  TempFolder root;
  const TensorRecord record{"t", StateKind::kParameter, DType::kI32, {7, 5, 6}};
  std::vector<int32_t> values(7 * 5 * 6);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int32_t>(i * 2654435761u);
  const auto bytes = std::as_bytes(std::span(values));
  for (int64_t shard : {50, 120, 500, 100000}) {
    for (int64_t chunk : {4, 10, 64, 100000}) {
      StoreOptions options = small_options();
      options.shard_bytes = shard;
      options.chunk_bytes = chunk;
      CheckpointContent content;
      content.iteration = shard * 1000000 + chunk;
      content.tensors.push_back(whole_tensor(record, bytes));
      UnsyncedOps ops;
      CheckpointStore(root.path(), options, ops).save(content);
      const auto reader = CheckpointReader::open(root.path(), content.iteration);
      CHECK((reader.find("t")->pieces.size() > 1) == (shard < 840));
      uint64_t draw = 0;
      for (int round = 0; round < 60; ++round) {
        Box box;
        for (int64_t extent : record.shape) {
          const auto n = static_cast<double>(extent);
          const auto from = static_cast<int64_t>(philox_uniform(1, draw++) * n);
          box.offset.push_back(from);
          box.extent.push_back(
              static_cast<int64_t>(philox_uniform(1, draw++) * static_cast<double>(extent - from + 1)));
        }
        std::vector<int32_t> expected;
        for (int64_t i = 0; i < box.extent[0]; ++i) {
          for (int64_t j = 0; j < box.extent[1]; ++j) {
            for (int64_t k = 0; k < box.extent[2]; ++k) {
              const int64_t at = ((box.offset[0] + i) * 5 + box.offset[1] + j) * 6 + box.offset[2] + k;
              expected.push_back(values[static_cast<size_t>(at)]);
            }
          }
        }
        std::vector<int32_t> got(expected.size(), -1);
        reader.read_box(record, box, std::as_writable_bytes(std::span(got)));
        REQUIRE(got == expected);
      }
    }
  }
}

TEST_CASE("several threads read and verify the same bytes, and name the same damage") {
  TempFolder root;
  const Sample sample(7);
  save(root.path(), 7);
  ThreadPool pool(4);
  auto reader = CheckpointReader::open(root.path(), 7);
  reader.set_pool(&pool);
  CHECK(sample.matches(reader));
  CHECK(reader.find_damage(Verify::kFull, true).empty());
  for (const std::string& name : list_directory(root.file("iter_0000007"))) {
    if (name == "manifest.json") continue;
    const std::string path = root.file("iter_0000007/" + name);
    flip_byte(path, 3);
    flip_byte(path, static_cast<size_t>(FileReader(path).size() - 1));
  }
  const std::vector<std::string> damage = reader.find_damage(Verify::kFull, true);
  CHECK(damage.size() > 5);
  CHECK(CheckpointReader::open(root.path(), 7, Verify::kNothing).find_damage(Verify::kFull, true) == damage);
  CHECK_THROWS_AS(sample.matches(reader), DataError);
}

TEST_CASE("boxes are read in another floating type, rounded to the nearest") {
  TempFolder root;
  const std::vector<float> values = {1.0F, -2.5F, 1.00390625F, 3.0e38F, 1e-40F, 0.1F};
  CheckpointContent content;
  content.iteration = 1;
  content.tensors.push_back(
      whole_tensor({"t", StateKind::kParameter, DType::kF32, {2, 3}}, std::as_bytes(std::span(values))));
  const std::vector<int32_t> whole = {1};
  content.tensors.push_back(
      whole_tensor({"i", StateKind::kParameter, DType::kI32, {1}}, std::as_bytes(std::span(whole))));
  CheckpointStore(root.path(), small_options()).save(content);
  const auto reader = CheckpointReader::open(root.path(), 1);
  const Box box{{0, 1}, {2, 2}};
  std::vector<BFloat16> narrow(4);
  reader.read_box_as({"t", StateKind::kParameter, DType::kBF16, {2, 3}}, box,
                     std::as_writable_bytes(std::span(narrow)));
  std::vector<double> wide(4);
  reader.read_box_as({"t", StateKind::kParameter, DType::kF64, {2, 3}}, box, std::as_writable_bytes(std::span(wide)));
  const size_t at[] = {1, 2, 4, 5};
  for (size_t i = 0; i < 4; ++i) {
    CHECK(narrow[i].bits == BFloat16(values[at[i]]).bits);
    CHECK(wide[i] == static_cast<double>(values[at[i]]));
  }
  const auto refused = [&](const TensorRecord& record) {
    return message_of([&] { reader.read_box_as(record, whole_box(record.shape), {}); });
  };
  CHECK(contains(refused({"i", StateKind::kParameter, DType::kF32, {1}}), "'i' is int32[1], fp32[1] is wanted"));
  CHECK(contains(refused({"t", StateKind::kParameter, DType::kI32, {2, 3}}), "int32[2, 3] is wanted"));
  CHECK(contains(refused({"t", StateKind::kParameter, DType::kBF16, {3, 2}}), "bf16[3, 2] is wanted"));
  CHECK(contains(refused({"x", StateKind::kParameter, DType::kBF16, {3, 2}}), "has no tensor 'x'"));
}

TEST_CASE("boxes written by several owners join to one tensor; device memory is copied by chunks") {
  TempFolder root;
  const TensorRecord record{"t", StateKind::kOptimizer, DType::kF64, {4, 6}};
  std::vector<double> values(24);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i) + 0.5;
  std::vector<std::vector<double>> blocks;
  CheckpointContent content;
  content.iteration = 3;
  const std::vector<Box> boxes = {{{0, 0}, {4, 2}}, {{0, 2}, {2, 4}}, {{2, 2}, {2, 3}}, {{2, 5}, {2, 1}}};
  for (const Box& box : boxes) {
    std::vector<double> block;
    for (int64_t i = 0; i < box.extent[0]; ++i) {
      for (int64_t j = 0; j < box.extent[1]; ++j) {
        block.push_back(values[static_cast<size_t>((box.offset[0] + i) * 6 + box.offset[1] + j)]);
      }
    }
    blocks.push_back(block);
  }
  for (size_t b = 0; b < boxes.size(); ++b) {
    content.tensors.push_back({record, boxes[b], {}, [&blocks, b](int64_t offset, std::span<std::byte> out) {
                                 const auto source = std::as_bytes(std::span(blocks[b]));
                                 std::memcpy(out.data(), source.data() + offset, out.size());
                               }});
  }
  CheckpointStore store(root.path(), small_options());
  store.save(content);
  const auto reader = CheckpointReader::open(root.path(), 3);
  CHECK(reader.manifest().tensors.size() == 1);
  std::vector<double> got(24);
  reader.read(record, std::as_writable_bytes(std::span(got)));
  CHECK(got == values);

  content.tensors.pop_back();  // a hole in the cover
  CHECK(contains(message_of([&] { store.save(content); }), "tensor 't': its pieces hold 22 of 24 elements"));
  for (const Box& wrong : {Box{{2, 4}, {2, 2}}, Box{{2, 4}, {2, 1}}}) {  // too much, and as much as is missing
    const auto bytes = std::as_bytes(std::span(values)).first(static_cast<size_t>(wrong.extent[1] * 16));
    content.tensors.push_back({record, wrong, bytes, nullptr});
    CHECK(contains(message_of([&] { store.save(content); }), "overlap"));
    content.tensors.pop_back();
  }
  CHECK(folders(root.path()) == std::vector<std::string>{"iter_0000003"});
}

TEST_CASE("shards are safetensors files that any reader of the format can use") {
  TempFolder root;
  const Sample sample(7);
  save(root.path(), 7);
  size_t shards = 0, whole = 0;
  for (const std::string& name : list_directory(root.file("iter_0000007"))) {
    if (!ends_with(name, ".safetensors")) continue;
    ++shards;
    const FileReader file(root.file("iter_0000007/" + name));
    const SafetensorsHeader header = read_safetensors_header(file);
    CHECK(header.metadata.at("format") == "pt");
    CHECK(header.data_offset % 64 == 0);
    for (const SafetensorsEntry& entry : header.entries) {
      CHECK(entry.offset % safetensors_element_bytes(entry.dtype) == 0);
      for (size_t i = 0; i < sample.records().size(); ++i) {
        const TensorRecord& record = sample.records()[i];
        if (record.name != entry.name) continue;
        ++whole;
        CHECK(entry.shape == record.shape);
        CHECK(entry.dtype == safetensors_dtype(record.dtype));
        std::vector<std::byte> out(static_cast<size_t>(entry.bytes));
        file.read_at(entry.offset, out);
        CHECK(out == sample.data()[i]);
      }
    }
  }
  CHECK(shards >= 3);
  CHECK(whole == sample.records().size());
}

TEST_CASE("no checkpoint is nothing, which is not an error") {
  TempFolder root;
  CHECK_FALSE(CheckpointReader::open_latest(root.path()).has_value());
  CHECK_FALSE(CheckpointReader::open_latest(root.file("missing")).has_value());
  std::filesystem::create_directories(root.file(".tmp-iter_0000001-1-abc"));
  std::filesystem::create_directories(root.file("iter_1"));
  std::filesystem::create_directories(root.file("iter_00000001"));
  overwrite(root.file("iter_0000009"), "a file");
  CHECK_FALSE(CheckpointReader::open_latest(root.path()).has_value());
}

TEST_CASE("the newest commit is taken, whatever the hint says") {
  TempFolder root;
  for (int64_t iteration : {50, 100, 10000000}) save(root.path(), iteration);
  CHECK(CheckpointReader::open_latest(root.path())->iteration() == 10000000);
  for (const char* hint : {"iter_0000050\n", "garbage", "iter_0000777"}) {
    overwrite(root.file("latest"), hint);
    CHECK(CheckpointReader::open_latest(root.path())->iteration() == 10000000);
  }
  std::filesystem::remove(root.file("latest"));
  CHECK(CheckpointReader::open_latest(root.path())->iteration() == 10000000);
  CHECK(Sample(50).matches(CheckpointReader::open(root.path(), 50)));
  save(root.path(), 60);  // the user went back to 50 and trained on from there
  CHECK(CheckpointReader::open_latest(root.path())->iteration() == 60);
  CHECK(contains(message_of([&] { CheckpointReader::open(root.path(), 70); }),
                 "has no checkpoint of iteration 70; it has iter_0000060, iter_10000000, iter_0000100, iter_0000050"));
}

TEST_CASE("a damaged checkpoint is skipped and named; when all are damaged each is named") {
  TempFolder root;
  for (int64_t iteration : {10, 20, 30, 40}) save(root.path(), iteration);
  flip_byte(root.file("iter_0000040/manifest.json"), 300);
  const std::string shard = root.file("iter_0000030/shard-00000-00001.safetensors");
  flip_byte(shard, static_cast<size_t>(FileReader(shard).size() - 1));
  std::vector<std::string> skipped;
  const auto reader = CheckpointReader::open_latest(root.path(), Verify::kFull, &skipped);
  CHECK(Sample(20).matches(*reader));
  REQUIRE(skipped.size() == 2);
  CHECK(contains(skipped[0], "iter_0000040/manifest.json: bytes ["));
  CHECK(contains(skipped[1], "iter_0000030/shard-00000-00001.safetensors: bytes ["));
  CHECK_THROWS_AS(CheckpointReader::open(root.path(), 30), DataError);  // a chosen one has no fall-back
  std::filesystem::remove(root.file("iter_0000020/shard-00000-00000.safetensors"));
  std::filesystem::remove(root.file("iter_0000010/manifest.json"));
  const std::string message = message_of([&] { CheckpointReader::open_latest(root.path()); });
  CHECK(contains(message, "none of its 4 checkpoints is usable"));
  for (const char* part :
       {"iter_0000040/manifest.json", "iter_0000030/shard-00000-00001.safetensors: bytes",
        "iter_0000020/shard-00000-00000.safetensors: No such file", "iter_0000010: has no manifest"}) {
    INFO(message);
    CHECK(contains(message, part));
  }
  CHECK_THROWS_AS(CheckpointReader::open_latest(root.path()), DataError);
}

TEST_CASE("a renamed checkpoint folder is not taken for another iteration") {
  TempFolder root;
  save(root.path(), 10);
  std::filesystem::rename(root.file("iter_0000010"), root.file("iter_0000099"));
  CHECK(contains(message_of([&] { CheckpointReader::open(root.path(), 99); }), "manifest is of iteration 10"));
}

TEST_CASE("an existing iteration is replaced by the new commit") {
  TempFolder root;
  save(root.path(), 10);
  save(root.path(), 20);
  const Sample sample(10);  // owns what the content views
  CheckpointContent other = sample.content();
  other.state["phase"] = "again";
  CheckpointStore(root.path(), small_options()).save(other);
  CHECK(CheckpointReader::open_latest(root.path())->state_string("phase") == "again");
  CHECK(folders(root.path()) == std::vector<std::string>{"iter_0000010", "iter_0000020"});
  for (int error : {EINVAL, ENOSYS}) {  // file systems that cannot swap names
    HookedOps ops([error](int, const std::string& name, const std::string&) { return name == "exchange" ? error : 0; });
    other.state["phase"] = str_cat("without swap ", error);
    CheckpointStore(root.path(), small_options(), ops).save(other);
    CHECK(CheckpointReader::open_latest(root.path())->state_string("phase") == str_cat("without swap ", error));
    CHECK(folders(root.path()) == std::vector<std::string>{"iter_0000010", "iter_0000020"});
  }
}

TEST_CASE("a second writer is refused and told who owns the folder") {
  TempFolder root;
  {
    CheckpointStore owner(root.path(), small_options());
    CHECK_THROWS_AS(CheckpointStore(root.path()), UsageError);
    const std::string message = message_of([&] { CheckpointStore second(root.path()); });
    CHECK(contains(message, str_cat(root.path(), ": another job writes its checkpoints here (host ")));
    CHECK(contains(message, str_cat("process ", ::getpid())));
    owner.save(Sample(1).content());
  }
  save(root.path(), 2);
  CHECK(CheckpointReader::open_latest(root.path())->iteration() == 2);
}

TEST_CASE("a job that lost its folder does not publish") {
  TempFolder root;
  save(root.path(), 1);
  CheckpointStore first(root.path(), small_options());
  std::filesystem::remove(root.file(".owner"));  // somebody thought the first job dead
  CheckpointStore second(root.path(), small_options());
  CHECK(contains(message_of([&] { first.save(Sample(2).content()); }), "no longer owns the folder"));
  second.save(Sample(3).content());
  CHECK(folders(root.path()) == std::vector<std::string>{"iter_0000001", "iter_0000003"});
}

TEST_CASE("retention keeps the newest commits and each multiple of the interval") {
  const auto kept = [](int64_t k, int64_t interval) {
    TempFolder root;
    StoreOptions options = small_options(k);
    UnsyncedOps ops;
    options.save_retain_interval = interval;
    CheckpointStore store(root.path(), options, ops);
    for (int64_t iteration = 10; iteration <= 60; iteration += 10) store.save(Sample(iteration).content());
    std::vector<int64_t> iterations;
    for (const std::string& name : folders(root.path())) iterations.push_back(*parse_iteration_name(name));
    return iterations;
  };
  CHECK(kept(0, 0) == std::vector<int64_t>{10, 20, 30, 40, 50, 60});
  CHECK(kept(1, 0) == std::vector<int64_t>{60});
  CHECK(kept(2, 0) == std::vector<int64_t>{50, 60});
  CHECK(kept(0, 30) == std::vector<int64_t>{30, 60});
  CHECK(kept(2, 20) == std::vector<int64_t>{20, 40, 50, 60});
}

TEST_CASE("retention counts no damaged checkpoint and touches no link") {
  TempFolder root;
  TempFolder elsewhere;
  save(root.path(), 10);
  save(root.path(), 20);
  save(elsewhere.path(), 5);
  flip_byte(root.file("iter_0000020/manifest.json"), 200);
  std::filesystem::create_directory_symlink(elsewhere.file("iter_0000005"), root.file("iter_0000005"));
  save(root.path(), 30, small_options(2));
  CHECK(folders(root.path()) ==
        std::vector<std::string>{"iter_0000005", "iter_0000010", "iter_0000020", "iter_0000030"});
  save(root.path(), 40, small_options(1));
  CHECK(folders(root.path()) == std::vector<std::string>{"iter_0000005", "iter_0000020", "iter_0000040"});
  CHECK(Sample(5).matches(CheckpointReader::open(root.path(), 5)));
}

TEST_CASE("leftovers of dead saves go with the next save") {
  TempFolder root;
  for (const char* name : {".tmp-iter_0000100-1-abc/deep", ".trash-iter_0000001-abc"}) {
    std::filesystem::create_directories(root.file(name));
  }
  overwrite(root.file(".tmp-iter_0000100-1-abc/deep/file"), "x");
  save(root.path(), 10);
  CHECK(folders(root.path()) == std::vector<std::string>{"iter_0000010"});
}

TEST_CASE("iteration folders have exactly one spelling") {
  CHECK(iteration_name(100) == "iter_0000100");
  CHECK(iteration_name(123456789) == "iter_123456789");
  CHECK(parse_iteration_name("iter_0000100") == 100);
  CHECK(parse_iteration_name("iter_123456789") == 123456789);
  for (const char* name : {"iter_100", "iter_", "iter_000010x", "iter_-000001", "iter_0000100.tmp", "Iter_0000100",
                           "iter_00000100", "iter_99999999999999999999"}) {
    CHECK_FALSE(parse_iteration_name(name).has_value());
  }
}
