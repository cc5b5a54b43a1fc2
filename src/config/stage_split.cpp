#include "config/stage_split.h"

#include <cctype>
#include <string>

#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw UsageError(what);
}

/// pipeline_model_parallel_layout with its repeats written out: "Ett|tt|L".
class LayoutReader {
 public:
  explicit LayoutReader(const std::string& text) : text_(text) {}

  std::string read() {
    const std::string all = sequence(0);
    if (at_ < text_.size()) fail("a ) without its (");
    return all;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    refuse(str_cat("pipeline_model_parallel_layout '", text_, "', character ", at_ + 1, ": ", what));
  }

  bool blank() const { return text_[at_] == ',' || std::isspace(static_cast<unsigned char>(text_[at_])) != 0; }
  void skip_blanks() {
    while (at_ < text_.size() && blank()) ++at_;
  }

  std::string sequence(int depth) {
    std::string all;
    for (skip_blanks(); at_ < text_.size() && text_[at_] != ')'; skip_blanks()) {
      const std::string one = item(depth);
      const int64_t count = repeats();
      if (all.size() + one.size() * static_cast<size_t>(count) > kLongest) fail("too long");
      for (int64_t i = 0; i < count; ++i) all += one;
    }
    return all;
  }

  std::string item(int depth) {
    const char c = text_[at_];
    if (c == 'm') fail("layers of multi-token prediction (m) are not supported yet");
    if (c == '(') {
      if (depth > 8) fail("too many ( within each other");
      ++at_;
      const std::string inner = sequence(depth + 1);
      if (at_ == text_.size()) fail("a ( without its )");
      ++at_;
      return inner;
    }
    if (std::string("EtafL|").find(c) == std::string::npos) {
      fail(str_cat("'", c, "' means nothing; use E, t, a, f, L, |, * and ( )"));
    }
    ++at_;
    return {c};
  }

  int64_t repeats() {
    skip_blanks();
    if (at_ == text_.size() || text_[at_] != '*') return 1;
    ++at_;
    skip_blanks();
    int64_t count = 0;
    const size_t begin = at_;
    for (; at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_])) != 0; ++at_) {
      count = count * 10 + (text_[at_] - '0');
      if (count > static_cast<int64_t>(kLongest)) fail("too long");
    }
    if (at_ == begin || count == 0) fail("a number from 1 stands behind *");
    return count;
  }

  static constexpr size_t kLongest = 100000;
  const std::string& text_;
  size_t at_ = 0;
};

std::vector<StagePart> parts_of_layout(const ParallelConfig& p, int64_t num_layers) {
  const std::string text = LayoutReader(p.pipeline_model_parallel_layout).read();
  const std::string key = "pipeline_model_parallel_layout: ";
  std::vector<StagePart> parts(1);
  int64_t layers = 0;   // that are complete
  bool half = false;    // the attention of the next one is placed
  bool inside = false;  // on the present part
  for (size_t i = 0; i < text.size(); ++i) {
    StagePart& part = parts.back();
    const char c = text[i];
    if (half && c != 'f' && c != '|') refuse(str_cat(key, "an f, the MLP of a layer, must follow its attention a"));
    if (c == '|') {
      part.ends_in_layer = half;
      inside = false;
      parts.emplace_back().first_layer = layers;
    } else if (c == 't') {
      ++part.layers;
      ++layers;
    } else if (c == 'a') {
      ++part.layers;
      half = inside = true;
    } else if (c == 'f') {
      if (!half) refuse(key + "an a, the attention of a layer, must stand before its MLP f");
      if (!inside) ++part.layers;
      part.begins_in_layer = part.begins_in_layer || !inside;
      half = inside = false;
      ++layers;
    } else if (c == 'E') {
      if (i != 0) refuse(key + "E stands once, at the beginning");
      part.embedding = true;
    } else {
      if (i + 1 != text.size()) refuse(key + "L stands once, at the end");
      part.loss = true;
    }
  }
  if (!parts.front().embedding) refuse(key + "E, the embedding, must stand at the beginning");
  if (!parts.back().loss) refuse(key + "L, the loss, must stand at the end");
  if (layers != num_layers)
    refuse(str_cat(key, "it has ", layers, " layers (t, or a and f), num_layers is ", num_layers));
  const int64_t stages = p.pipeline_model_parallel_size;
  if (std::ssize(parts) % stages != 0) {
    refuse(str_cat(key, parts.size(), " parts do not divide among pipeline_model_parallel_size ", stages));
  }
  return parts;
}

/// Chunks of each stage where no layout says it. `layers` counts embedding and loss where they are accounted for.
int64_t chunks_of(const ParallelConfig& p, int64_t layers) {
  if (p.num_virtual_stages_per_pipeline_rank) return *p.num_virtual_stages_per_pipeline_rank;
  if (!p.num_layers_per_virtual_pipeline_stage) return 1;
  const int64_t size = *p.num_layers_per_virtual_pipeline_stage, stages = p.pipeline_model_parallel_size;
  if (p.decoder_first_pipeline_num_layers || p.decoder_last_pipeline_num_layers) {
    refuse(
        "num_layers_per_virtual_pipeline_stage goes with stages of one size; with decoder_first_ or "
        "decoder_last_pipeline_num_layers use num_virtual_stages_per_pipeline_rank");
  }
  if (layers % (stages * size) != 0) {
    refuse(str_cat("num_layers_per_virtual_pipeline_stage ", size, " does not divide the ", layers,
                   " layers of pipeline_model_parallel_size ", stages, " stages"));
  }
  return layers / (stages * size);
}

