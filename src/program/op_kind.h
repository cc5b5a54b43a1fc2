// What an operation declares about itself. One class per kind, in kernels/<op>/; its attributes are its members.
// Everything else (inference, gradients, memory, cost, checks, printing) is derived from these declarations.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "device/device.h"
#include "program/program.h"

namespace megatron {

class BackwardContext;
class Comm;
class ThreadPool;
struct PlannedCall;

/// Types of the operands; nullptr for an absent one.
using Operands = std::vector<const ValueInfo*>;

struct ResultType {
  std::string letters;  ///< one letter per dimension, e.g. "sbn"
  DType dtype = DType::kF32;
};

/// Index notation of a kind, as in "sbk,nk->sbn". Letters bind to global sizes; a letter that stands in two operands
/// must have one size. The placement of the results follows by the rule of infer_by_signature().
struct Signature {
  std::vector<std::string> operands;  ///< "" for a scalar, and for an absent operand
  std::vector<ResultType> results;
  std::string whole;                            ///< letters that no mesh axis may shard
  std::vector<std::vector<int>> linear;         ///< groups of operands in which all results are linear
  std::vector<std::pair<char, int64_t>> sizes;  ///< sizes of letters that no operand binds
};

/// Builds a Signature from "sbk,nk->sbn" with all results of one dtype (set others afterwards).
Signature parse_signature(const std::string& text, DType result_dtype);

/// Work of one execution on this rank.
struct Cost {
  double flops = 0;       ///< multiply-adds count two
  double bytes = 0;       ///< device memory read and written at the least
  double wire_bytes = 0;  ///< sent per rank (planned_call.h)
};

/// A rank's place in a communicator.
struct CommPlace {
  int rank = 0, ranks = 0;  ///< 0 ranks: not known
};

/// What a kernel gets. Tensors are local; an absent operand or an unread result has no data. Where accumulate[i] is set
/// the kernel adds to result i (which holds the earlier value) instead of overwriting it.
struct RunContext {
  std::span<const Tensor> operands, results;
  std::span<const uint8_t> accumulate;
  std::span<const Dims> operand_origins, result_origins;  ///< global index of each local tensor's first element
  void* workspace = nullptr;                              ///< as many bytes as workspace() said, aligned to 256
  ThreadPool* pool = nullptr;                             ///< CPU only
  void* stream = nullptr;                                 ///< CUDA only: cudaStream_t
  Comm* comm = nullptr;                                   ///< collectives only: of the kind's mesh axis

  // Where the context holds shapes alone:
  CommPlace place;                  ///< in the communicator that `comm` will be
  std::span<const uint8_t> unread;  ///< results that will have no data; empty: all will

  const Tensor& in(int i) const { return operands[static_cast<size_t>(i)]; }
  const Tensor& out(int i) const { return results[static_cast<size_t>(i)]; }
  bool is_unread(int i) const { return !unread.empty() && unread[static_cast<size_t>(i)] != 0; }
  bool adds(int i) const { return accumulate[static_cast<size_t>(i)] != 0; }
  const Dims& in_origin(int i) const { return operand_origins[static_cast<size_t>(i)]; }
  const Dims& out_origin(int i) const { return result_origins[static_cast<size_t>(i)]; }
};

class OpKind {
 public:
  virtual ~OpKind() = default;
  /// Kind name, e.g. "rmsnorm_backward".
  virtual std::string name() const = 0;
  /// Attributes for printing, e.g. "eps=1e-05".
  virtual std::string attributes() const { return ""; }
  /// One word: operations of one class take times that follow from FLOPs and bytes alone.
  virtual std::string speed_class(const RunContext& /*shapes*/) const { return name(); }

  virtual Signature signature(const Operands& operands) const = 0;
  /// Types of the results. Default: infer_by_signature(). Views and collectives have rules of their own.
  virtual std::vector<ValueInfo> infer(const Operands& operands, const Mesh& mesh) const;
  /// Results are views of operands: nothing runs.
  virtual bool is_view() const { return false; }

  /// May operand i be non-contiguous? (The innermost dimension always has stride 1 unless innermost_strided.)
  virtual bool takes_strided(int) const { return false; }
  /// May result i be written non-contiguously (so that a join needs no copy)?
  virtual bool gives_strided(int) const { return false; }
  /// Can the kernel add to result i?
  virtual bool accumulates(int) const { return false; }
  /// Operand whose memory result i may take over, or kNone. Element-wise kernels only.
  virtual int overwrites(int) const { return kNone; }
  /// Operands (state) that the kernel changes in place. Such an op is never removed or re-emitted.
  virtual std::vector<int> updates() const { return {}; }
  /// Only makes parameter gradients: may move to phase W.
  virtual bool is_weight_gradient() const { return false; }
  /// The mesh axis the kernel communicates over, or "".
  virtual std::string comm_axis() const { return ""; }
  /// The collectives of one execution over comm_axis(), in order: the same on all ranks but for sizes of blocks. The
  /// number of them may depend on the device, the bytes may not. Kinds with an axis declare it.
  virtual std::vector<PlannedCall> calls(const RunContext& shapes, DeviceKind device) const;

  /// Emits the operations of the gradient. The default refuses: not differentiable.
  virtual void backward(BackwardContext& context) const;
  /// From local shapes (tensors without data).
  virtual Cost cost(const RunContext& shapes) const;
  virtual int64_t workspace(const RunContext& shapes, DeviceKind device) const;

  virtual void run_cpu(const RunContext& context) const;
  virtual void run_cuda(const RunContext& context) const;
};

/// The placement rule of the design, per mesh axis: (a) sharded operands must all be sharded on one and the same
/// letter, every operand that has the letter must be, and none may be partial: a result is S if it has the letter, else
/// P; an error if the letter is `whole`; (b) nothing sharded: partial operands must be exactly one linear group,
/// results P; (c) else R. (d) Element-wise operations also take operands that are all flat: results are flat. Throws
/// PlacementError with the reason.
std::vector<ValueInfo> infer_by_signature(const Signature& signature, const Operands& operands, const Mesh& mesh);

/// What inference throws; Trace::emit adds module, operands and origin.
struct PlacementError {
  std::string reason;
  std::string remedy;
};

}  // namespace megatron
