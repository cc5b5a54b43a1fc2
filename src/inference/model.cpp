#include "inference/model.h"

#include "base/error.h"
#include "base/strings.h"
#include "checkpoint/model_tensors.h"
#include "config/rules.h"
#include "kernels/linear/gemm_cpu.h"
#include "parallel/rank_device.h"
#include "tensor/host_copy.h"

namespace megatron {
namespace {

/// The configuration of the run that wrote the checkpoint, on the ranks of this one.
Config open_config(const ModelSource& source, const ParallelContext& parallel) {
  Config config = source.config();
  config.parallel = ParallelConfig{};
  config.parallel.expert_tensor_parallel_size = 1;
  validate(config);
  config.parallel.tensor_model_parallel_size = parallel.tp_size();
  config.parallel.pipeline_model_parallel_size = parallel.stages();
  return config;
}

/// Any number of stages up to that of the layers: nothing has to divide, since nothing is balanced against a backward.
StagePart part_of(const ParallelContext& parallel, int64_t layers) {
  const int stages = parallel.stages(), stage = parallel.stage();
  if (stages > layers) {
    throw UsageError(str_cat("--pipeline-model-parallel-size ", stages, ": the model has ", layers,
                             layers == 1 ? " layer" : " layers", ", and every stage needs one; give ", layers,
                             " or less"));
  }
  const Block own = block_of(layers, stages, stage);
  return {own.begin, own.size, stage == 0, stage == stages - 1};
}

}  // namespace

InferenceModel::InferenceModel(const std::string& load, std::optional<int64_t> step, const RunConfig& run,
                               InferenceWorld world)
    : source_(ModelSource::open(load, step, "--load")),
      world_(std::move(world)),
      config_(open_config(source_, world_.parallel)),
      tokenizer_(source_.tokenizer()),
      spec_(make_model_spec(config_, config_.model.vocab_size.value_or(tokenizer_->vocab_size()))),
      part_(part_of(world_.parallel, std::ssize(spec_.layers))),
      device_(world_.device ? world_.device : make_device(run)),
      pool_(std::make_unique<ThreadPool>(cpu_threads(run))) {
  verify_blas();
}

void load_parameters(const ModelSource& source, const Program& program, Store& store) {
  for (const ParameterInfo& p : program.parameters) {
    const Tensor tensor = store.require(program, p.value);
    const ValueInfo& info = program.value(p.value);
    const Box box = stored_box(info.name, info.shape, p.init, local_box(info.shape, info.placement, program.mesh));
    Tensor rows = tensor;
    if (rows.shape.rank() > 0) rows.shape[0] = box.extent[0];
    if (rows.numel() == 0) continue;  // padding rows stay zero
    std::vector<std::byte> part(static_cast<size_t>(rows.bytes()));
    source.read_box(stored_record(info.name, StateKind::kParameter, info.dtype, info.shape, p.init), box, part);
    write_tensor(store.device(), rows, part.data(), rows.bytes());
  }
}

}  // namespace megatron
