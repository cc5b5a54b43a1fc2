#include "inference/model.h"

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "checkpoint/layout.h"
#include "checkpoint/model_tensors.h"
#include "config/load.h"
#include "config/rules.h"
#include "kernels/linear/gemm_cpu.h"
#include "parallel/rank_device.h"
#include "tensor/host_copy.h"

namespace megatron {
namespace {

CheckpointReader open_checkpoint(const std::string& load, std::optional<int64_t> step) {
  if (!directory_exists(load)) throw DataError(str_cat("--load ", load, ": no such folder"));
  if (path_exists(path_join(load, "manifest.json"))) return CheckpointReader::open_folder(load);
  const std::string root = checkpoint_root(load);
  if (step) return CheckpointReader::open(root, *step);
  if (auto reader = CheckpointReader::open_latest(root)) return std::move(*reader);
  throw DataError(
      str_cat("--load ", load, ": holds no checkpoint (no iter_* folder); give the folder of checkpoint.save"));
}

std::unique_ptr<Tokenizer> open_tokenizer(const CheckpointReader& reader, const Config& config) {
  TokenizerSpec spec;
  spec.tokenizer_type = config.data.tokenizer_type;
  spec.tokenizer_model = path_join(reader.folder(), "tokenizer.json");
  spec.vocab_file = path_join(reader.folder(), "vocab.json");
  spec.merge_file = path_join(reader.folder(), "merges.txt");
  if (config.model.vocab_size && spec.tokenizer_type == "NullTokenizer") spec.vocab_size = *config.model.vocab_size - 1;
  return make_tokenizer(spec);
}

/// The configuration of the run that wrote the checkpoint, on the ranks of this one.
Config open_config(const CheckpointReader& reader, const ParallelContext& parallel) {
  LoadOptions options;
  options.check_rules = false;  // they reckon with the ranks of the other run
  Config config =
      load_config_text(reader.read_text("resolved.yaml"), reader.folder() + "/resolved.yaml", options).config;
  config.parallel = ParallelConfig{};
  config.parallel.expert_tensor_parallel_size = 1;
  validate(config);
  config.parallel.tensor_model_parallel_size = parallel.tp_size();
  return config;
}

}  // namespace

InferenceModel::InferenceModel(const std::string& load, std::optional<int64_t> step, const RunConfig& run,
                               InferenceWorld world)
    : reader_(open_checkpoint(load, step)),
      world_(std::move(world)),
      config_(open_config(reader_, world_.parallel)),
      tokenizer_(open_tokenizer(reader_, config_)),
      spec_(make_model_spec(config_, config_.model.vocab_size.value_or(tokenizer_->vocab_size()))),
      device_(world_.device ? world_.device : make_device(run)),
      pool_(std::make_unique<ThreadPool>(cpu_threads(run))) {
  verify_blas();
}

void InferenceModel::load_parameters(const Program& program, Store& store) const {
  for (const ParameterInfo& p : program.parameters) {
    const Tensor tensor = store.require(program, p.value);
    const ValueInfo& info = program.value(p.value);
    const Box box = stored_box(info.name, info.shape, p.init, local_box(info.shape, info.placement, program.mesh));
    Tensor rows = tensor;
    if (rows.shape.rank() > 0) rows.shape[0] = box.extent[0];
    if (rows.numel() == 0) continue;  // padding rows stay zero
    std::vector<std::byte> part(static_cast<size_t>(rows.bytes()));
    reader_.read_box(stored_record(info.name, StateKind::kParameter, info.dtype, info.shape, p.init), box, part);
    write_tensor(*device_, rows, part.data(), rows.bytes());
  }
}

}  // namespace megatron
