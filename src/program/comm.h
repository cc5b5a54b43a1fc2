// The abstract communicator that the run context carries: one per mesh axis. Implementations live in src/comm.
//
// A collective is data (CommCall), so that checking, recording and every backend see one and the same description; the
// member functions below fill it in. All ranks of a communicator make the same calls in the same order. Tensors are
// contiguous and lie in host memory (backends `thread`, `mpi`) or in GPU memory (`nccl`, which orders the work on
// `stream`, a cudaStream_t, and does not wait for it). Source and target may be the same memory where this says
// "in place". Sums over floating types run in rank order in the accumulator type on the host backends, so `thread` and
// `mpi` give the same bits; NCCL's order is fixed by its algorithm and topology.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "tensor/tensor.h"

namespace megatron {

enum class CommOp : uint8_t { kAllReduce, kAllGather, kReduceScatter, kAllToAll, kBroadcast, kExchange, kBarrier };
enum class Reduction : uint8_t { kSum, kMax };

/// One collective as one rank calls it. Counts are elements, one per rank; they are read during the call only.
struct CommCall {
  CommOp op = CommOp::kBarrier;
  Reduction reduction = Reduction::kSum;
  Tensor source, target;
  const int64_t* send_counts = nullptr;     ///< kReduceScatter: of the blocks; kAllToAll: to each rank
  const int64_t* receive_counts = nullptr;  ///< kAllGather: of the blocks; kAllToAll: from each rank
  int to = -1;                              ///< kExchange: receiver of `source`, -1 for none
  int from = -1;                            ///< kExchange: sender of `target`, -1 for none; kBroadcast: the root
  void* stream = nullptr;
};

/// "all_reduce(max) of 12 fp32", "exchange of 4 bf16 to 1, 4 bf16 from 2".
std::string describe(const CommCall& call);

class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Mesh axis, for messages: "tp", "world".
  virtual const std::string& name() const = 0;
  /// Carries out a call. DeviceError, naming the call and the axis: a rank failed, ranks called different things, the
  /// library failed.
  virtual void run(const CommCall& call) = 0;
  /// Calls that do not depend on each other, in order; a backend may carry them out as one. Default: one by one.
  virtual void run_group(std::span<const CommCall> calls);
  /// A communicator of the ranks that give the same colour (>= 0), ordered by key, then rank. A collective call.
  virtual std::unique_ptr<Comm> split(int colour, int key, const std::string& name) = 0;

  /// target = reduction over the ranks' sources; in place allowed.
  void all_reduce(const Tensor& source, const Tensor& target, Reduction reduction, void* stream);
  void all_reduce(const Tensor& values, Reduction reduction = Reduction::kSum, void* stream = nullptr) {
    all_reduce(values, values, reduction, stream);
  }
  /// `target` holds the concatenation of all ranks' `source` in rank order; pieces may differ in size (uneven blocks):
  /// counts[r] elements from rank r. In place: `source` may be this rank's block of `target`.
  void all_gather(const Tensor& source, const Tensor& target, const int64_t* counts, void* stream = nullptr);
  /// `target` gets this rank's block (counts[r] elements for rank r) of the sum of all ranks' `source`. In place:
  /// `target` may be this rank's block of `source`, whose other blocks stay as they are.
  void reduce_scatter(const Tensor& source, const Tensor& target, const int64_t* counts, void* stream = nullptr,
                      Reduction reduction = Reduction::kSum);
  /// Block r of `source` (send_counts[r] elements) goes to rank r; `target` holds what came, in rank order.
  void all_to_all(const Tensor& source, const Tensor& target, const int64_t* send_counts, const int64_t* receive_counts,
                  void* stream = nullptr);
  /// `values` of `root` become everybody's.
  void broadcast(const Tensor& values, int root, void* stream = nullptr);
  /// May wait until the receiver takes it: two ranks that send to each other use exchange().
  void send(const Tensor& values, int to, void* stream = nullptr);
  void receive(const Tensor& values, int from, void* stream = nullptr);
  /// Sends and receives at the same time; `to` and `from` may be the same rank, or -1 for nothing on that side. Between
  /// two ranks, transfers match in the order of the calls.
  void exchange(const Tensor& source, int to, const Tensor& target, int from, void* stream = nullptr);
  /// Checks the calls and carries them out as one group.
  void run_checked(std::span<const CommCall> calls);
  /// Returns when all ranks are here; on a GPU, when `stream` has come here on all of them.
  void barrier(void* stream = nullptr);

  /// What the next calls are about, for records and messages: the name of a value that outlives them; nullptr for none.
  void set_subject(const std::string* subject) { subject_ = subject; }
  const std::string* subject() const { return subject_; }

 private:
  void check(const CommCall& call) const;
  void checked_run(const CommCall& call);

  const std::string* subject_ = nullptr;
};

}  // namespace megatron