/// Layers of each stage; those of the ends may be given.
std::vector<int64_t> layers_of_stages(const ParallelConfig& p, int64_t num_layers) {
  const int64_t stages = p.pipeline_model_parallel_size;
  const auto &first = p.decoder_first_pipeline_num_layers, &last = p.decoder_last_pipeline_num_layers;
  const int64_t others = stages - (first ? 1 : 0) - (last ? 1 : 0);
  const int64_t rest = num_layers - first.value_or(0) - last.value_or(0);
  if (rest < 0) {
    refuse(str_cat("decoder_first_ and decoder_last_pipeline_num_layers take ", first.value_or(0) + last.value_or(0),
                   " layers of ", num_layers));
  }
  if ((others > 0 && rest % others != 0) || (others == 0 && rest != 0)) {
    const std::string given = first || last ? " that are left" : "";
    refuse(str_cat(rest, " layers", given, " do not divide among ", others, " stages", given,
                   "; change num_layers or pipeline_model_parallel_size, or use decoder_first_ and "
                   "decoder_last_pipeline_num_layers, account_for_..._in_pipeline_split or "
                   "pipeline_model_parallel_layout"));
  }
  std::vector<int64_t> layers(static_cast<size_t>(stages), others > 0 ? rest / others : 0);
  if (first) layers.front() = *first;
  if (last) layers.back() = *last;
  return layers;
}

void check_keys(const ParallelConfig& p) {
  const bool ends = p.decoder_first_pipeline_num_layers || p.decoder_last_pipeline_num_layers;
  const bool accounts = p.account_for_embedding_in_pipeline_split || p.account_for_loss_in_pipeline_split;
  const bool chunks = p.num_virtual_stages_per_pipeline_rank || p.num_layers_per_virtual_pipeline_stage;
  const bool layout = !p.pipeline_model_parallel_layout.empty();
  if (p.pipeline_model_parallel_size == 1 && (ends || accounts || chunks || layout || p.pipeline_schedule != "1f1b")) {
    refuse(
        "pipeline_schedule and the keys that split the layers into stages need pipeline_model_parallel_size above 1; "
        "leave "
        "them out");
  }
  if (layout && (ends || accounts || chunks)) {
    refuse("pipeline_model_parallel_layout says all of the split; leave the other keys of it out");
  }
  if (p.num_virtual_stages_per_pipeline_rank && p.num_layers_per_virtual_pipeline_stage) {
    refuse("num_virtual_stages_per_pipeline_rank and num_layers_per_virtual_pipeline_stage exclude each other");
  }
  if (ends && accounts) {
    refuse("decoder_first_ and decoder_last_pipeline_num_layers exclude account_for_..._in_pipeline_split");
  }
}

std::vector<StagePart> parts_of_numbers(const ParallelConfig& p, int64_t num_layers) {
  const int64_t stages = p.pipeline_model_parallel_size;
  const int64_t counted_embedding = p.account_for_embedding_in_pipeline_split ? 1 : 0,
                counted_loss = p.account_for_loss_in_pipeline_split ? 1 : 0;
  const int64_t counted = num_layers + counted_embedding + counted_loss;
  const std::vector<int64_t> of_stage = layers_of_stages(p, counted);
  const int64_t chunks = chunks_of(p, counted);
  for (size_t s = 0; s < of_stage.size(); ++s) {
    if (of_stage[s] % chunks == 0) continue;
    refuse(str_cat("the ", of_stage[s], " layers of stage ", s, " do not divide into ", chunks,
                   " virtual stages (num_virtual_stages_per_pipeline_rank)"));
  }
  std::vector<StagePart> parts;
  int64_t begin = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (int64_t s = 0; s < stages; ++s) {
      StagePart part;
      part.embedding = parts.empty();
      part.loss = chunk == chunks - 1 && s == stages - 1;
      part.first_layer = begin;
      part.layers = of_stage[static_cast<size_t>(s)] / chunks - (part.embedding ? counted_embedding : 0) -
                    (part.loss ? counted_loss : 0);
      begin += part.layers;
      parts.push_back(part);
    }
  }
  return parts;
}

}  // namespace

std::vector<StagePart> split_stages(const ParallelConfig& p, int64_t num_layers) {
  check_keys(p);
  const std::vector<StagePart> parts =
      p.pipeline_model_parallel_layout.empty() ? parts_of_numbers(p, num_layers) : parts_of_layout(p, num_layers);
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].layers > 0 || parts[i].embedding || parts[i].loss) continue;
    const auto stages = static_cast<size_t>(p.pipeline_model_parallel_size);
    refuse(str_cat("part ", i / stages, " of pipeline stage ", i % stages,
                   " is empty; each part holds a layer, the embedding or the loss"));
  }
  return parts;
}

}  // namespace megatron
