// What `megatron checkpoint` shows: checkpoints as text.
#pragma once

#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "checkpoint/reader.h"

namespace megatron {

/// `path` itself when it is a checkpoint, else the iter_* folders in it or, of a run folder, in its `checkpoints`:
/// newest commit first, damaged ones included. DataError when there are none.
std::vector<std::string> checkpoint_folders(const std::string& path);

/// Iteration, sizes by kind, files, state; with `tensors` one line for each tensor too. Ends in a newline.
std::string describe_checkpoint(const CheckpointReader& checkpoint, bool tensors);

/// Lines "- old" and "+ new" for each setting, state entry and tensor in which `b` differs from `a`. Whether the
/// contents of a tensor differ is told by its checksums. Empty when all is equal.
std::string diff_checkpoints(const CheckpointReader& a, const CheckpointReader& b);

/// One line for each damaged place of a checkpoint folder, every byte read; empty when all is well.
std::vector<std::string> verify_checkpoint(const std::string& folder, ThreadPool* pool = nullptr);

}  // namespace megatron
