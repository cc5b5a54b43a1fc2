#include "tests/inference/tiny_model.h"

#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "base/philox.h"
#include "base/strings.h"
#include "checkpoint/model_tensors.h"
#include "checkpoint/store.h"
#include "config/load.h"
#include "nn/language_model.h"
#include "program/passes.h"
#include "tests/catch.h"

namespace megatron::testing {

TempFolder::TempFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "megatron_inference_XXXXXX").string();
  REQUIRE(::mkdtemp(name.data()) != nullptr);
  path_ = name;
}

TempFolder::~TempFolder() {
  std::filesystem::remove_all(path_);
}

const char kTinyModel[] =
    "family: gpt, num_layers: 2, hidden_size: 16, ffn_hidden_size: 24, num_attention_heads: 4, num_query_groups: 2, "
    "position_embedding_type: rope, normalization: RMSNorm, swiglu: true, add_bias_linear: false, "
    "untie_embeddings_and_output_weights: true, hidden_dropout: 0.0, attention_dropout: 0.0";

namespace {

bool is_norm(const std::string& name) {
  return name.find("layernorm") != std::string::npos;
}

Program loss_program(const ModelSpec& spec) {
  Program program;
  program.name = "reference";
  Trace t(program, false);
  trace_loss(t, spec, ParallelContext(), {.micro_batch_size = 1, .training = false});
  remove_dead_ops(program);
  return program;
}

void fill(const Tensor& tensor, const std::string& name, const WeightFunction& weight) {
  const int64_t rows = tensor.shape.rank() > 0 ? tensor.shape[0] : 1;
  dispatch_floating("fill", tensor.dtype, [&](auto tag) {
    using T = decltype(tag);
    for (int64_t i = 0; i < tensor.numel(); ++i)
      tensor.as<T>()[i] = static_cast<T>(weight(name, i, tensor.numel() / rows));
  });
}

}  // namespace

double random_weight(const std::string& name, int64_t index, int64_t row_size) {
  const double normal = philox_normal(philox_key(7, hash_name(name)), static_cast<uint64_t>(index));
  if (is_norm(name) && name.ends_with("weight")) return 1.0 + 0.2 * normal;
  if (name.ends_with("bias")) return 0.3 * normal;
  if (name.find("embedding") != std::string::npos) return 0.3 * normal;  // what the layers add weighs more
  const double spread = 3.0 * normal / std::sqrt(static_cast<double>(row_size));
  if (name != "output_layer.weight") return spread;
  // Away from the token itself, or greedy texts soon repeat one.
  return spread - 3.0 * random_weight("embedding.word_embeddings.weight", index, row_size);
}

WeightFunction scripted_weights(const std::string& script) {
  return [script](const std::string& name, int64_t index, int64_t row_size) {
    if (is_norm(name)) return name.ends_with("weight") ? 1.0 : 0.0;
    const auto row = static_cast<size_t>(index / row_size);
    const auto column = static_cast<uint64_t>(index % row_size);
    const auto direction = [&](size_t id) { return philox_normal(philox_key(1, id), column); };
    if (name == "embedding.word_embeddings.weight") return direction(row);
    if (name != "output_layer.weight") return 0.0;
    for (size_t i = 0; i < script.size(); ++i) {
      const size_t next = i + 1 < script.size() ? static_cast<unsigned char>(script[i + 1]) : 256;
      if (next == row) return direction(static_cast<unsigned char>(script[i]));
    }
    return 0.0;
  };
}

void write_checkpoint(const std::string& root, const std::string& model, const std::string& data,
                      const std::string& dtype, const WeightFunction& weight) {
  const std::string yaml =
      str_cat("model: {", model, "}\ndata: {", data, ", mock_data: true}\n",
              "training: {micro_batch_size: 1, global_batch_size: 1, train_iters: 1}\n",
              "optimizer: {lr: 0.001}\nprecision: {params_dtype: ", dtype, "}\n", "run: {dir: ", root, "/run}\n");
  const Config config = load_config_text(yaml, "tiny.yaml").config;
  TokenizerSpec tokenizer;
  tokenizer.tokenizer_type = config.data.tokenizer_type;
  if (tokenizer.tokenizer_type == "NullTokenizer") tokenizer.vocab_size = *config.model.vocab_size - 1;
  const ModelSpec spec =
      make_model_spec(config, config.model.vocab_size.value_or(make_tokenizer(tokenizer)->vocab_size()));
  const Program program = loss_program(spec);
  const std::unique_ptr<Device> device = make_cpu_device();
  Store store(*device);
  CheckpointContent content;
  content.iteration = 1;
  content.texts["resolved.yaml"] = to_yaml(config);
  for (const ParameterInfo& p : program.parameters) {
    const ValueInfo& info = program.value(p.value);
    const Tensor tensor = store.require(program, p.value);
    fill(tensor, info.name, weight);
    const Tensor rows = stored_rows(tensor, p.init);
    content.tensors.push_back(
        whole_tensor(stored_record(info.name, StateKind::kParameter, info.dtype, info.shape, p.init),
                     {static_cast<const std::byte*>(rows.data), static_cast<size_t>(rows.bytes())}));
  }
  CheckpointStore(root).save(content);
}

InferenceModel open_model(const std::string& root) {
  RunConfig run;
  run.device = "cpu";
  run.cpu_threads = 1;
  return InferenceModel(root, std::nullopt, run);
}

struct Reference::Parts {
  std::unique_ptr<Device> device = make_cpu_device();
  ThreadPool pool{1};
  Store store{*device};
  std::unique_ptr<Executor> executor;
  int64_t length = 0, vocabulary = 0;

  double loss(const std::vector<TokenId>& tokens, int64_t position, TokenId label) {
    const Tensor t = executor->input(inputs::kTokens), p = executor->input(inputs::kPositions);
    const Tensor labels = executor->input(inputs::kLabels), weights = executor->input(inputs::kWeights);
    for (int64_t i = 0; i < length; ++i) {
      t.as<int32_t>()[i] = i < static_cast<int64_t>(tokens.size()) ? tokens[static_cast<size_t>(i)] : 0;
      p.as<int32_t>()[i] = static_cast<int32_t>(i);
      labels.as<int32_t>()[i] = label;
      weights.as<float>()[i] = i == position ? 1.0F : 0.0F;
    }
    const Tensor sum = store.find(kLossSum);
    device->fill_zero(sum.data, sum.bytes());
    executor->run(Phase::kForward);
    return sum.dtype == DType::kF64 ? *sum.as<double>() : static_cast<double>(*sum.as<float>());
  }
};

Reference::Reference(const InferenceModel& model, int64_t length) : parts_(std::make_unique<Parts>()) {
  ModelSpec spec = model.spec();
  spec.seq_length = length;
  parts_->length = length;
  parts_->vocabulary = spec.vocab_size;
  Plan plan = pack(loss_program(spec));
  auto arena = std::make_shared<Buffer>(*parts_->device, plan.arena_bytes());
  model.load_parameters(plan.program, parts_->store);
  Executor::Options options;
  options.pool = &parts_->pool;
  parts_->executor = std::make_unique<Executor>(std::move(plan), parts_->store, arena, options);
}

Reference::~Reference() = default;

TokenId Reference::argmax(const std::vector<TokenId>& tokens, int64_t position) {
  TokenId best = 0;
  double least = parts_->loss(tokens, position, 0);
  for (TokenId id = 1; id < parts_->vocabulary; ++id) {
    const double loss = parts_->loss(tokens, position, id);
    if (loss < least) {
      least = loss;
      best = id;
    }
  }
  return best;
}

}  // namespace megatron::testing
