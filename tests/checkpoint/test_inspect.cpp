#include <filesystem>

#include "checkpoint/inspect.h"
#include "tests/checkpoint/helpers.h"

using namespace megatron;
using namespace megatron::testing;

TEST_CASE("a checkpoint is described with its sizes, files, state and tensors") {
  TempFolder root;
  save(root.path(), 100);
  const auto reader = CheckpointReader::open(root.path(), 100);
  const std::string text = describe_checkpoint(reader, /*tensors=*/false);
  for (const char* part : {"iteration     100 (commit 1)\n", "program       test\n", "tokenizer     xxh64:0123\n",
                           "parameter     6 tensors, 73 elements, 205 B, bf16 fp16 fp32 fp64 int32 uint8\n",
                           "optimizer     3 tensors, 33 elements, 168 B, fp32 fp64 int64\n", "resolved.yaml  29 B\n",
                           "state         consumed_samples = 800\n", "state         phase = train\n",
                           "state         lr = 0.03333333333333333\n"}) {
    INFO(text);
    CHECK(contains(text, part));
  }
  CHECK_FALSE(contains(text, "linear_fc1"));
  const std::string long_text = describe_checkpoint(reader, /*tensors=*/true);
  CHECK(contains(long_text, "bf16 [2, 5, 3]  60 B\n"));
  CHECK(contains(long_text, "int64 []  8 B\n"));
}

TEST_CASE("two checkpoints are compared in settings, state, tensors and contents") {
  TempFolder root;
  Sample sample(10);
  CheckpointContent a = sample.content(), b = sample.content(), c = sample.content();
  a.texts["resolved.yaml"] = "model:\n  num_layers: 4\n  layers:\n    - a\n    - b\noptimizer:\n  lr: 0.1\n# note\n";
  b.texts["resolved.yaml"] = "model:\n  num_layers: 4\n  layers:\n    - a\n    - c\noptimizer:\n  lr: 0.2\n  beta: 1\n";
  b.iteration = 20;
  b.state["consumed_samples"] = int64_t{160};
  b.state.erase("done");
  std::vector<std::byte> other(24 * 4, std::byte{1});
  b.tensors[0].data = other;
  b.tensors[4] = whole_tensor({"optimizer.steps", StateKind::kOptimizer, DType::kI64, {}}, sample.data()[4]);
  CheckpointStore store(root.path(), small_options());
  store.save(a);
  store.save(b);
  const std::string text =
      diff_checkpoints(CheckpointReader::open(root.path(), 10), CheckpointReader::open(root.path(), 20));
  CHECK(text ==
        "settings\n- model.layers.1: - b\n+ model.layers.1: - c\n+ optimizer.beta: 1\n- optimizer.lr: 0.1\n"
        "+ optimizer.lr: 0.2\nstate\n- state.consumed_samples: 80\n+ state.consumed_samples: 160\n- state.done: false\n"
        "tensors\n- optimizer.step: int64 []\n+ optimizer.steps: int64 []\n"
        "contents\n~ embedding.word_embeddings.weight\n");
  const auto same = CheckpointReader::open(root.path(), 10);
  CHECK(diff_checkpoints(same, same).empty());
}

TEST_CASE("verification lists every damaged place, or none") {
  TempFolder root;
  save(root.path(), 10);
  save(root.path(), 20);
  CHECK(checkpoint_folders(root.path()) ==
        std::vector<std::string>{root.file("iter_0000020"), root.file("iter_0000010")});
  const std::string folder = root.file("iter_0000010");
  CHECK(checkpoint_folders(folder) == std::vector<std::string>{folder});
  CHECK(verify_checkpoint(folder).empty());
  for (const char* name : {"/shard-00000-00000.safetensors", "/shard-00000-00001.safetensors"}) {
    std::string bytes = read_file(folder + name);
    bytes.back() = static_cast<char>(bytes.back() ^ 1);
    bytes[3] = static_cast<char>(bytes[3] ^ 1);
    overwrite(folder + name, bytes);
  }
  std::filesystem::remove(folder + "/resolved.yaml");
  const auto damage = verify_checkpoint(folder);
  REQUIRE(damage.size() == 5);
  CHECK(contains(damage[0], "shard-00000-00000.safetensors: bytes [0, "));
  CHECK(contains(damage[4], "resolved.yaml: No such file"));
  std::filesystem::remove(folder + "/manifest.json");
  CHECK(verify_checkpoint(folder).size() == 1);
  CHECK_THROWS_AS(checkpoint_folders(root.file("none")), DataError);
}
