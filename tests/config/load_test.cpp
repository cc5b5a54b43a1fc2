#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/strings.h"
#include "config/load.h"
#include "config/megatron_args.h"
#include "config/reader.h"
#include "config/scalar.h"
#include "example.h"
#include "tests/catch.h"

namespace megatron {
namespace {

namespace fs = std::filesystem;
using test::contains;
using test::error_of;

/// A folder that goes away with its files.
class Folder {
 public:
  explicit Folder(const std::string& name)
      : path_(fs::temp_directory_path() / (name + "_" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  std::string write(const std::string& name, const std::string& text) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << text;
    return (path_ / name).string();
  }

 private:
  fs::path path_;
};

struct Bad {
  std::string text;  ///< added below the sound configuration, which ends in line 5
  std::string message;
};

const std::vector<Bad>& bad_texts() {
  static const std::vector<Bad> cases = {
      {"run: {sede: 3}", "x:6:7: run.sede: unknown key (did you mean seed?)\n    run: {sede: 3}\n          ^"},
      {"rum: {seed: 3}", "x:6:1: rum: unknown section (did you mean run?)"},
      {"seed: 3", "x:6:1: seed: a key stands in a section; put it below `run:`"},
      {"run: {optimizer: adam}", "it belongs to section `optimizer`"},
      {"parallel: {ddp_average_in_collective: true}", "parallel.ddp_average_in_collective: not supported yet"},
      {"run: {seed: 1, seed: 2}", "x:6:16: duplicate key 'seed' (first in line 6)"},
      {"model: {num_layers: 2}", "x:6:1: duplicate key 'model' (first in line 2)"},
      {"run: {<<: {seed: 1}}", "merge keys (<<) are not part of YAML 1.2"},
      {"run: {seed: !!int 3}", "tags such as"},
      {"run: {[1, 2]: 3}", "a key must be a word"},
      {"run: [1]", "run: a section holds keys"},
      {"run: 3", "run: a section holds keys"},
      {"run: {seed: 010}", "x:6:13: run.seed: 010 has a leading zero"},
      {"run: {seed: 1_000}", "write 1000"},
      {"run: {seed: 1e3}", "expected integer, at least 0, got 1e3; write 1000"},
      {"run: {seed: 1.5}", "expected integer, at least 0, got 1.5\n"},
      {"run: {seed: \"3\"}", "leave the quotes out"},
      {"run: {seed: 99999999999999999999}", "does not fit 64 bits"},
      {"run: {seed: -1}", "expected integer, at least 0, got -1"},
      {"run: {seed: [1]}", "got a list"},
      {"run: {seed: {a: 1}}", "got a map"},
      {"run: {seed: }", "this key always has a value"},
      {"run: {seed: null}", "this key always has a value"},
      {"run: {dir: null}", "this key always has a value"},
      {"run: {deterministic_mode: yes}", "got yes; write true or false"},
      {"run: {deterministic_mode: Off}", "got Off; write true or false"},
      {"run: {deterministic_mode: 1}", "expected true or false, got 1"},
      {"run: {dir: 3}", "write \"3\" if you mean text"},
      {"run: {dir: no}", "write \"no\" if you mean text"},
      {"run: {device: cdua}", "run.device: expected one of: auto, cpu, cuda, got cdua (did you mean cuda?)"},
      {"run: {device: CPU}", "(did you mean cpu?)"},
      {"precision: {loss_scale: .inf}", "is not a finite number"},
      {"precision: {loss_scale: 1e999}", "is not a finite number"},
      {"precision: {loss_scale: abc}", "expected number, above 0, got abc"},
      {"precision: {min_loss_scale: 0}", "expected number, above 0, got 0"},
      {"checkpoint: {most_recent_k: 0}", "expected integer, at least 1, got 0"},
      {"logging: {log_interval: 0}", "expected integer, at least 1"},
      {"extends: nowhere.yaml", "x:6:10: cannot read configuration file nowhere.yaml"},
      {"extends: {a: 1}", "extends: expected a file or a list of files"},
      {"run: &a\n  dir: *a\n", "an anchor that contains itself"},
      {"run: &a {dir: [1, *a]}", "an anchor that contains itself"},
      {"run: *nowhere", "not valid YAML"},
      {",run: 3", "not valid YAML|a second document|expected sections"},
      {"run: {dir: a", "not valid YAML"},
      {"\trun: 3", "not valid YAML"},
      {"--- \nrun: {seed: 3}", "a second document"},
  };
  return cases;
}

}  // namespace

TEST_CASE("each diagnostic is given, with its place") {
  for (const Bad& bad : bad_texts()) {
    INFO(bad.text);
    const std::string message = error_of([&] { load_config_text(test::kSound + bad.text, "x"); });
    bool found = false;
    for (const std::string& part : split(bad.message, '|')) found = found || contains(message + "\n", part);
    INFO(message);
    CHECK(found);
  }
}

TEST_CASE("errors in lists and layers are placed at the element") {
  const auto message_for = [](const std::string& layers) {
    return error_of([&] {
      load_config_text(
          "model: {num_layers: 2, hidden_size: 8, num_attention_heads: 2, seq_length: 8, vocab_size: 9, layers: " +
              layers +
              "}\ndata: {mock_data: true}\ntraining: {micro_batch_size: 1, train_iters: 3}\noptimizer: {lr: 0.1}\n",
          "x");
    });
  };
  CHECK(message_for("[{layers: 0, window_size: [2, 0]}]").empty());
  CHECK(message_for("[{layers: [0, 1], hidden_dropout: 0.5}]").empty());
  CHECK(contains(message_for("[{window_size: [2, 0]}]"), "model.layers[0]: `layers` is missing"));
  CHECK(contains(message_for("[{layers: 0, widow_size: [2, 0]}]"),
                 "model.layers[0].widow_size: cannot differ from layer "
                 "to layer (did you mean window_size?)"));
  CHECK(contains(message_for("[{layers: 0, hidden_dropout: 2}]"), "x:1:131: model.layers[0].hidden_dropout: expected"));
  CHECK(contains(message_for("[3]"), "model.layers[0]: expected a map"));
  CHECK(contains(message_for("3"), "model.layers: expected list of maps, got 3"));
  CHECK(contains(error_of([] { load_config_text("model: {window_size: [3, x]}", "x"); }), "x:1:26: model.window_size"));
  CHECK(contains(error_of([] { load_config_text("training: {recompute_modules: [core_atn]}", "x"); }),
                 "(did you mean core_attn?)"));
}

TEST_CASE("missing required keys and all other errors come together") {
  const std::string message = error_of([] { load_config_text("run: {sede: 1, device: x}\n", "x"); });
  for (const char* part : {"run.sede", "run.device", "model.num_layers: is required", "model.hidden_size: is required",
                           "training.micro_batch_size: is required", "optimizer.lr: is required", "no data:"}) {
    INFO(part);
    CHECK(contains(message, part));
  }
  CHECK(contains(error_of([] { load_config_text("", "x"); }), "model.num_layers: is required"));
}

TEST_CASE("a file that cannot be read or parsed hides no error elsewhere, and makes none up") {
  const std::string message = error_of([] { load_config_text("run: {dir: a\n", "x"); });
  CHECK(contains(message, "has 1 error\nx:2:1: not valid YAML"));
  CHECK(contains(error_of([] { load_config({"/nowhere.yaml"}, {"run.sede=3"}); }), "has 2 errors"));
}

TEST_CASE("layers of files: defaults, extends, files from left to right, sets") {
  const Folder folder("megatron_load_test");
  folder.write("base/deep.yaml",
               "run: {seed: 1, dir: deep}\nlogging: {log_interval: 3, tensorboard_log_interval: 3}\n");
  folder.write("base/mid.yaml", "extends: deep.yaml\nrun: {seed: 2}\nlogging: {log_interval: 4}\n");
  const std::string main = folder.write("main.yaml", std::string("extends: [base/mid.yaml]\n") + test::kSound);
  const std::string over = folder.write("over.yaml", "run: {seed: 3}\ncheckpoint: {load: somewhere}\n");
  const LoadedConfig one = load_config({main}, {});
  CHECK(one.config.run.seed == 2);
  CHECK(one.config.run.dir == "deep");
  CHECK(one.config.logging.log_interval == 4);
  CHECK(one.config.logging.tensorboard_log_interval == 3);
  CHECK(one.config.run.exit_interval == std::nullopt);
  CHECK(contains(one.origins.at("run.seed"), "base/mid.yaml:2:13"));
  CHECK(one.origins.at("model.kv_channels") == "derived");
  CHECK(one.origins.count("model.norm_epsilon") == 0);
  const LoadedConfig two = load_config({main, over}, {"run.exit_interval=7", "checkpoint.load="});
  CHECK(two.config.run.seed == 3);
  CHECK(two.config.run.exit_interval == 7);
  CHECK(two.config.checkpoint.load.empty());
  CHECK(two.origins.at("run.exit_interval") == "<set>:1:19");
  CHECK(load_config({main, over}, {"run.seed=4", "run.seed=5"}).config.run.seed == 5);
}

TEST_CASE("extends that goes round in a circle, missing files, folders") {
  const Folder folder("megatron_extends_test");
  folder.write("a.yaml", "extends: b.yaml\n");
  folder.write("b.yaml", "run: {seed: 3}\nextends: [a.yaml]\n");
  const std::string a = folder.write("a.yaml", "extends: b.yaml\n");
  const std::string message = error_of([&] { load_config({a}, {}); });
  CHECK(contains(message, "b.yaml:2:11: extends: goes round in a circle: a.yaml -> b.yaml -> a.yaml"));
  const std::string self = folder.write("self.yaml", "extends: ./self.yaml\n");
  CHECK(contains(error_of([&] { load_config({self}, {}); }), "self.yaml -> self.yaml"));
  // What the file would have set is not called missing beside it.
  CHECK(error_of([&] { load_config({"/nowhere/x.yaml"}, {"optimizer.lr=1"}); }) ==
        "the configuration has 1 error\ncannot read configuration file /nowhere/x.yaml: does it exist?");
  CHECK(contains(error_of([&] { load_config({fs::temp_directory_path().string()}, {}); }), "is a folder"));
  folder.write("shared.yaml", "run: {seed: 8}\n");
  folder.write("left.yaml", "extends: shared.yaml\n");
  folder.write("right.yaml", "extends: shared.yaml\n");
  const std::string both = folder.write("both.yaml", std::string("extends: [left.yaml, right.yaml]\n") + test::kSound);
  CHECK(load_config({both}, {}).config.run.seed == 8);
}

TEST_CASE("words after --set") {
  const Folder folder("megatron_set_test");
  const std::string file = folder.write("x.yaml", test::kSound);
  const auto message = [&](const std::string& word) { return error_of([&] { load_config({file}, {word}); }); };
  CHECK(contains(message("run.seed"), "<set>:1:1: expected section.key=value"));
  CHECK(contains(message("seed=3"), "<set>:1:1: seed: expected section.key=value"));
  CHECK(contains(message("run.seed.x=3"), "expected section.key=value"));
  CHECK(contains(message("run.sede=3"), "did you mean seed?"));
  CHECK(contains(message("run.seed=x"),
                 "<set>:1:10: run.seed: expected integer, at least 0, got x\n    run.seed=x\n"
                 "             ^"));
  CHECK(contains(message("run.seed=[1"), "not valid YAML"));
  CHECK(load_config({file}, {"model.window_size=[7, 0]"}).config.model.window_size == std::vector<int64_t>{7, 0});
  CHECK(load_config({file}, {"data.split=98,2,0"}).config.data.split == "98,2,0");
  CHECK(load_config({file}, {"run.dir=a=b"}).config.run.dir == "a=b");
}

TEST_CASE("anchors, comments, quotes, octal and hexadecimal numbers read as YAML 1.2 says") {
  const LoadedConfig loaded = load_config_text(std::string(test::kSound) +
                                                   "run: &r {dir: \"007\", seed: 0o17}  # comment\nlogging: "
                                                   "{log_interval: 0x10}\ncheckpoint: {save: 'a #b'}\n",
                                               "x");
  CHECK(loaded.config.run.dir == "007");
  CHECK(loaded.config.run.seed == 15);
  CHECK(loaded.config.logging.log_interval == 16);
  CHECK(loaded.config.checkpoint.save == "a #b");
  const std::string aliased =
      "model: {num_layers: &n 4, hidden_size: 64, num_attention_heads: *n, seq_length: 32, "
      "vocab_size: 300}\ndata: {mock_data: true}\ntraining: {micro_batch_size: 2, train_iters: "
      "100}\noptimizer: {lr: 1}\n";
  CHECK(load_config_text(aliased, "x").config.model.num_attention_heads == 4);
}

TEST_CASE("plain scalars") {
  const std::vector<std::pair<std::string, PlainKind>> cases = {
      {"", PlainKind::kNull},
      {"~", PlainKind::kNull},
      {"null", PlainKind::kNull},
      {"true", PlainKind::kBool},
      {"False", PlainKind::kBool},
      {"tRue", PlainKind::kString},
      {"yes", PlainKind::kOldBool},
      {"OFF", PlainKind::kOldBool},
      {"0", PlainKind::kInt},
      {"-12", PlainKind::kInt},
      {"+3", PlainKind::kInt},
      {"0x1F", PlainKind::kInt},
      {"0o17", PlainKind::kInt},
      {"0o18", PlainKind::kString},
      {"010", PlainKind::kLeadingZeros},
      {"-007", PlainKind::kLeadingZeros},
      {"1.5", PlainKind::kFloat},
      {".5", PlainKind::kFloat},
      {"1.", PlainKind::kFloat},
      {"1e-3", PlainKind::kFloat},
      {"1E+3", PlainKind::kFloat},
      {"1e", PlainKind::kString},
      {".", PlainKind::kString},
      {"-", PlainKind::kString},
      {".inf", PlainKind::kFloat},
      {"-.Inf", PlainKind::kFloat},
      {".nan", PlainKind::kFloat},
      {"1_000", PlainKind::kUnderscores},
      {"1_000.5", PlainKind::kUnderscores},
      {"a_1", PlainKind::kString},
      {"98,2,0", PlainKind::kString},
      {"None", PlainKind::kString},
      {"1a", PlainKind::kString},
  };
  for (const auto& [text, kind] : cases) {
    INFO(text);
    CHECK(classify_plain(text) == kind);
  }
  CHECK(parse_int("-12") == -12);
  CHECK(parse_int("0x1F") == 31);
  CHECK(parse_float("-1.5e-3") == -0.0015);
  CHECK(parse_float("1e400") == std::nullopt);
}

TEST_CASE("aliases of aliases do not eat the memory") {
  std::string text = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    text += str_cat("a", i, ": &a", i, " [");
    for (int n = 0; n < 10; ++n) text += str_cat("*a", i - 1, n < 9 ? ", " : "]\n");
  }
  CHECK(contains(error_of([&] { load_config_text(text, "x"); }), "aliases stand for too many values"));
}

TEST_CASE("damaged text ends in a message, never in anything else") {
  const std::string sound = std::string(test::kSound) + "run: {dir: \"a\", seed: 0x10}\nextends: []\n# end\n";
  const std::string alphabet = "{}[]:,&*!|>'\"%@`#-? \n\t\\0a~<\xc3\x80=";
  uint64_t random = 88172645463325252ull;
  const auto next = [&random](size_t bound) {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return static_cast<size_t>(random % bound);
  };
  int refused = 0;
  for (int i = 0; i < 1000; ++i) {
    std::string text = sound;
    for (size_t n = 0; n < 1 + next(4); ++n) {
      const size_t at = next(text.size());
      if (next(3) == 0) text.erase(at, next(8));
      if (!text.empty()) text[at % text.size()] = alphabet[next(alphabet.size())];
    }
    INFO(text);
    try {
      load_config_text(text, "x");
    } catch (const UsageError&) {
      ++refused;
    }
  }
  CHECK(refused > 700);
}

TEST_CASE("a caret stands below the right character behind tabs, wide text and long lines") {
  const std::string text = "run: {dir: \"\xc3\xa9\xc3\xa9\", sede: 1}\n";
  CHECK(contains(error_of([&] { load_config_text(text, "x"); }), "x:1:18: run.sede"));
  const std::string lengthy = "run: {dir: \"" + std::string(300, 'a') + "\", sede: 1}\n";
  const std::string message = error_of([&] { load_config_text(lengthy, "x"); });
  CHECK(contains(message, "    ..."));
  const size_t line = message.find("    ...");
  const size_t next = message.find('\n', line);
  const size_t caret = message.find('^', next) - next;
  CHECK(message.substr(line + caret - 1, 4) == "sede");
}

}  // namespace megatron
