// Pipelines on meshes with every other axis, and every way to split the layers: the steps are those of one rank.
#include "base/strings.h"
#include "parallel/mesh.h"
#include "tests/train/pipeline_run.h"

namespace megatron::test {
namespace {

/// Gradients of the first step, and losses, norms and evaluations of `steps`.
void check_all(const Settings& model, const std::vector<PipelineCase>& cases, int64_t steps = 3,
               const RankRun::Change& change = {}) {
  const Settings settings = exact(model);
  const Tensors gradients = first_gradients(settings, 1);
  const std::vector<double> numbers = train_ranks(settings, 1, steps);
  for (const PipelineCase& c : cases) {
    INFO(c.name << ", " << model.at("model.num_layers") << " layers");
    const Settings many = on_pipeline(settings, c);
    CHECK(difference_of(first_gradients(many, c.ranks, {}, change), gradients) < 1e-12);
    CHECK(worst_difference(train_ranks(many, c.ranks, steps, change), numbers) < 1e-10);
  }
}

/// Four heads and sixteen positions: enough for four context ranks.
const Settings kWide = {{"model.num_layers", "4"}, {"model.num_attention_heads", "4"}, {"model.seq_length", "16"}};

Settings tensor(bool sequence_parallel, const Settings& more = {}) {
  return with({{"parallel.tensor_model_parallel_size", "2"},
               {"parallel.sequence_parallel", sequence_parallel ? "true" : "false"}},
              more);
}
Settings context(const std::string& kind, int ranks, const Settings& more = {}) {
  Settings settings = {{"parallel.context_parallel_size", std::to_string(ranks)},
                       {"parallel.cp_comm_type", "[" + kind + "]"}};
  if (kind == "a2a+p2p") settings["parallel.hierarchical_context_parallel_sizes"] = str_cat("[2, ", ranks / 2, "]");
  return with(settings, more);
}

const Settings kZeroBubble = {{"parallel.pipeline_schedule", "zero-bubble"}};
const Settings kTwoChunks = {{"parallel.num_virtual_stages_per_pipeline_rank", "2"}};

int tensor_collectives(const TrainPrograms& programs) {
  const Program& program = programs.train.front().program;
  const auto& list = program.list(Phase::kForward);
  return static_cast<int>(
      std::count_if(list.begin(), list.end(), [&](OpId id) { return program.op(id).kind->comm_axis() == "tp"; }));
}

/// tp_comm_overlap, with two pieces: by itself it makes none of sequences as short as these.
void cut_in_pieces(const Config& config, TrainPrograms& programs) {
  int rank = 0, stride = 1;
  for (const MeshAxis& axis : programs.mesh.axes) {
    rank += axis.coordinate * stride;
    stride *= axis.size;
  }
  const int whole = tensor_collectives(programs);
  programs =
      make_train_programs(config, programs.spec.vocab_size, make_parallel_context(config, stride, rank).in_pieces(2));
  if (tensor_collectives(programs) <= whole) throw InternalError("there are no pieces");
}

std::vector<PipelineCase> context_cases() {
  std::vector<PipelineCase> cases = {
      {"pp2 x cp2 p2p, zero-bubble", 4, 2, context("p2p", 2, kZeroBubble)},
      {"pp2 x cp2 all_gather, two chunks", 4, 2, context("all_gather", 2, kTwoChunks)},
      {"pp2 x cp2 a2a", 4, 2, context("a2a", 2)},
      {"pp2 x cp2 x tp2, sp", 8, 2, tensor(true, context("p2p", 2))},
      {"pp2 x cp2 x dp2, ZeRO-3", 8, 2,
       context("all_gather", 2, {{"parallel.data_parallel_sharding_strategy", "optim_grads_params"}})}};
  for (const char* kind : {"p2p", "all_gather", "a2a", "a2a+p2p"}) {
    cases.push_back({str_cat("pp2 x cp4 ", kind), 8, 2, context(kind, 4)});
  }
  return cases;
}

}  // namespace

TEST_CASE("pipeline meshes: with context parallelism of every kind") {
  check_all(kWide, context_cases());
  check_all(with(kWide, kGpt2), context_cases());
}

TEST_CASE("pipeline meshes: with the collectives of tensor-parallel regions in pieces") {
  const std::vector<PipelineCase> cases = {
      {"tp2 x pp2, sp, pieces", 4, 2, tensor(true)},
      {"tp2 x pp2, pieces", 4, 2, tensor(false)},
      {"tp2 x pp2, sp, pieces, zero-bubble", 4, 2, tensor(true, kZeroBubble)},
      {"tp2 x pp2 x dp2, sp, pieces, two chunks, ZeRO-1 with overlap", 8, 2,
       tensor(true, with(kTwoChunks, {{"parallel.use_distributed_optimizer", "true"},
                                      {"parallel.overlap_grad_reduce", "true"},
                                      {"parallel.overlap_param_gather", "true"},
                                      {"parallel.ddp_bucket_size", "1500"}}))}};
  check_all(kWide, cases, 3, cut_in_pieces);
  check_all(with(kWide, kGpt2), cases, 3, cut_in_pieces);
}

TEST_CASE("pipeline meshes: stages by all keys of the split") {
  const auto key = [](const char* name, const char* value) {
    return Settings{{std::string("parallel.") + name, value}};
  };
  const Settings embedding = key("account_for_embedding_in_pipeline_split", "true"),
                 loss = key("account_for_loss_in_pipeline_split", "true"), both = with(embedding, loss);
  for (const Settings& model : {Settings{}, kGpt2}) {
    check_all(with(model, {{"model.num_layers", "3"}}),
              {{"embedding counts: 1, 2", 2, 2, embedding},
               {"loss counts: 2, 1", 2, 2, loss},
               {"loss counts, pp4: 1, 1, 1, 0", 4, 4, loss},
               {"last stage has 1", 2, 2, key("decoder_last_pipeline_num_layers", "1")}});
    check_all(
        with(model, {{"model.num_layers", "6"}}),
        {{"both count: 1, 2, 2, 1", 4, 4, both},
         {"both count, two chunks: 1 and 2, 2 and 1", 2, 2, with(both, kTwoChunks)},
         {"first and last stage", 3, 3,
          with(key("decoder_first_pipeline_num_layers", "1"), key("decoder_last_pipeline_num_layers", "3"))},
         {"layout with repeats, uneven chunks", 2, 2, key("pipeline_model_parallel_layout", "Et*2|t|(tt|)tL")},
         {"three chunks", 2, 2, key("num_virtual_stages_per_pipeline_rank", "3")},
         {"three chunks, zero-bubble", 2, 2, with(kZeroBubble, key("num_virtual_stages_per_pipeline_rank", "3"))}});
  }
}

TEST_CASE("pipeline meshes: stages that share a layer") {
  const auto layout = [](const char* text, const Settings& more = {}) {
    return with({{"parallel.pipeline_model_parallel_layout", str_cat("'", text, "'")}}, more);
  };
  const Settings full = {{"training.recompute_granularity", "full"},
                         {"training.recompute_method", "uniform"},
                         {"training.recompute_num_layers", "1"}};
  const Settings norms = {{"training.recompute_granularity", "selective"},
                          {"training.recompute_modules", "[layernorm]"}};
  for (const Settings& model : {Settings{}, kGpt2}) {
    check_all(with(model, {{"model.num_layers", "4"}}),
              {{"attention and MLP apart", 2, 2, layout("Etta|ftL")},
               {"zero-bubble", 2, 2, layout("Eta|fttL", kZeroBubble)},
               {"a part that is half a layer, chunks", 2, 2, layout("Eta|f|tt|L")},
               {"every stage ends in a layer", 4, 4, layout("Eta|fa|fa|fL")},
               {"whole layers recomputed", 2, 2, layout("Etta|ftL", full)},
               {"norms recomputed", 2, 2, layout("Etta|ftL", norms)},
               {"tp2, dp2, ZeRO-1 with overlap", 8, 2,
                layout("Eta|fttL", tensor(true, {{"parallel.use_distributed_optimizer", "true"},
                                                 {"parallel.overlap_grad_reduce", "true"},
                                                 {"parallel.overlap_param_gather", "true"}}))}});
  }
}

TEST_CASE("pipeline meshes: 20 steps") {
  check_all(kWide, {context_cases()[2], context_cases()[8]}, 20);
  check_all(with(kWide, kGpt2),
            {{"tp2 x pp2 x dp2, sp", 8, 2, tensor(true)},
             {"pp4 zero-bubble", 4, 4, kZeroBubble},
             {"pp2 x dp2, ZeRO-2", 4, 2, {{"parallel.data_parallel_sharding_strategy", "optim_grads"}}}},
            20);
}

}  // namespace megatron::test
