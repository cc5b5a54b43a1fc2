// Runs what a pipeline schedule says on the chunks of one rank: phases on the computing stream, transfers beside them.
//
// Without a pipeline the schedule is F, B, F, B, ... of one chunk and there is nothing to transfer.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/pipeline_schedule.h"
#include "program/executor.h"

namespace megatron {

class ChunkRunner {
 public:
  /// Communicators of the stages: of what goes forward, and of what goes backward. None without a pipeline.
  struct Links {
    Comm* forward = nullptr;
    Comm* backward = nullptr;
  };
  /// Writes the inputs of a micro-batch to a slot set.
  using Write = std::function<void(Executor& chunk, int micro_batch, int slot_set)>;

  /// The executors must outlive this; they share an arena in which their slot sets do not overlap.
  ChunkRunner(std::vector<Executor*> chunks, Links links);

  /// Enqueues the instructions of one rank. The computing stream ends behind all of it, sends included. DeviceError: a
  /// transfer failed.
  void run(const std::vector<Instruction>& instructions, const Write& write);

 private:
  /// Points that work on one slot set of a chunk waits for.
  struct Marks {
    std::unique_ptr<Event> ran, forward_ran, backward_ran;        ///< the last phase, F, B
    std::unique_ptr<Event> handed, sent, taken_back, given_back;  ///< transfers, by what they move
  };
  struct Chunk {
    Executor* executor = nullptr;
    std::string received, sent;  ///< names of the boundary values; "" where there is none
    std::vector<Marks> marks;    ///< per slot set
  };

  void run_phase(const Instruction& i, const Write& write);
  void send(const Instruction& i);
  void receive(const Instruction& i);
  /// The wire goes on when the computing stream gets here. NCCL's kernels occupy multiprocessors while they wait for
  /// the other side: a transfer that is enqueued as soon as its memory is free would slow every phase until then.
  void receive_now(int wire);
  Chunk& chunk(const Instruction& i) { return chunks_[static_cast<size_t>(i.chunk)]; }
  Marks& marks(const Instruction& i) { return chunk(i).marks[static_cast<size_t>(i.slot_set)]; }

  Device& device_;
  Links links_;
  std::vector<Chunk> chunks_;
  int last_micro_batch_ = 0;  ///< of what runs now
  std::unique_ptr<Event> fork_, here_, join_[2];
};

}  // namespace megatron
