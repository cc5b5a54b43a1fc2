#include "comm/mpi/mpi_comm.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "comm/call_match.h"
#include "comm/reduce.h"
#include "tensor/placement.h"

namespace megatron {
namespace {

constexpr int kKeyTag = 1, kDataTag = 2;
constexpr int64_t kLargestMessage = int64_t{1} << 30;  // MPI counts with int

/// A CallKey as it travels.
using Words = std::array<int64_t, 6>;
Words words_of(const CallKey& key) {
  return {static_cast<int64_t>(key.op),
          static_cast<int64_t>(key.reduction),
          static_cast<int64_t>(key.dtype),
          key.root,
          key.count,
          key.between};
}

std::string text_of(const Words& words) {
  CommCall call;
  call.op = static_cast<CommOp>(words[0]);
  call.reduction = static_cast<Reduction>(words[1]);
  call.source.dtype = call.target.dtype = static_cast<DType>(words[2]);
  call.source.shape =
      call.target.shape = {call.op == CommOp::kAllToAll || call.op == CommOp::kExchange ? words[5] : words[4]};
  call.from = call.op == CommOp::kExchange ? 0 : static_cast<int>(words[3]);
  if (call.op == CommOp::kExchange || call.op == CommOp::kAllToAll) {
    return str_cat(call.op == CommOp::kExchange ? "transfer of " : "all_to_all with a block of ", words[5], " ",
                   name_of(call.source.dtype));
  }
  return describe(call);
}

/// The messages of one round. What a peer says it calls is compared as it comes.
class Round {
 public:
  Round(MpiJob& job, MPI_Comm comm) : job_(job), comm_(comm) {}

  void send(const void* data, int64_t bytes, int to) {
    post(bytes, [&](int64_t begin, int size) {
      return MPI_Isend(static_cast<const std::byte*>(data) + begin, size, MPI_BYTE, to, kDataTag, comm_, &added());
    });
  }
  void receive(void* data, int64_t bytes, int from) {
    post(bytes, [&](int64_t begin, int size) {
      return MPI_Irecv(static_cast<std::byte*>(data) + begin, size, MPI_BYTE, from, kDataTag, comm_, &added());
    });
  }
  void send_key(const CallKey& key, int to) {
    keys_sent_.push_back(std::make_unique<Words>(words_of(key)));
    check_mpi(MPI_Isend(keys_sent_.back()->data(), sizeof(Words), MPI_BYTE, to, kKeyTag, comm_, &added()), "MPI_Isend");
  }
  void expect_key(const CallKey& key, int from) {
    expected_.push_back({from, words_of(key), std::make_unique<Words>(), MPI_REQUEST_NULL});
    Expected& e = expected_.back();
    check_mpi(MPI_Irecv(e.got->data(), sizeof(Words), MPI_BYTE, from, kKeyTag, comm_, &e.request), "MPI_Irecv");
  }

  /// `what` tells the call and the communicator.
  void wait(const std::string& what) {
    job_.wait([&] { return keys_agree(what) && data_moved(what); }, what);
  }

 private:
  struct Expected {
    int from;
    Words wanted;
    std::unique_ptr<Words> got;  ///< MPI writes to it, so it stays in place
    MPI_Request request;
  };

  MPI_Request& added() { return requests_.emplace_back(MPI_REQUEST_NULL); }

  template <typename Post>
  static void post(int64_t bytes, Post&& one) {
    for (int64_t begin = 0; begin < bytes; begin += kLargestMessage) {
      check_mpi(one(begin, static_cast<int>(std::min(kLargestMessage, bytes - begin))), "posting an MPI message");
    }
  }

  bool keys_agree(const std::string& what) {
    bool all = true;
    for (Expected& e : expected_) {
      if (e.request == MPI_REQUEST_NULL) continue;
      int done = 0;
      check_mpi(MPI_Test(&e.request, &done, MPI_STATUS_IGNORE), what);
      all = all && done != 0;
      if (done == 0 || *e.got == e.wanted) continue;
      const std::string text = str_cat(what, ": the ranks call different collectives: here ", text_of(e.wanted),
                                       ", rank ", e.from, ": ", text_of(*e.got));
      job_.fail(text);
      throw DeviceError(text);
    }
    return all;
  }

