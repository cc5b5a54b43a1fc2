// What a module needs to know of the mesh: where its weights are cut, and which collectives stand at its borders. On
// one rank every call returns its operand, so that module code is the same for any mesh.
#pragma once

#include <string>
#include <vector>

#include "program/trace.h"

namespace megatron {

class ParallelContext {
 public:
  ParallelContext() = default;
  /// `mesh` holds only the axes with more than one rank.
  ParallelContext(Mesh mesh, bool sequence_parallel) : mesh_(std::move(mesh)), sequence_parallel_(sequence_parallel) {}
  /// The same with the collectives of tensor-parallel regions in `pieces` of the sequence (fewer where they do not
  /// divide it), for split_products().
  ParallelContext in_pieces(int64_t pieces) const {
    ParallelContext other = *this;
    other.pieces_ = pieces;
    return other;
  }

  const Mesh& mesh() const { return mesh_; }
  /// The ranks of the own pipeline stage: what its programs are traced for. The stages run programs of their own, so pp
  /// is no axis of any value.
  ParallelContext within_stage() const;
  /// Number of pipeline stages, and the own one.
  int stages() const;
  int stage() const;
  /// Name of the communicator of the first and the last stage.
  static std::string pipeline_ends();
  /// Ranks along tp.
  int64_t tp_size() const { return mesh_.find("tp") < 0 ? 1 : mesh_.axes[static_cast<size_t>(mesh_.find("tp"))].size; }
  bool sequence_parallel() const { return sequence_parallel_ && mesh_.find("tp") >= 0; }

  /// Replicated everywhere.
  Placement replicated() const { return Placement(mesh_.axes.size()); }
  /// A weight cut over tp along `dim`.
  Placement tp_sharded(int dim) const;
  /// Tokens [s, b]: samples over dp, sequence over cp.
  Placement tokens() const;
  /// Type of the residual stream of S x B tokens between layers: [S, B, C] placed as tokens, and the sequence over tp
  /// under sequence parallelism; in pieces as at gather_in().
  struct StreamType {
    Dims shape;
    Placement placement;
    int sample_dim;
  };
  StreamType stream(int64_t S, int64_t B, int64_t C) const;
  /// Per sample [b]: over dp.
  Placement samples() const;

  /// Before column-parallel work: all_gather of the sequence (sequence parallel), else enter. Under sequence
  /// parallelism with pieces the residual stream is [pieces, S / pieces, B, C], cut over tp on dimension 1: rank r has
  /// the r-th block of every piece, so that a gathered piece is a run of rows of [S, B, C], and a piece to be reduced
  /// too.
  Value gather_in(Trace& t, Value x) const;
  /// Indices or positions [S, ...] as the residual stream is placed: this rank's block of S under sequence parallelism.
  Value to_stream(Trace& t, Value x) const;
  /// After row-parallel work: reduce_scatter over the sequence (sequence parallel), else all_reduce.
  Value reduce_out(Trace& t, Value x) const;
  /// A value cut over tp on dimension 0, whole on every rank.
  Value gather_out(Trace& t, Value x) const;

 private:
  Mesh mesh_;
  /// Is the residual stream in pieces?
  bool striped() const { return sequence_parallel() && pieces_ > 1; }
  /// How many pieces a sequence of `rows` is cut into.
  int64_t count_pieces(int64_t rows) const;
  /// x [S, ...] as views of its pieces.
  std::vector<Value> pieces_of(Trace& t, Value x) const;
  /// Pieces [n, ...], cut on dimension 0, as a residual stream.
  static Value stream_of(Trace& t, const std::vector<Value>& pieces);

  bool sequence_parallel_ = false;
  int64_t pieces_ = 1;
};

/// Cuts the products beside collectives that come in pieces: piece j is gathered while piece j - 1 is multiplied, and
/// reduced while piece j + 1 is. Weight gradients stay whole: they overlap with the collectives around them as they
/// are. Returns how many products were cut.
int split_products(Program& program);

/// The sum over the ranks of every axis that x is partial over: what a gradient or a sum needs before it is used once
/// per step. x itself where it is partial over none.
Value reduce_partial(Trace& t, Value x);

/// True for what an all_gather made: with recompute(), sequence parallelism keeps this rank's tokens alone and gathers
/// the inputs of column-parallel layers again in the backward (Korthikanti et al., arXiv:2205.05198, section 4.2.2).
bool is_gathered(const Program& program, ValueId v);

}  // namespace megatron
