// Several ranks in one process, each a thread: how parallel code is tested.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "comm/world.h"

namespace megatron {

/// Worlds of `size` ranks on one host; element r belongs to the thread of rank r.
std::vector<std::unique_ptr<World>> make_thread_worlds(int size, double timeout_seconds = kDefaultTimeoutSeconds);

/// Runs body(world) on one thread per rank and waits for all. When a rank throws, the waits of the others throw too,
/// and the first exception is rethrown here.
void run_thread_ranks(int size, const std::function<void(World&)>& body,
                      double timeout_seconds = kDefaultTimeoutSeconds);

}  // namespace megatron