  bool data_moved(const std::string& what) {
    int done = 0;
    check_mpi(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE), what);
    return done != 0;
  }

  MpiJob& job_;
  MPI_Comm comm_;
  std::vector<MPI_Request> requests_;
  std::vector<std::unique_ptr<Words>> keys_sent_;
  std::vector<Expected> expected_;
};

class MpiComm final : public Comm {
 public:
  MpiComm(std::shared_ptr<MpiJob> job, MPI_Comm comm, std::string name)
      : job_(std::move(job)), comm_(comm), name_(std::move(name)) {
    check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  ~MpiComm() override {
    if (!job_->failed()) MPI_Comm_free(&comm_);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const std::string& name() const override { return name_; }

  void run(const CommCall& call) override {
    if (job_->failed()) job_->check_alive();
    const std::string what = str_cat(describe(call), " over ", name_, " (rank ", rank_, " of ", size_, ")");
    switch (call.op) {
      case CommOp::kAllReduce:
        return all_reduce_blocks(call, what);
      case CommOp::kReduceScatter: {
        const std::vector<int64_t> counts(call.send_counts, call.send_counts + size_);
        return reduce_own_block(call, counts, call.target.data, what);
      }
      case CommOp::kAllGather: {
        Round round(*job_, comm_);
        post_keys(round, call);
        gather_blocks(round, call.source.data, call.target,
                      std::vector<int64_t>(call.receive_counts, call.receive_counts + size_));
        return round.wait(what);
      }
      case CommOp::kAllToAll:
        return send_blocks(call, what);
      case CommOp::kBroadcast:
        return broadcast_from_root(call, what);
      case CommOp::kExchange:
        return transfer(call, what);
      case CommOp::kBarrier: {
        MPI_Request request;
        check_mpi(MPI_Ibarrier(comm_, &request), what);
        return job_->wait(
            [&] {
              int done = 0;
              check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), what);
              return done != 0;
            },
            what);
      }
    }
  }

  std::unique_ptr<Comm> split(int colour, int key, const std::string& name) override {
    MEGATRON_CHECK(colour >= 0, "the colour of a split is negative");
    run(CommCall{});  // a barrier that can time out, before the call that cannot
    MPI_Comm part = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(comm_, colour, key, &part), str_cat("split of ", name_, " into ", name));
    return std::make_unique<MpiComm>(job_, part, name);
  }

 private:
  void post_keys(Round& round, const CommCall& call) {
    for_peers([&](int r) { round.expect_key(receiving_key(call, r), r); });
    for_peers([&](int r) { round.send_key(sending_key(call, r), r); });
  }

  /// Starts with the next rank, so that not all talk to rank 0 first.
  template <typename Body>
  void for_peers(Body&& body) const {
    for (int i = 1; i < size_; ++i) body((rank_ + i) % size_);
  }

  static void copy(void* to, const void* from, int64_t bytes) {
    if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
  }

  static std::vector<int64_t> offsets_of(const std::vector<int64_t>& counts, DType dtype) {
    std::vector<int64_t> offsets(counts.size() + 1, 0);
    for (size_t r = 0; r < counts.size(); ++r) offsets[r + 1] = offsets[r] + counts[r] * size_of(dtype);
    return offsets;
  }

  /// Everybody's block to everybody; the own one goes from `mine` to its place.
  void gather_blocks(Round& round, const void* mine, const Tensor& target, const std::vector<int64_t>& counts) {
    const std::vector<int64_t> offsets = offsets_of(counts, target.dtype);
    auto* out = static_cast<std::byte*>(target.data);
    const auto bytes = [&](int r) { return counts[static_cast<size_t>(r)] * size_of(target.dtype); };
    for_peers([&](int r) { round.receive(out + offsets[static_cast<size_t>(r)], bytes(r), r); });
    for_peers([&](int r) { round.send(mine, bytes(rank_), r); });
    copy(out + offsets[static_cast<size_t>(rank_)], mine, bytes(rank_));
  }

