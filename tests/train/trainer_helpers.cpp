#include "tests/train/trainer_helpers.h"

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/file_io.h"
#include "base/log.h"
#include "base/strings.h"
#include "checkpoint/reader.h"
#include "train/model_state.h"

namespace megatron::test {

Settings tiny(const Settings& changes) {
  Settings s = {{"run.device", "cpu"},
                {"run.seed", "77"},
                {"run.cpu_threads", "1"},
                {"model.num_layers", "2"},
                {"model.hidden_size", "16"},
                {"model.ffn_hidden_size", "24"},
                {"model.num_attention_heads", "2"},
                {"model.num_query_groups", "1"},
                {"model.seq_length", "12"},
                {"model.position_embedding_type", "rope"},
                {"model.normalization", "RMSNorm"},
                {"model.swiglu", "true"},
                {"model.add_bias_linear", "false"},
                {"model.hidden_dropout", "0.1"},
                {"model.attention_dropout", "0.1"},
                {"model.vocab_size", "61"},
                {"model.make_vocab_size_divisible_by", "16"},
                {"model.untie_embeddings_and_output_weights", "true"},
                {"data.mock_data", "true"},
                {"data.tokenizer_type", "NullTokenizer"},
                {"training.micro_batch_size", "2"},
                {"training.global_batch_size", "4"},
                {"training.train_iters", "100"},
                {"training.eval_iters", "0"},
                {"optimizer.lr", "0.01"},
                {"optimizer.lr_decay_style", "cosine"},
                {"optimizer.lr_warmup_iters", "3"},
                {"optimizer.weight_decay", "0.1"},
                {"precision.params_dtype", "fp32"},
                {"logging.tensorboard", "false"},
                {"logging.log_level", "error"}};
  for (const auto& [key, value] : changes) {
    if (value.empty()) {
      s.erase(key);
    } else {
      s[key] = value;
    }
  }
  return s;
}

std::string yaml_text(const Settings& settings) {
  std::string text, section;
  for (const auto& [key, value] : settings) {  // sorted: sections lie together
    const size_t dot = key.find('.');
    if (key.substr(0, dot) != section) {
      section = key.substr(0, dot);
      text += section + ":\n";
    }
    text += "  " + key.substr(dot + 1) + ": " + value + "\n";
  }
  return text;
}

LoadedConfig load_settings(const Settings& settings, int64_t world_size) {
  LoadOptions options;
  options.world_size = world_size;
  return load_config_text(yaml_text(settings), "test.yaml", options);
}

EngineRun::EngineRun(const Settings& settings) : loaded_(load_settings(settings)), data_(open_data(loaded_.config)) {
  engine_ = std::make_unique<TrainEngine>(loaded_.config,
                                          make_train_programs(loaded_.config, data_.vocab_size, ParallelContext()));
  initialize_parameters(engine_->train_program(), engine_->store(), static_cast<uint64_t>(loaded_.config.run.seed),
                        engine_->pool());
}

std::vector<Batch> EngineRun::batches(int64_t step) const {
  const TrainingConfig& t = loaded_.config.training;
  std::vector<Batch> all;
  for (int64_t first = (step - 1) * t.global_batch_size; first < step * t.global_batch_size;
       first += t.micro_batch_size) {
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < t.micro_batch_size; ++i) ids.push_back(first + i);
    all.push_back(make_batch(*data_.splits.train, ids, data_.batch_options));
  }
  return all;
}

StepRecord EngineRun::step_on(const std::vector<Batch>& batches, int64_t step) {
  double weights = 0;
  for (const Batch& batch : batches) weights += batch.loss_weight_sum;
  engine_->begin_step();
  engine_->accumulate(batches, std::vector<double>(batches.size(), 1.0 / weights), step);
  StepRecord record;
  record.loss = engine_->loss_sum() / weights;
  UpdateInputs in;
  in.learning_rates.assign(engine_->programs().groups.size(), loaded_.config.optimizer.lr);
  in.weight_decay = loaded_.config.optimizer.weight_decay;
  in.update_count = updates_ + 1;
  engine_->update(in);
  const StepResult result = engine_->take_result();
  if (result.skipped) {
    engine_->resume_after_skip();
  } else {
    ++updates_;
  }
  record.grad_norm = result.grad_norm;
  record.skipped = result.skipped;
  return record;
}

