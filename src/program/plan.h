// The memory plan: every byte that a program needs, decided before anything is allocated.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "device/device.h"
#include "program/op_kind.h"
#include "program/program.h"

namespace megatron {

/// Which memory a root lies in.
enum class Region : uint8_t {
  kPersistent,  ///< parameters and state, shared between programs by name
  kInput,       ///< written by the host; one copy per slot set
  kSlot,        ///< crosses phases or is an output; one copy per slot set
  kTransient,   ///< lives within one phase; shared by all slot sets
};

/// Place of one root value, or of an operation's workspace.
struct Slot {
  Region region = Region::kTransient;
  int64_t offset = 0;  ///< bytes within the region (persistent: unused, found by name)
  int64_t bytes = 0;
};

struct PackOptions {
  int slot_sets = 1;
  /// Other programs run between the phases: values that cross phases keep to their slot set, even to a single one.
  bool own_slots = false;
  bool reuse = true;  ///< false: every value has memory of its own (for comparing and for finding the first NaN)
  DeviceKind device = DeviceKind::kCpu;
};

/// A program with its memory resolved. The storage of its values names final roots: views, joins, accumulation and
/// in-place results are all merged.
struct Plan {
  Program program;
  PackOptions options;
  std::vector<Slot> slots;       ///< per value; valid for roots
  std::vector<Slot> workspaces;  ///< per op; bytes == 0 when it needs none
  std::vector<bool> unread;      ///< per value: passed to kernels as null
  /// Per op: operations of other streams in the same phase that must have run before it. Phases begin and end on the
  /// computing stream, which waits for the others at the end.
  std::vector<std::vector<OpId>> waits;
  /// The same for a micro-batch in which edge operations do not run.
  std::vector<std::vector<OpId>> inner_waits;
  int64_t slot_bytes = 0;   ///< per slot set
  int64_t input_bytes = 0;  ///< per slot set
  int64_t transient_bytes = 0;

  /// Bytes that outlive a phase: inputs and slots of all slot sets.
  int64_t kept_bytes() const { return options.slot_sets * (slot_bytes + input_bytes); }
  /// Bytes of all arenas without persistent memory.
  int64_t arena_bytes() const { return kept_bytes() + transient_bytes; }
  Cost cost(Phase phase) const;
};

/// Resolves memory. With one slot set F, B and W form one timeline and all values share one arena; with more, values
/// that cross phases go to slot sets, the others to the transient arena.
Plan pack(Program program, const PackOptions& options = {});

/// Fills plan.waits from the streams of the operations: of two that touch the same bytes, one of them writing, or that
/// use the same communicator, the later in list order waits. The last step of pack().
void derive_events(Plan& plan);

/// First and last element of the root's memory that a value reaches; it has elements.
std::pair<int64_t, int64_t> reach_of(const Program& program, ValueId v);

/// True for a join whose parts all lie in their places already: it copies nothing.
bool joins_in_place(const Plan& plan, OpId id);

/// Local tensors of an operation without data, as kernels and cost functions see them.
struct OpShapes {
  std::vector<Tensor> operands, results;
  std::vector<uint8_t> accumulate;
  std::vector<Dims> operand_origins, result_origins;
  CommPlace place;
  std::vector<uint8_t> unread;
  RunContext context() const;
};
OpShapes shapes_of(const Program& program, const Op& op);
/// Those of the rank that `mesh` names.
OpShapes shapes_of(const Program& program, const Op& op, const Mesh& mesh);

/// False for views, and for operations of whose results nobody reads any and that change nothing.
bool runs(const Plan& plan, OpId id);

/// The whole program as text, one line per operation.
std::string print_program(const Program& program);

}  // namespace megatron
