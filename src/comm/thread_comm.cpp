#include "comm/thread_comm.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "comm/call_match.h"
#include "comm/reduce.h"
#include "tensor/placement.h"

namespace megatron {
namespace {

/// One transfer on its way. The sender waits until the receiver has copied it.
struct Message {
  Tensor values;
  bool done = false;
  std::string error;  ///< the receiver wanted something else
};

/// What the ranks of one communicator share.
struct Group {
  Group(int n, std::string group_name, std::shared_ptr<ThreadJob> group_job)
      : size(n),
        name(std::move(group_name)),
        job(std::move(group_job)),
        calls(static_cast<size_t>(n)),
        scratch(static_cast<size_t>(n)),
        colours(static_cast<size_t>(n)),
        children(static_cast<size_t>(n)) {}

  const int size;
  const std::string name;
  const std::shared_ptr<ThreadJob> job;
  std::mutex mutex;
  std::condition_variable changed;
  int arrived = 0, reading = 0;
  uint64_t generation = 0;
  std::vector<CommCall> calls;
  std::vector<std::vector<std::byte>> scratch;  ///< per rank, so that nobody overwrites what others still read
  std::vector<std::pair<int, int>> colours;     ///< colour and key of a split
  std::vector<std::shared_ptr<Group>> children;
  std::map<std::pair<int, int>, std::deque<std::shared_ptr<Message>>> messages;  ///< by sender and receiver

  /// Waits for a change until `ready`; when the job failed, until nobody reads our memory any more, then throws.
  template <typename Ready>
  void wait_until(std::unique_lock<std::mutex>& lock, Ready&& ready) {
    while (!ready()) {
      if (job->failed() && reading == 0) job->raise();
      changed.wait_for(lock, std::chrono::milliseconds(20));
    }
  }

  /// All ranks arrive. `leaving`: this rank has read what it wanted of the others'; `entering`: it will begin to.
  void barrier(bool entering, bool leaving) {
    if (size == 1) return;
    std::unique_lock lock(mutex);
    if (leaving) --reading;
    const uint64_t mine = generation;
    if (++arrived == size) {
      arrived = 0;
      ++generation;
      if (entering) reading = size;
      changed.notify_all();
      return;
    }
    if (leaving) changed.notify_all();
    wait_until(lock, [&] { return generation != mine; });
  }
};

class ThreadComm final : public Comm {
 public:
  ThreadComm(std::shared_ptr<Group> group, int rank) : group_(std::move(group)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return group_->size; }
  const std::string& name() const override { return group_->name; }

  void run(const CommCall& call) override {
    if (group_->job->failed()) group_->job->raise();
    if (call.op == CommOp::kExchange) return exchange_messages(call);
    publish(call);
    std::vector<const std::byte*> blocks;
    switch (call.op) {
      case CommOp::kAllReduce: {
        reduce_block(call, block_of(call.source.numel(), size(), rank_));
        next_section();
        for (const auto& part : group_->scratch) blocks.push_back(part.data());
        const int64_t count = call.source.numel();
        put(call.target, blocks, [&](int r) { return block_of(count, size(), r).size; });
        break;
      }
      case CommOp::kReduceScatter: {
        const int64_t begin = std::accumulate(call.send_counts, call.send_counts + rank_, int64_t{0});
        reduce_block(call, {begin, call.send_counts[rank_]});
        next_section();  // in place, the target lies in memory that others read
        copy(call.target.data, group_->scratch[static_cast<size_t>(rank_)].data(), call.target.bytes());
        break;
      }
      case CommOp::kAllGather:
        for (const CommCall& other : group_->calls) blocks.push_back(static_cast<const std::byte*>(other.source.data));
        put(call.target, blocks, [&](int r) { return call.receive_counts[r]; });
        break;
      case CommOp::kAllToAll:
        for (const CommCall& other : group_->calls) {
          const int64_t before = std::accumulate(other.send_counts, other.send_counts + rank_, int64_t{0});
          blocks.push_back(static_cast<const std::byte*>(other.source.data) + before * size_of(call.source.dtype));
        }
        put(call.target, blocks, [&](int r) { return call.receive_counts[r]; });
        break;
      case CommOp::kBroadcast:
        copy(call.target.data, group_->calls[static_cast<size_t>(call.from)].source.data, call.target.bytes());
        break;
      case CommOp::kBarrier:
      case CommOp::kExchange:
        break;
    }
    group_->barrier(false, true);
  }

