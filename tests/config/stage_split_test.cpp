// Which layers lie on which stage: every rule, and every refusal.
#include "config/stage_split.h"

#include "base/error.h"
#include "base/strings.h"
#include "tests/catch.h"

namespace megatron {
namespace {

/// "E2 2 1L": embedding, layers and loss of each part; the layers must go on without a gap.
std::string text_of(const ParallelConfig& parallel, int64_t layers) {
  std::vector<std::string> texts;
  int64_t next = 0;
  for (const StagePart& part : split_stages(parallel, layers)) {
    if (part.first_layer != next) return "a gap";
    next += part.layers - (part.ends_in_layer ? 1 : 0);
    texts.push_back(str_cat(part.embedding ? "E" : "", part.begins_in_layer ? "f" : "", part.layers,
                            part.ends_in_layer ? "a" : "", part.loss ? "L" : ""));
  }
  return next == layers ? join(texts, " ") : "not all layers";
}

std::string refusal_of(const ParallelConfig& parallel, int64_t layers) {
  try {
    split_stages(parallel, layers);
    return "";
  } catch (const UsageError& error) {
    return error.what();
  }
}

bool refused(const ParallelConfig& parallel, int64_t layers, const std::string& why) {
  const std::string text = refusal_of(parallel, layers);
  INFO(text);
  CHECK(text.find(why) != std::string::npos);
  return !text.empty();
}

ParallelConfig stages(int64_t count) {
  ParallelConfig parallel;
  parallel.pipeline_model_parallel_size = count;
  return parallel;
}

}  // namespace

TEST_CASE("stages: even, and one stage") {
  CHECK(text_of(stages(1), 5) == "E5L");
  CHECK(text_of(stages(4), 8) == "E2 2 2 2L");
  CHECK(refused(stages(3), 8, "8 layers do not divide among 3 stages"));
}

TEST_CASE("stages: virtual stages lie in turn on the ranks") {
  ParallelConfig p = stages(2);
  p.num_virtual_stages_per_pipeline_rank = 2;
  CHECK(text_of(p, 8) == "E2 2 2 2L");
  CHECK(split_stages(p, 8)[2] == StagePart{4, 2, false, false});
  CHECK(refused(p, 6, "the 3 layers of stage 0 do not divide into 2 virtual stages"));
  p.num_layers_per_virtual_pipeline_stage = 1;
  CHECK(refused(p, 8, "exclude each other"));
  p.num_virtual_stages_per_pipeline_rank.reset();
  CHECK(text_of(p, 8) == "E1 1 1 1 1 1 1 1L");
  p.num_layers_per_virtual_pipeline_stage = 3;
  CHECK(refused(p, 8, "num_layers_per_virtual_pipeline_stage 3 does not divide"));
}

TEST_CASE("stages: ends of their own size") {
  ParallelConfig p = stages(4);
  p.decoder_first_pipeline_num_layers = 1;
  CHECK(text_of(p, 10) == "E1 3 3 3L");
  p.decoder_last_pipeline_num_layers = 2;
  CHECK(text_of(p, 9) == "E1 3 3 2L");
  CHECK(refused(p, 10, "7 layers that are left do not divide among 2 stages"));
  CHECK(refused(p, 2, "take 3 layers of 2"));
  p.num_virtual_stages_per_pipeline_rank = 2;
  CHECK(refused(p, 9, "the 1 layers of stage 0 do not divide into 2"));
  p.decoder_first_pipeline_num_layers = 2;
  CHECK(text_of(p, 12) == "E1 2 2 1 1 2 2 1L");
  p.account_for_loss_in_pipeline_split = true;
  CHECK(refused(p, 12, "exclude account_for"));
  ParallelConfig two = stages(2);
  two.decoder_first_pipeline_num_layers = 1;
  two.decoder_last_pipeline_num_layers = 4;
  CHECK(text_of(two, 5) == "E1 4L");
  CHECK(refused(two, 6, "do not divide among 0 stages"));
  two.num_layers_per_virtual_pipeline_stage = 1;
  CHECK(refused(two, 5, "use num_virtual_stages_per_pipeline_rank"));
}

TEST_CASE("stages: embedding and loss count as layers") {
  ParallelConfig p = stages(4);
  p.account_for_embedding_in_pipeline_split = true;
  CHECK(text_of(p, 7) == "E1 2 2 2L");
  p.account_for_loss_in_pipeline_split = true;
  CHECK(text_of(p, 6) == "E1 2 2 1L");
  CHECK(text_of(p, 2) == "E0 1 1 0L");
  CHECK(refused(p, 7, "9 layers do not divide among 4 stages"));
  p.num_virtual_stages_per_pipeline_rank = 2;
  CHECK(text_of(p, 14) == "E1 2 2 2 2 2 2 1L");
}

TEST_CASE("stages: a layout says all of it") {
  ParallelConfig p = stages(4);
  p.pipeline_model_parallel_layout = "Et*3|(tt|)*2,tL";
  CHECK(text_of(p, 8) == "E3 2 2 1L");
  p.pipeline_model_parallel_layout = "E|(t,t|)*6L";
  CHECK(text_of(p, 12) == "E0 2 2 2 2 2 2 0L");
  p.pipeline_model_parallel_layout = "Et*2a|f(t|)tafa|ftL";  // halves of layers apart, and one layer as both
  CHECK(text_of(p, 8) == "E3a f2 3a f2L");
  p.pipeline_model_parallel_layout = "Ea|f|a|fL";
  CHECK(text_of(p, 2) == "E1a f1 1a f1L");
  p.pipeline_model_parallel_layout = "Eta|faf|a|fL";
  CHECK(text_of(p, 4) == "E2a f2 1a f1L");
  const auto bad = [&](const std::string& layout, const std::string& why) {
    p.pipeline_model_parallel_layout = layout;
    INFO(layout);
    CHECK(refused(p, 4, why));
  };
  bad("Et|t|t|t", "L, the loss, must stand at the end");
  bad("t|t|t|tL", "E, the embedding, must stand at the beginning");
  bad("Et|tE|t|tL", "E stands once");
  bad("Et|tL|t|tL", "L stands once");
  bad("Et|t|t|ttL", "5 layers (t, or a and f), num_layers is 4");
  bad("Eta|t|t|tL", "an f, the MLP of a layer, must follow its attention a");
  bad("Eta|a|f|ftL", "an f, the MLP of a layer, must follow its attention a");
  bad("Et|t|t|aL", "an f, the MLP of a layer, must follow its attention a");
  bad("Etf|t|t|tL", "an a, the attention of a layer, must stand before its MLP f");
  bad("Eta|ff|t|tL", "an a, the attention of a layer, must stand before its MLP f");
  bad("Eta|ft|t|tL", "5 layers (t, or a and f), num_layers is 4");
  bad("Ett|t|tL", "3 parts do not divide among pipeline_model_parallel_size 4");
  bad("Ett||tt|L", "part 0 of pipeline stage 1 is empty");
  bad("Et|t|t|mtL", "not supported yet");
  bad("Et|x|t|tL", "character 4: 'x' means nothing");
  bad("E(t|)*3tL)", "a ) without its (");
  bad("E(t|*3tL", "a ( without its )");
  bad("Et*0|t|t|tL", "a number from 1");
  bad("Et*99999999999|L", "too long");
  bad("E(((t*99999)*99999)*99999)|L", "too long");
  p.num_virtual_stages_per_pipeline_rank = 1;
  bad("Et|t|t|tL", "leave the other keys of it out");
}

TEST_CASE("stages: keys of a pipeline without one are refused") {
  for (const auto& change : {+[](ParallelConfig& p) { p.pipeline_schedule = "gpipe"; },
                             +[](ParallelConfig& p) { p.pipeline_model_parallel_layout = "EtL"; },
                             +[](ParallelConfig& p) { p.account_for_loss_in_pipeline_split = true; },
                             +[](ParallelConfig& p) { p.decoder_last_pipeline_num_layers = 1; },
                             +[](ParallelConfig& p) { p.num_layers_per_virtual_pipeline_stage = 1; }}) {
    ParallelConfig p;
    change(p);
    CHECK(refused(p, 1, "above 1"));
  }
}

}  // namespace megatron