std::vector<StepRecord> EngineRun::steps(int64_t count) {
  std::vector<StepRecord> records;
  for (int64_t i = 1; i <= count; ++i) records.push_back(step(i));
  return records;
}

Weights EngineRun::state() const {
  Weights weights;
  for (const TensorSource& source : checkpoint_tensors(engine_->train_program(), engine_->store(), true)) {
    const Tensor tensor = engine_->store().find(source.record.name);
    const auto* data = static_cast<const std::byte*>(tensor.data);
    weights[source.record.name].assign(data, data + tensor.bytes());
  }
  return weights;
}

std::string difference(const Weights& a, const Weights& b) {
  std::vector<std::string> names;
  for (const auto& [name, bytes] : a) {
    const auto found = b.find(name);
    if (found == b.end() || found->second != bytes) names.push_back(name);
  }
  for (const auto& [name, bytes] : b) {
    if (!a.contains(name)) names.push_back(name);
  }
  return join(names, " ");
}

Scratch::Scratch() {
  static int count = 0;
  dir_ = std::filesystem::temp_directory_path() / str_cat("megatron-trainer-", ::getpid(), "-", count++);
  std::filesystem::remove_all(dir_);
  std::filesystem::create_directories(dir_);
}

Scratch::~Scratch() {
  set_log_file("");
  std::filesystem::remove_all(dir_);
}

namespace {

double number(const nlohmann::json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number() ? found->get<double>() : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

std::map<int64_t, MetricsLine> read_metrics(const std::string& run_dir) {
  std::map<int64_t, MetricsLine> lines;
  std::istringstream text(read_file(run_dir + "/metrics.jsonl"));
  for (std::string row; std::getline(text, row);) {
    const nlohmann::json json = nlohmann::json::parse(row);
    MetricsLine line;
    line.iteration = json.at("iteration").get<int64_t>();
    line.lm_loss = number(json, "lm_loss");
    line.grad_norm = number(json, "grad_norm");
    line.learning_rate = number(json, "learning_rate");
    line.loss_scale = number(json, "loss_scale");
    line.skipped = json.value("skipped", nlohmann::json()) == true;
    line.skipped_iterations = static_cast<int64_t>(number(json, "skipped_iterations"));
    line.consumed_samples = json.at("consumed_samples").get<int64_t>();
    if (json.contains("valid_lm_loss")) line.valid_lm_loss = number(json, "valid_lm_loss");
    if (json.contains("test_lm_loss")) line.test_lm_loss = number(json, "test_lm_loss");
    if (json.contains("peak_memory_bytes") && json["peak_memory_bytes"].is_number()) {
      line.peak_memory_bytes = json["peak_memory_bytes"].get<int64_t>();
    }
    lines[line.iteration] = line;
  }
  return lines;
}

Weights checkpoint_weights(const std::string& folder, std::optional<int64_t> iteration) {
  Weights weights;
  const std::optional<CheckpointReader> reader =
      iteration ? CheckpointReader::open(folder, *iteration) : CheckpointReader::open_latest(folder);
  if (!reader) return weights;
  for (const StoredTensor& tensor : reader->manifest().tensors) {
    std::vector<std::byte>& bytes = weights[tensor.record.name];
    bytes.resize(static_cast<size_t>(element_count(tensor.record.shape) * size_of(tensor.record.dtype)));
    reader->read(tensor.record, bytes);
  }
  return weights;
}

}  // namespace megatron::test
