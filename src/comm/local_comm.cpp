#include "comm/local_comm.h"

#include <algorithm>
#include <numeric>
#include <sstream>
#include <tuple>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/strings.h"

namespace megatron {
namespace {

class LocalComm final : public Comm {
 public:
  LocalComm(World& world, Device& device, std::vector<int> members, std::string name)
      : world_(world), device_(device), members_(std::move(members)), name_(std::move(name)) {
    const auto mine = std::find(members_.begin(), members_.end(), world.rank());
    MEGATRON_CHECK(mine != members_.end(), "a rank has no place in its own group");
    rank_ = static_cast<int>(mine - members_.begin());
  }
  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }
  const std::string& name() const override { return name_; }

  void run(const CommCall& call) override {
    const std::vector<int64_t> whole = {std::min(call.source.numel(), call.target.numel())};
    switch (call.op) {
      case CommOp::kAllReduce:
        return copy_blocks(call, whole.data(), whole.data(), 1);
      case CommOp::kAllGather:
        return spread(call);
      case CommOp::kReduceScatter: {
        const int64_t begin = std::accumulate(call.send_counts, call.send_counts + rank_, int64_t{0});
        return copy(call, 0, begin, call.target.numel());
      }
      case CommOp::kAllToAll:
        return copy_blocks(call, call.send_counts, call.receive_counts, size());
      case CommOp::kExchange:
        if (call.to >= 0 && call.from >= 0) copy_blocks(call, whole.data(), whole.data(), 1);
        return;
      case CommOp::kBroadcast:
      case CommOp::kBarrier:
        return;
    }
  }

  std::unique_ptr<Comm> split(int colour, int key, const std::string& name) override {
    MEGATRON_CHECK(colour >= 0, "the colour of a split is negative");
    std::vector<std::tuple<int, int, int>> all;  // key, place in this group, rank in the world
    const std::vector<std::string> texts = world_.gather(str_cat(colour, " ", key));
    for (size_t place = 0; place < members_.size(); ++place) {
      std::istringstream words(texts[static_cast<size_t>(members_[place])]);
      int other_colour = 0, other_key = 0;
      words >> other_colour >> other_key;
      if (other_colour == colour) all.emplace_back(other_key, static_cast<int>(place), members_[place]);
    }
    std::sort(all.begin(), all.end());
    std::vector<int> members;
    for (const auto& one : all) members.push_back(std::get<2>(one));
    return std::make_unique<LocalComm>(world_, device_, std::move(members), name);
  }

 private:
  int stream_index(void* stream) const {
    for (int i = 0; i < Device::kStreams; ++i) {
      if (device_.stream(i) == stream) return i;
    }
    fail_check(__FILE__, __LINE__, "stream", "a collective on a stream that the device does not have");
  }

  /// Elements from `from` of the source to `to` of the target.
  void copy(const CommCall& call, int64_t to, int64_t from, int64_t count) const {
    auto* target = static_cast<std::byte*>(call.target.data) + to * size_of(call.target.dtype);
    const auto* source = static_cast<const std::byte*>(call.source.data) + from * size_of(call.source.dtype);
    if (count <= 0 || target == source) return;
    device_.copy_within(target, source, count * size_of(call.target.dtype), stream_index(call.stream));
  }

  /// Block by block, as far as both sides have it.
  void copy_blocks(const CommCall& call, const int64_t* sent, const int64_t* got, int blocks) const {
    for (int64_t r = 0, from = 0, to = 0; r < blocks; from += sent[r], to += got[r], ++r) {
      copy(call, to, from, std::min(sent[r], got[r]));
    }
  }

  /// This rank's block everywhere.
  void spread(const CommCall& call) const {
    for (int64_t r = 0, to = 0; r < size(); to += call.receive_counts[r], ++r) {
      copy(call, to, 0, std::min(call.source.numel(), call.receive_counts[r]));
    }
  }

  World& world_;
  Device& device_;
  std::vector<int> members_;  ///< ranks of the world
  std::string name_;
  int rank_ = 0;
};

}  // namespace

std::unique_ptr<Comm> make_local_comm(World& world, Device& device, const std::string& name) {
  std::vector<int> all(static_cast<size_t>(world.size()));
  std::iota(all.begin(), all.end(), 0);
  return std::make_unique<LocalComm>(world, device, std::move(all), name);
}

}  // namespace megatron
