// Pipeline schedules as data: what each stage does, in its order, with every transfer written out.
//
// Chunk c of stage s is part c * stages + s of the model. A value crosses from one part to the next on the forward, and
// its gradient back on the backward. The transfers of all stages lie in one global order, which respects every
// dependence; each stage does its own in that order. So no stage waits for another that waits for it, even where a send
// returns only when it was received (MPI, NCCL): of all that is left, the first in the global order can always be done.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "program/program.h"

namespace megatron {

enum class ScheduleKind : uint8_t {
  kGPipe,       ///< all forwards, then all backwards (Huang et al., arXiv:1811.06965)
  k1F1B,        ///< one forward, one backward (Narayanan et al., arXiv:2006.09503); with several chunks interleaved
                ///< (Narayanan et al., arXiv:2104.04473)
  kZeroBubble,  ///< the same order with weight gradients (W) put where a stage would wait (Qi et al., arXiv:2401.10241)
};
/// "gpipe", "1f1b", "zero-bubble".
const char* name_of(ScheduleKind kind);
/// UsageError names the choices.
ScheduleKind parse_schedule(const std::string& name);

/// One thing that a stage does.
struct Instruction {
  enum class Action : uint8_t {
    kRun,      ///< runs a phase of a chunk
    kSend,     ///< to stage `peer`: of phase F what the chunk hands on, of phase B the gradient of what it was handed
    kReceive,  ///< from stage `peer`: of phase F what the chunk is handed, of phase B the gradient of what it handed on
  };
  Action action = Action::kRun;
  Phase phase = Phase::kForward;
  int chunk = 0;
  int micro_batch = 0;
  int slot_set = 0;  ///< of the chunk
  int peer = -1;

  bool operator==(const Instruction&) const = default;
};
/// "F3.1", "send B0.0 to 2", "receive F1.0 from 0": micro-batch, then chunk.
std::string describe(const Instruction& instruction);

struct PipelineShape {
  int stages = 1;
  int chunks = 1;  ///< of each stage; more than one only with several stages
  int micro_batches = 1;
  bool backward = true;  ///< false: forwards alone (evaluation)
};

/// The work of all stages.
struct PipelineSchedule {
  PipelineShape shape;
  ScheduleKind kind = ScheduleKind::k1F1B;
  std::vector<std::vector<Instruction>> stages;
  /// Slot sets of [stage][chunk]: as many micro-batches as are between their forward and their last phase, and one more
  /// where a value is received, which may then come while the others are in use.
  std::vector<std::vector<int>> slot_sets;

  bool has_weight_phase() const { return kind == ScheduleKind::kZeroBubble && shape.backward; }
};

/// InternalError where the shape makes no sense. Takes time in proportion to the number of instructions.
PipelineSchedule make_schedule(ScheduleKind kind, const PipelineShape& shape);

/// PipelineSchedule::slot_sets alone, without the order of the transfers: much cheaper.
std::vector<std::vector<int>> slot_sets_of(ScheduleKind kind, const PipelineShape& shape);

/// Seconds of the phases F, B and W of one chunk of one stage.
struct ChunkTimes {
  std::array<double, kPhases> inner{};  ///< of any micro-batch
  std::array<double, kPhases> edge{};   ///< of the first micro-batch in F, of the last in B and W
};

/// Relative times of the phases, and of a transfer.
struct PhaseTimes {
  double forward = 1, backward = 2, weight = 0, transfer = 0;
  /// Per stage, in place of 1: its share of the work relative to the mean.
  std::vector<double> stage_load;
  /// In place of all of these but the transfer: the times of [stage][chunk].
  std::vector<std::vector<ChunkTimes>> chunks = {};
};
/// F 1, B 2; with phase W: F 1, B 1, W 1.
PhaseTimes usual_times(const PipelineSchedule& schedule);

struct PipelineReport {
  double seconds = 0;          ///< from the first forward to the last phase, in the unit of the times
  double busy = 0;             ///< most of one stage
  double bubble = 0;           ///< (seconds - busy) / busy: waiting in proportion to the work
  std::vector<int> in_flight;  ///< per stage: micro-batches of any chunk between forward and last phase, at most
};

/// Runs the schedule on paper: transfers wait for each other, a slot set belongs to one micro-batch from its first use
/// to its last. Throws InternalError with the place when a stage waits for ever, something is done twice, never, or
/// before what it needs, two stages disagree on a transfer, or a slot set is used by two micro-batches.
PipelineReport simulate(const PipelineSchedule& schedule, const PhaseTimes& times);

}  // namespace megatron
