#include "comm/cuda/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>

#include "base/error.h"
#include "base/strings.h"

namespace megatron {
namespace {

template <typename Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) throw DeviceError(str_cat("libnccl.so.2 has no ", name, ": it is older than NCCL 2.18"));
}

NcclLibrary load() {
  setenv("NCCL_NVLS_ENABLE", "0", 0);
  void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw DeviceError(
        str_cat("ranks on GPUs need NCCL: ", dlerror(), "; install libnccl2, or put its folder into LD_LIBRARY_PATH"));
  }
  NcclLibrary n{};
  find(library, "ncclGetVersion", n.get_version);
  find(library, "ncclGetUniqueId", n.get_unique_id);
  find(library, "ncclCommInitRank", n.init_rank);
  find(library, "ncclCommSplit", n.split);
  find(library, "ncclCommUserRank", n.user_rank);
  find(library, "ncclCommCount", n.count);
  find(library, "ncclCommDestroy", n.destroy);
  find(library, "ncclCommAbort", n.abort);
  find(library, "ncclCommGetAsyncError", n.get_async_error);
  find(library, "ncclGetErrorString", n.error_string);
  find(library, "ncclGetLastError", n.last_error);
  find(library, "ncclAllReduce", n.all_reduce);
  find(library, "ncclAllGather", n.all_gather);
  find(library, "ncclReduceScatter", n.reduce_scatter);
  find(library, "ncclBroadcast", n.broadcast);
  find(library, "ncclReduce", n.reduce);
  find(library, "ncclSend", n.send);
  find(library, "ncclRecv", n.receive);
  find(library, "ncclGroupStart", n.group_start);
  find(library, "ncclGroupEnd", n.group_end);
  return n;
}

}  // namespace

std::string NcclLibrary::version() const {
  int v = 0;
  if (get_version(&v) != ncclSuccess) return "unknown";
  return str_cat(v / 10000, ".", v / 100 % 100, ".", v % 100);
}

const NcclLibrary& nccl() {
  static const NcclLibrary library = load();
  return library;
}

void check_nccl(ncclResult_t result, ncclComm_t comm, const std::string& what) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  const char* more = nccl().last_error(comm);
  throw DeviceError(str_cat(what, ": NCCL: ", nccl().error_string(result), more != nullptr && *more != '\0' ? ": " : "",
                            more != nullptr ? more : ""));
}

}  // namespace megatron