  /// Block r of the source goes to rank r, which reduces what it gets in rank order into `out`. `out` may be this
  /// rank's block of the source.
  void reduce_own_block(const CommCall& call, const std::vector<int64_t>& counts, void* out, const std::string& what) {
    const DType dtype = call.source.dtype;
    const std::vector<int64_t> offsets = offsets_of(counts, dtype);
    const auto* source = static_cast<const std::byte*>(call.source.data);
    const auto me = static_cast<size_t>(rank_);
    const int64_t bytes = counts[me] * size_of(dtype);
    scratch_.resize(std::max(scratch_.size(), static_cast<size_t>(bytes * size_)));
    Round round(*job_, comm_);
    post_keys(round, call);
    for_peers([&](int r) { round.receive(scratch_.data() + r * bytes, bytes, r); });
    for_peers([&](int r) {
      const auto i = static_cast<size_t>(r);
      round.send(source + offsets[i], counts[i] * size_of(dtype), r);
    });
    round.wait(what);
    std::vector<const void*> sources;
    for (int r = 0; r < size_; ++r) sources.push_back(r == rank_ ? source + offsets[me] : scratch_.data() + r * bytes);
    if (counts[me] > 0) reduce_in_rank_order(call.reduction, dtype, sources, out, counts[me]);
  }

  void all_reduce_blocks(const CommCall& call, const std::string& what) {
    std::vector<int64_t> counts;
    for (int r = 0; r < size_; ++r) counts.push_back(block_of(call.source.numel(), size_, r).size);
    auto* own = static_cast<std::byte*>(call.target.data) +
                block_of(call.source.numel(), size_, rank_).begin * size_of(call.source.dtype);
    reduce_own_block(call, counts, own, what);
    Round round(*job_, comm_);
    gather_blocks(round, own, call.target, counts);
    round.wait(what);
  }

  void send_blocks(const CommCall& call, const std::string& what) {
    const int64_t size = size_of(call.source.dtype);
    const std::vector<int64_t> sent(call.send_counts, call.send_counts + size_);
    const std::vector<int64_t> got(call.receive_counts, call.receive_counts + size_);
    const std::vector<int64_t> from = offsets_of(sent, call.source.dtype), to = offsets_of(got, call.source.dtype);
    const auto* source = static_cast<const std::byte*>(call.source.data);
    auto* target = static_cast<std::byte*>(call.target.data);
    const auto i = [](int r) { return static_cast<size_t>(r); };
    Round round(*job_, comm_);
    post_keys(round, call);
    for_peers([&](int r) { round.receive(target + to[i(r)], got[i(r)] * size, r); });
    for_peers([&](int r) { round.send(source + from[i(r)], sent[i(r)] * size, r); });
    copy(target + to[i(rank_)], source + from[i(rank_)], sent[i(rank_)] * size);
    round.wait(what);
  }

  void broadcast_from_root(const CommCall& call, const std::string& what) {
    Round round(*job_, comm_);
    if (rank_ == call.from) {
      for_peers([&](int r) {
        round.send_key(sending_key(call, r), r);
        round.send(call.source.data, call.source.bytes(), r);
      });
    } else {
      round.expect_key(receiving_key(call, call.from), call.from);
      round.receive(call.target.data, call.target.bytes(), call.from);
    }
    round.wait(what);
  }

  void transfer(const CommCall& call, const std::string& what) {
    const auto key = [](const Tensor& t) {
      CallKey k;
      k.op = CommOp::kExchange;
      k.dtype = t.dtype;
      k.between = t.numel();
      return k;
    };
    Round round(*job_, comm_);
    if (call.from >= 0) {
      round.expect_key(key(call.target), call.from);
      round.receive(call.target.data, call.target.bytes(), call.from);
    }
    if (call.to >= 0) {
      round.send_key(key(call.source), call.to);
      round.send(call.source.data, call.source.bytes(), call.to);
    }
    round.wait(what);
  }

  std::shared_ptr<MpiJob> job_;
  MPI_Comm comm_;
  std::string name_;
  int rank_ = 0, size_ = 1;
  std::vector<std::byte> scratch_;
};

}  // namespace

std::unique_ptr<Comm> make_mpi_comm(std::shared_ptr<MpiJob> job, MPI_Comm comm, const std::string& name) {
  return std::make_unique<MpiComm>(std::move(job), comm, name);
}

}  // namespace megatron