  std::unique_ptr<Comm> split(int colour, int key, const std::string& name) override {
    MEGATRON_CHECK(colour >= 0, "the colour of a split is negative");
    group_->colours[static_cast<size_t>(rank_)] = {colour, key};
    group_->barrier(true, false);
    std::vector<std::pair<int, int>> members;  // key, rank
    for (int r = 0; r < size(); ++r) {
      const auto& [other, other_key] = group_->colours[static_cast<size_t>(r)];
      if (other == colour) members.emplace_back(other_key, r);
    }
    std::sort(members.begin(), members.end());
    const auto first = static_cast<size_t>(members[0].second);
    if (members[0].second == rank_) {
      group_->children[first] = std::make_shared<Group>(static_cast<int>(members.size()), name, group_->job);
    }
    next_section();
    const std::shared_ptr<Group> child = group_->children[first];
    const auto mine = std::find(members.begin(), members.end(), std::pair(key, rank_));
    group_->barrier(false, true);
    return std::make_unique<ThreadComm>(child, static_cast<int>(mine - members.begin()));
  }

 private:
  /// Shows this rank's call to the others, and looks whether all called the same.
  void publish(const CommCall& call) {
    group_->calls[static_cast<size_t>(rank_)] = call;
    group_->barrier(true, false);
    const std::string problem = find_mismatch(group_->calls, group_->name);
    if (problem.empty()) return;
    group_->job->fail(problem);
    group_->barrier(false, true);  // all ranks see the same problem and come here
    throw DeviceError(problem);
  }

  /// What the ranks wrote for each other is there now.
  void next_section() { group_->barrier(true, true); }

  static void copy(void* to, const void* from, int64_t bytes) {
    if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
  }

  /// target = the ranks' blocks one after the other.
  template <typename Count>
  void put(const Tensor& target, const std::vector<const std::byte*>& blocks, Count&& count) const {
    auto* out = static_cast<std::byte*>(target.data);
    for (int r = 0; r < size(); ++r) {
      const int64_t bytes = count(r) * size_of(target.dtype);
      copy(out, blocks[static_cast<size_t>(r)], bytes);
      out += bytes;
    }
  }

  /// This rank's part of the work of a reduction, into its scratch memory.
  void reduce_block(const CommCall& call, const Block& block) {
    auto& scratch = group_->scratch[static_cast<size_t>(rank_)];
    const int64_t size = size_of(call.source.dtype);
    scratch.resize(static_cast<size_t>(block.size * size));
    if (block.size == 0) return;
    std::vector<const void*> sources;
    for (const CommCall& other : group_->calls) {
      sources.push_back(static_cast<const std::byte*>(other.source.data) + block.begin * size);
    }
    reduce_in_rank_order(call.reduction, call.source.dtype, sources, scratch.data(), block.size);
  }

  void exchange_messages(const CommCall& call) {
    Group& g = *group_;
    std::unique_lock lock(g.mutex);
    const auto sent = std::make_shared<Message>(Message{call.source, false, ""});
    if (call.to >= 0) g.messages[{rank_, call.to}].push_back(sent);
    g.changed.notify_all();
    if (call.from >= 0) {
      auto& queue = g.messages[{call.from, rank_}];
      g.wait_until(lock, [&] { return !queue.empty(); });
      const std::shared_ptr<Message> message = queue.front();
      queue.pop_front();
      message->error = find_transfer_mismatch(message->values, call.target, call.from, rank_, g.name);
      // Under the lock: a sender that gives up takes the lock first, so its memory is there.
      if (message->error.empty()) copy(call.target.data, message->values.data, call.target.bytes());
      message->done = true;
      g.changed.notify_all();
      if (!message->error.empty()) {
        g.job->fail(message->error);
        throw DeviceError(message->error);
      }
    }
    if (call.to < 0) return;
    try {
      g.wait_until(lock, [&] { return sent->done; });
    } catch (...) {
      auto& queue = g.messages[{rank_, call.to}];
      queue.erase(std::remove(queue.begin(), queue.end(), sent), queue.end());
      throw;
    }
    if (!sent->error.empty()) throw DeviceError(sent->error);
  }

  std::shared_ptr<Group> group_;
  int rank_;
};

}  // namespace

void ThreadJob::fail(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (failed_) return;
  reason_ = reason;
  failed_ = true;
}

void ThreadJob::raise() const {
  const std::lock_guard lock(mutex_);
  throw DeviceError(reason_);
}

std::vector<std::unique_ptr<Comm>> make_thread_comms(int size, const std::string& name,
                                                     std::shared_ptr<ThreadJob> job) {
  if (!job) job = std::make_shared<ThreadJob>();
  auto group = std::make_shared<Group>(size, name, std::move(job));
  std::vector<std::unique_ptr<Comm>> comms;
  for (int r = 0; r < size; ++r) comms.push_back(std::make_unique<ThreadComm>(group, r));
  return comms;
}

}  // namespace megatron
