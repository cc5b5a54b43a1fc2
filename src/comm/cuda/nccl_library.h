// NCCL, loaded when the first communicator is made: a program on one GPU needs no NCCL, and a cluster's own is taken if
// it comes first in the search path.
#pragma once

#include <nccl.h>

#include <string>

namespace megatron {

struct NcclLibrary {
  decltype(&::ncclGetVersion) get_version;
  decltype(&::ncclGetUniqueId) get_unique_id;
  decltype(&::ncclCommInitRank) init_rank;
  decltype(&::ncclCommSplit) split;
  decltype(&::ncclCommUserRank) user_rank;
  decltype(&::ncclCommCount) count;
  decltype(&::ncclCommDestroy) destroy;
  decltype(&::ncclCommAbort) abort;
  decltype(&::ncclCommGetAsyncError) get_async_error;
  decltype(&::ncclGetErrorString) error_string;
  decltype(&::ncclGetLastError) last_error;
  decltype(&::ncclAllReduce) all_reduce;
  decltype(&::ncclAllGather) all_gather;
  decltype(&::ncclReduceScatter) reduce_scatter;
  decltype(&::ncclBroadcast) broadcast;
  decltype(&::ncclReduce) reduce;
  decltype(&::ncclSend) send;
  decltype(&::ncclRecv) receive;
  decltype(&::ncclGroupStart) group_start;
  decltype(&::ncclGroupEnd) group_end;

  /// "2.28.9".
  std::string version() const;
};

/// DeviceError when libnccl.so.2 is not found or too old. Sets NCCL_NVLS_ENABLE=0 (NVLink multicast) unless it is set.
const NcclLibrary& nccl();

/// Throws DeviceError("what: NCCL's text") unless `result` is ncclSuccess.
void check_nccl(ncclResult_t result, ncclComm_t comm, const std::string& what);

}  // namespace megatron
