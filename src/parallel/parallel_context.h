// What a module needs to know of the mesh: where its weights are cut, and which collectives stand at its borders. On
// one rank every call returns its operand, so that module code is the same for any mesh.
#pragma once

#include <string>
#include <vector>

#include "program/trace.h"

namespace megatron {

/// What data-parallel ranks divide among them instead of holding copies (Rajbhandari et al., "ZeRO", SC 2020). Each
/// includes those before.
enum class Sharding : uint8_t { kNothing, kOptimizer, kGradients, kParameters };

/// How data-parallel ranks share a step.
struct DataParallel {
  Sharding sharding = Sharding::kNothing;
  int64_t bucket_elements = 40'000'000;  ///< a collective over gradients or weights is put out once it has so many
  bool overlap_grad_reduce = false;      ///< gradients are summed while the last backward still runs
  bool overlap_param_gather = false;     ///< weights are gathered while the first forward already runs
  bool reduce_in_bf16 = false;           ///< terms of the sums of gradients travel as bf16
};

/// Mesh axes of data parallelism: ranks of the first share what is divided, those of the second, outside of it, hold
/// copies of that.
inline constexpr char kDataAxis[] = "dp", kOuterData[] = "dp_outer";
inline constexpr const char* kDataAxes[] = {kDataAxis, kOuterData};

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
  /// `mesh` holds only the axes with more than one rank.
  ParallelContext(Mesh mesh, bool sequence_parallel, const DataParallel& data = {})
      : mesh_(std::move(mesh)), sequence_parallel_(sequence_parallel), data_(data) {}
  /// The same with the collectives of tensor-parallel regions in `pieces` of the sequence (fewer where they do not
  /// divide it), for split_products().
  ParallelContext in_pieces(int64_t pieces) const {
    ParallelContext other = *this;
    other.pieces_ = pieces;
    return other;
  }
  /// The same with attention over context ranks of kind `cp_comm_type` (section `parallel`).
  ParallelContext with_context(std::string cp_comm_type) const {
    ParallelContext other = *this;
    other.cp_comm_type_ = std::move(cp_comm_type);
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
  /// The communicators of stages that operations of this rank use: pp, and that of the ends on one of them.
  std::vector<MeshAxis> groups_of_stages() const;
  /// Ranks along tp.
  int64_t tp_size() const { return mesh_.find("tp") < 0 ? 1 : mesh_.axes[static_cast<size_t>(mesh_.find("tp"))].size; }
  const DataParallel& data() const { return data_; }
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

  /// Declares a parameter, cut as `placement` says, and gives it as a module uses it: whole over dp, with a gradient
  /// that is reduced to this rank's block where gradients are shared.
  Value parameter(Trace& t, const std::string& name, DType dtype, const Dims& shape, Placement placement,
                  const Init& init) const;

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
  DataParallel data_;
  std::string cp_comm_type_ = "p2p";
};

/// Ranks that train on different samples, and the place of this rank among them.
int64_t data_parallel_size(const Mesh& mesh);
int64_t data_parallel_rank(const Mesh& mesh);

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
/// The same for weights that data-parallel ranks divide.
bool is_gathered_weight(const Program& program, ValueId v);

}  // namespace megatron
