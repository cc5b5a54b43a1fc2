// A training or inference step as data: values, operations, and one list of operations per phase.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tensor/placement.h"
#include "tensor/tensor.h"

namespace megatron {

class OpKind;

using ValueId = int32_t;
using OpId = int32_t;
constexpr int32_t kNone = -1;

/// Handle of a value of the program that is being built. A default Value is "absent": optional operands and gradients
/// that do not exist.
struct Value {
  ValueId id = kNone;
  explicit operator bool() const { return id != kNone; }
  bool operator==(const Value&) const = default;
};

enum class Lifetime : uint8_t {
  kActivation,  ///< made and used within one micro-batch
  kParameter,   ///< trained weight; persistent, shared between programs by name
  kState,       ///< other persistent memory, by name: gradients, optimizer state, caches, sums of losses
  kInput,       ///< written by the host before a phase runs, one per slot set
  kReceived,    ///< written by another rank before a phase runs: boundaries of pipeline stages, one per slot set
};

/// Where a value lies: in the memory of the value `root`, at `offset` with `strides` (elements of the local shape).
struct Storage {
  ValueId root = kNone;
  int64_t offset = 0;
  Dims strides;
};

/// What is known of a value: the type (dtype, global shape, placement), lifetime and storage.
struct ValueInfo {
  std::string name;
  DType dtype = DType::kF32;
  Dims shape;           ///< global
  Placement placement;  ///< per mesh axis
  Lifetime lifetime = Lifetime::kActivation;
  Storage storage;
  OpId producer = kNone;
  OpId partial_origin = kNone;  ///< the op that made the value partial
  int sample_dim = -1;          ///< dimension that counts the samples of the micro-batch, if there is one
};

enum class Phase : uint8_t { kForward, kBackward, kWeightGradient };
constexpr int kPhases = 3;
/// "F", "B", "W".
const char* name_of(Phase phase);

/// Streams of a device: arithmetic, and communication beside it.
enum class Stream : uint8_t { kCompute, kComm };

/// One operation. `operands` may hold kNone for absent ones. accumulate[i] names a value v such that result i is
/// v + (what the kind computes); kNone: the result is overwritten.
struct Op {
  std::shared_ptr<const OpKind> kind;
  std::vector<ValueId> operands, results, accumulate;
  std::string scope;  ///< module path, e.g. "decoder.layers.3.mlp"
  Stream stream = Stream::kCompute;
  OpId recompute_of = kNone;
  /// Runs once per step only: in F of the first micro-batch, in B or W of the last.
  bool edge = false;
};

/// How a parameter starts. Numbers are keyed by (seed, name, global element index): independent of the mesh.
struct Init {
  enum class Kind : uint8_t { kConstant, kNormal, kXavierUniform } kind = Kind::kConstant;
  double value = 0.0;               ///< constant, or standard deviation
  int64_t fan_in = 0, fan_out = 0;  ///< Xavier: U(-a, a) with a = sqrt(6 / (fan_in + fan_out))
  int64_t valid_rows = -1;          ///< rows of dimension 0 from here on are zero (padding of the vocabulary)

  static Init constant(double value) { return {Kind::kConstant, value, 0, 0, -1}; }
  static Init normal(double deviation) { return {Kind::kNormal, deviation, 0, 0, -1}; }
  static Init xavier_uniform(int64_t fan_in, int64_t fan_out) { return {Kind::kXavierUniform, 0, fan_in, fan_out, -1}; }
};

struct ParameterInfo {
  ValueId value = kNone;
  ValueId gradient = kNone;  ///< fp32 (fp64) state, made by differentiate()
  Init init;
  std::string sum_group = {};  ///< other stages hold the same parameter: the communicator that sums its gradient
  bool owner = true;           ///< of those stages this one counts it in the norm and writes it to checkpoints
};

/// Where the program ends and that of another pipeline stage goes on. Both stages name and type the value alike.
struct Boundary {
  std::string name;
  ValueId value = kNone;     ///< of lifetime kReceived, or an activation that is an output
  ValueId gradient = kNone;  ///< made by differentiate(): an output, or of lifetime kReceived; named "gradient/<name>"
};

/// A scalar whose derivative is wanted; `seed` is dL/d(value), a device scalar known before the first forward.
struct Loss {
  ValueId value = kNone, seed = kNone;
};

struct NamedValue {
  std::string name;
  ValueId value = kNone;
};

struct Program {
  std::string name;
  Mesh mesh;
  std::vector<ValueInfo> values;
  std::vector<Op> ops;
  std::array<std::vector<OpId>, kPhases> lists;
  std::vector<ParameterInfo> parameters;
  std::vector<Loss> losses;
  std::vector<Boundary> received;          ///< values that come from the stage before
  std::vector<Boundary> sent;              ///< values that go to the stage behind
  std::vector<MeshAxis> groups;            ///< communicators beyond the mesh's axes: of pipeline stages
  std::vector<NamedValue> outputs;         ///< kept until the slot set is used again, readable by the host
  std::map<std::string, ValueId> by_name;  ///< parameters, states and inputs

  const ValueInfo& value(ValueId id) const { return values[static_cast<size_t>(id)]; }
  ValueInfo& value(ValueId id) { return values[static_cast<size_t>(id)]; }
  const Op& op(OpId id) const { return ops[static_cast<size_t>(id)]; }
  Op& op(OpId id) { return ops[static_cast<size_t>(id)]; }
  std::vector<OpId>& list(Phase phase) { return lists[static_cast<size_t>(phase)]; }
  const std::vector<OpId>& list(Phase phase) const { return lists[static_cast<size_t>(phase)]; }

  /// Extents that this rank holds of a value.
  Dims local_shape(ValueId id) const { return megatron::local_shape(value(id).shape, value(id).placement, mesh); }
  /// Bytes of this rank's part when laid out contiguously.
  int64_t local_bytes(ValueId id) const { return local_shape(id).numel() * size_of(value(id).dtype); }
  /// A persistent value that lies in the memory of another one (Trace::alias).
  bool is_alias(ValueId id) const { return value(id).storage.root != id; }
  /// Name for people: the given name, or %id.
  std::string label(ValueId id) const;
  /// "bf16[128, 4, 512] tp:S(2)".
  std::string type_text(ValueId id) const;
};

}  // namespace megatron
