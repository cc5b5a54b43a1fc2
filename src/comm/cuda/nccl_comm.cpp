// Collectives over NCCL for tensors in GPU memory. Everything is put on the stream of the call and nothing waits for
// it, so that calls can be captured into a CUDA graph.
#include <cuda_runtime.h>

#include <cstring>
#include <exception>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/strings.h"
#include "comm/cuda/nccl_library.h"
#include "comm/mesh_comms.h"
#include "device/cuda_check.h"

namespace megatron {
namespace {

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return ncclFloat64;
    case DType::kF32:
      return ncclFloat32;
    case DType::kBF16:
      return ncclBfloat16;
    case DType::kF16:
      return ncclFloat16;
    case DType::kI64:
      return ncclInt64;
    case DType::kI32:
      return ncclInt32;
    case DType::kU8:
      return ncclUint8;
  }
  fail_check(__FILE__, __LINE__, "dtype", "NCCL has no such type");
}

/// The same counts everywhere: one NCCL collective does it.
bool is_even(const int64_t* counts, int ranks) {
  for (int r = 1; r < ranks; ++r) {
    if (counts[r] != counts[0]) return false;
  }
  return true;
}

class NcclComm final : public Comm {
 public:
  NcclComm(ncclComm_t comm, int rank, int size, std::string name)
      : exceptions_(std::uncaught_exceptions()), comm_(comm), rank_(rank), size_(size), name_(std::move(name)) {
    check_cuda(cudaMalloc(&barrier_, sizeof(float)), "memory of a communicator");
    check_cuda(cudaMemset(barrier_, 0, sizeof(float)), "memory of a communicator");
  }
  ~NcclComm() override {
    // After an error the other ranks may be gone: an orderly end would wait for them.
    if (std::uncaught_exceptions() > exceptions_) {
      nccl().abort(comm_);
    } else {
      nccl().destroy(comm_);
    }
    cudaFree(barrier_);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const std::string& name() const override { return name_; }

  void run(const CommCall& call) override {
    const NcclLibrary& n = nccl();
    const auto count = static_cast<size_t>(call.source.numel());
    const ncclDataType_t type = type_of(call.source.dtype);
    const ncclRedOp_t reduction = call.reduction == Reduction::kMax ? ncclMax : ncclSum;
    const auto stream = static_cast<cudaStream_t>(call.stream);
    switch (call.op) {
      case CommOp::kAllReduce:
        return check(n.all_reduce(call.source.data, call.target.data, count, type, reduction, comm_, stream), call);
      case CommOp::kAllGather:
        if (!is_even(call.receive_counts, size_)) return gather_blocks(call);
        return check(n.all_gather(call.source.data, call.target.data, count, type, comm_, stream), call);
      case CommOp::kReduceScatter:
        if (!is_even(call.send_counts, size_)) return reduce_blocks(call, reduction);
        return check(n.reduce_scatter(call.source.data, call.target.data, static_cast<size_t>(call.target.numel()),
                                      type, reduction, comm_, stream),
                     call);
      case CommOp::kAllToAll:
        return send_blocks(call);
      case CommOp::kBroadcast:
        return check(n.broadcast(call.source.data, call.target.data, count, type, call.from, comm_, stream), call);
      case CommOp::kExchange:
        return transfer(call);
      case CommOp::kBarrier:
        check(n.all_reduce(barrier_, barrier_, 1, ncclFloat32, ncclSum, comm_, stream), call);
        return check_cuda(cudaStreamSynchronize(stream), "barrier");
    }
  }

  /// Everything between start and end of a group goes out as one launch; groups nest.
  void run_group(std::span<const CommCall> calls) override {
    if (calls.empty()) return;
    check(nccl().group_start(), calls.front());
    for (const CommCall& call : calls) run(call);
    check(nccl().group_end(), calls.back());
  }

  std::unique_ptr<Comm> split(int colour, int key, const std::string& name) override {
    MEGATRON_CHECK(colour >= 0, "the colour of a split is negative");
    ncclComm_t part = nullptr;
    check_nccl(nccl().split(comm_, colour, key, &part, nullptr), comm_,
               str_cat("split of ", name_, " into ", name, " (rank ", rank_, " of ", size_, ")"));
    int rank = 0, size = 1;
    check_nccl(nccl().user_rank(part, &rank), part, "split of " + name_);
    check_nccl(nccl().count(part, &size), part, "split of " + name_);
    return std::make_unique<NcclComm>(part, rank, size, name);
  }

 private:
  void check(ncclResult_t result, const CommCall& call) const {
    if (result == ncclSuccess) return;
    check_nccl(result, comm_, str_cat(describe(call), " over ", name_, " (rank ", rank_, " of ", size_, ")"));
  }

  /// Calls body(r, offset of block r in bytes, elements) for every block with elements, as one launch.
  template <typename Body>
  void for_blocks(const CommCall& call, const int64_t* counts, Body&& body) {
    check(nccl().group_start(), call);
    int64_t offset = 0;
    for (int r = 0; r < size_; ++r) {
      if (counts[r] > 0) check(body(r, offset, static_cast<size_t>(counts[r])), call);
      offset += counts[r] * size_of(call.source.dtype);
    }
    check(nccl().group_end(), call);
  }

  void gather_blocks(const CommCall& call) {
    auto* out = static_cast<std::byte*>(call.target.data);
    for_blocks(call, call.receive_counts, [&](int r, int64_t offset, size_t count) {
      return nccl().broadcast(call.source.data, out + offset, count, type_of(call.source.dtype), r, comm_,
                              static_cast<cudaStream_t>(call.stream));
    });
  }

  void reduce_blocks(const CommCall& call, ncclRedOp_t reduction) {
    const auto* in = static_cast<const std::byte*>(call.source.data);
    for_blocks(call, call.send_counts, [&](int r, int64_t offset, size_t count) {
      return nccl().reduce(in + offset, call.target.data, count, type_of(call.source.dtype), reduction, r, comm_,
                           static_cast<cudaStream_t>(call.stream));
    });
  }

  void send_blocks(const CommCall& call) {
    const ncclDataType_t type = type_of(call.source.dtype);
    const auto stream = static_cast<cudaStream_t>(call.stream);
    const auto* in = static_cast<const std::byte*>(call.source.data);
    auto* out = static_cast<std::byte*>(call.target.data);
    check(nccl().group_start(), call);
    for (int r = 0; r < size_; ++r) {
      const auto sent = static_cast<size_t>(call.send_counts[r]), got = static_cast<size_t>(call.receive_counts[r]);
      if (sent > 0) check(nccl().send(in, sent, type, r, comm_, stream), call);
      if (got > 0) check(nccl().receive(out, got, type, r, comm_, stream), call);
      in += call.send_counts[r] * size_of(call.source.dtype);
      out += call.receive_counts[r] * size_of(call.source.dtype);
    }
    check(nccl().group_end(), call);
  }

  void transfer(const CommCall& call) {
    const auto stream = static_cast<cudaStream_t>(call.stream);
    const auto count = [](const Tensor& t) { return static_cast<size_t>(t.numel()); };
    check(nccl().group_start(), call);
    if (call.to >= 0 && count(call.source) > 0) {
      check(nccl().send(call.source.data, count(call.source), type_of(call.source.dtype), call.to, comm_, stream),
            call);
    }
    if (call.from >= 0 && count(call.target) > 0) {
      check(nccl().receive(call.target.data, count(call.target), type_of(call.target.dtype), call.from, comm_, stream),
            call);
    }
    check(nccl().group_end(), call);
  }

  int exceptions_;
  ncclComm_t comm_;
  int rank_, size_;
  std::string name_;
  void* barrier_ = nullptr;  ///< one number, all-reduced
};

}  // namespace

std::unique_ptr<Comm> make_nccl_comm(World& world, const std::string& name) {
  const NcclLibrary& n = nccl();
  ncclUniqueId id{};
  if (world.rank() == 0) check_nccl(n.get_unique_id(&id), nullptr, "ncclGetUniqueId");
  const std::vector<std::string> ids =
      world.gather(world.rank() == 0 ? std::string(id.internal, sizeof id.internal) : "");
  std::memcpy(id.internal, ids[0].data(), sizeof id.internal);
  ncclComm_t comm = nullptr;
  check_nccl(n.init_rank(&comm, world.size(), id, world.rank()), nullptr,
             str_cat("making the communicator of all ranks (", world.label(), " of ", world.size(), ", NCCL ",
                     n.version(), ")"));
  return std::make_unique<NcclComm>(comm, world.rank(), world.size(), name);
}

}  // namespace megatron
