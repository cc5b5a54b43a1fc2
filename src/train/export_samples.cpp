#include "train/export_samples.h"

#include <vector>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "checkpoint/safetensors.h"

namespace megatron {

void export_samples(const Dataset& dataset, int64_t first, int64_t count, const std::string& path) {
  if (first < 0) throw UsageError(str_cat("first sample ", first, ": samples count from 0"));
  if (count < 1) throw UsageError(str_cat("number of samples ", count, ": write at least one"));
  SafetensorsEntry tokens;
  tokens.name = "tokens";
  tokens.dtype = safetensors_dtype(DType::kI32);
  tokens.shape = {count, dataset.seq_length() + 1};
  // Under another name until it is complete, so that a file at `path` is always whole.
  FileOps& ops = FileOps::posix();
  const std::string part = path + ".part";
  remove_tree(part);
  try {
    SafetensorsWriter writer(
        part, {tokens},
        {{"first_sample", std::to_string(first)}, {"seq_length", std::to_string(dataset.seq_length())}});
    std::vector<TokenId> sample(static_cast<size_t>(dataset.seq_length() + 1));
    for (int64_t i = 0; i < count; ++i) {
      dataset.read(first + i, sample);
      writer.append(std::as_bytes(std::span(sample)));
    }
    writer.finish();
  } catch (const Error&) {
    ops.unlink(part);
    throw;
  }
  if (const int error = ops.rename(part, path); error != 0) throw_file_error("rename the samples to", path, -error);
  sync_directory(parent_directory(path));
}

}  // namespace megatron
