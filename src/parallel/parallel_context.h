// What a module needs to know of the mesh: where its weights are cut, and which collectives stand at its borders. On
// one rank every call returns its operand, so that module code is the same for any mesh.
#pragma once

#include <string>
#include <vector>

#include "program/trace.h"

namespace megatron {

/// Mesh axes of context parallelism: "cp", or with cp_comm_type a2a+p2p the two that it is made of, the first inside.
inline constexpr const char* kContextAxes[] = {"cp", "cp_a2a", "cp_p2p"};

/// How attention reaches the keys of the ranks that share its sequences.
struct ContextExchange {
  std::string heads_axis;  ///< axis over which heads are scattered and the sequence gathered; "": none
  std::string keys_axis;   ///< axis over which queries stay where they are; "": none
  bool gathers = false;    ///< over keys_axis keys and values are gathered, else passed around
};

class ParallelContext {
 public:
  ParallelContext() = default;
  /// `mesh` holds only the axes with more than one rank; `cp_comm_type` is that of section `parallel`.
  ParallelContext(Mesh mesh, bool sequence_parallel, std::string cp_comm_type = "p2p")
      : mesh_(std::move(mesh)), sequence_parallel_(sequence_parallel), cp_comm_type_(std::move(cp_comm_type)) {}

  const Mesh& mesh() const { return mesh_; }
  /// Ranks along tp.
  int64_t tp_size() const { return mesh_.find("tp") < 0 ? 1 : mesh_.axes[static_cast<size_t>(mesh_.find("tp"))].size; }
  /// Ranks that share a sequence, and this one's place among them: it holds part context_rank() (base/zigzag.h).
  int64_t context_size() const;
  int64_t context_rank() const;
  ContextExchange context_exchange() const;
  bool sequence_parallel() const { return sequence_parallel_ && mesh_.find("tp") >= 0; }

  /// Replicated everywhere.
  Placement replicated() const { return Placement(mesh_.axes.size()); }
  /// A weight cut over tp along `dim`.
  Placement tp_sharded(int dim) const;
  /// Tokens [s, b]: samples over dp, sequence over cp.
  Placement tokens() const;
  /// Per sample [b]: over dp.
  Placement samples() const;

  /// Before column-parallel work: all_gather of the sequence (sequence parallel), else enter.
  Value gather_in(Trace& t, Value x) const;
  /// Indices or positions [S, ...] as the residual stream is placed: this rank's block of S under sequence parallelism.
  Value to_stream(Trace& t, Value x) const;
  /// After row-parallel work: reduce_scatter over the sequence (sequence parallel), else all_reduce.
  Value reduce_out(Trace& t, Value x) const;
  /// A value cut over tp on dimension 0, whole on every rank.
  Value gather_out(Trace& t, Value x) const;
  /// A part of the sequence, contiguous on dimension 0, from every rank of context axis `axis`: theirs one after the
  /// other.
  Value gather_sequence(Trace& t, Value x, const std::string& axis) const;
  /// Every rank of `axis` gets the values of the rank before it, and gives its own to the next.
  std::vector<Value> pass_on(Trace& t, const std::vector<Value>& values, const std::string& axis) const;
  /// x [S, B, G, ...] from a part of S with this tensor rank's groups to all of S with a part of these, and back.
  Value heads_for_sequence(Trace& t, Value x, const std::string& axis) const;
  Value sequence_for_heads(Trace& t, Value x, const std::string& axis) const;

 private:
  Mesh mesh_;
  bool sequence_parallel_ = false;
  std::string cp_comm_type_ = "p2p";
};

/// The sum over the ranks of every axis that x is partial over: what a gradient or a sum needs before it is used once
/// per step. x itself where it is partial over none.
Value reduce_partial(Trace& t, Value x);

/// True for what an all_gather made: with recompute(), sequence parallelism keeps this rank's tokens alone and gathers
/// the inputs of column-parallel layers again in the backward (Korthikanti et al., arXiv:2205.05198, section 4.2.2).
bool is_gathered(const Program& program, ValueId v);

}  // namespace megatron
