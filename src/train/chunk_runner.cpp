#include "train/chunk_runner.h"

#include <algorithm>

#include "base/check.h"
#include "program/passes.h"

namespace megatron {
namespace {

constexpr int kForwardWire = Device::kForwardTransfers, kBackwardWire = Device::kBackwardTransfers;

std::string only_name(const std::vector<Boundary>& boundaries) {
  MEGATRON_CHECK(boundaries.size() <= 1, "a pipeline stage hands on one value");
  return boundaries.empty() ? "" : boundaries.front().name;
}

/// What a communicator takes: dense memory.
Tensor dense(const Tensor& tensor) {
  MEGATRON_CHECK(tensor.data != nullptr && tensor.contiguous(), "a boundary value of a pipeline stage is not dense");
  return tensor;
}

}  // namespace

ChunkRunner::ChunkRunner(std::vector<Executor*> chunks, Links links)
    : device_(chunks.at(0)->device()), links_(links), chunks_(chunks.size()) {
  for (size_t c = 0; c < chunks.size(); ++c) {
    const Plan& plan = chunks[c]->plan();
    chunks_[c].executor = chunks[c];
    chunks_[c].received = only_name(plan.program.received);
    chunks_[c].sent = only_name(plan.program.sent);
    chunks_[c].marks.resize(static_cast<size_t>(plan.options.slot_sets));
    for (Marks& marks : chunks_[c].marks) {
      for (auto* event : {&marks.ran, &marks.forward_ran, &marks.backward_ran, &marks.handed, &marks.sent,
                          &marks.taken_back, &marks.given_back}) {
        *event = device_.make_event();
      }
    }
  }
  fork_ = device_.make_event();
  here_ = device_.make_event();
  for (auto& event : join_) event = device_.make_event();
}

void ChunkRunner::run(const std::vector<Instruction>& instructions, const Write& write) {
  // What ran before used the memory that is received into, and what runs next uses that which is sent from.
  const bool transfers = links_.forward != nullptr;
  if (transfers) device_.record(*fork_);
  for (const int wire : {kForwardWire, kBackwardWire}) {
    if (transfers) device_.wait(*fork_, wire);
  }
  last_micro_batch_ = 0;
  for (const Instruction& i : instructions) last_micro_batch_ = std::max(last_micro_batch_, i.micro_batch);
  for (const Instruction& i : instructions) {
    switch (i.action) {
      case Instruction::Action::kRun:
        run_phase(i, write);
        break;
      case Instruction::Action::kSend:
        send(i);
        break;
      case Instruction::Action::kReceive:
        receive(i);
        break;
    }
  }
  for (const int wire : {kForwardWire, kBackwardWire}) {
    if (!transfers) break;
    Event& join = *join_[wire - kForwardWire];
    device_.record(join, wire);
    device_.wait(join, 0);
  }
}

void ChunkRunner::run_phase(const Instruction& i, const Write& write) {
  Marks& m = marks(i);
  Executor& executor = *chunk(i).executor;
  if (i.phase == Phase::kForward) {
    if (!chunk(i).sent.empty()) device_.wait(*m.sent, 0);  // of the micro-batch that had the slot set before
    if (!chunk(i).received.empty()) {
      device_.wait(*m.given_back, 0);
      device_.wait(*m.handed, 0);
    }
    write(executor, i.micro_batch, i.slot_set);
  } else if (i.phase == Phase::kBackward && !chunk(i).sent.empty()) {
    device_.wait(*m.taken_back, 0);
  }
  // Some work is done once per step: in F of the first micro-batch, in B and W of the last.
  executor.run(i.phase, i.slot_set, i.micro_batch == (i.phase == Phase::kForward ? 0 : last_micro_batch_));
  if (links_.forward == nullptr) return;
  if (i.phase == Phase::kForward) device_.record(*m.forward_ran);
  if (i.phase == Phase::kBackward) device_.record(*m.backward_ran);
  device_.record(*m.ran);
}

void ChunkRunner::send(const Instruction& i) {
  Marks& m = marks(i);
  Chunk& c = chunk(i);
  if (i.phase == Phase::kForward) {
    device_.wait(*m.forward_ran, kForwardWire);
    links_.forward->send(dense(c.executor->output(c.sent, i.slot_set)), i.peer, device_.stream(kForwardWire));
    device_.record(*m.sent, kForwardWire);
  } else {
    device_.wait(*m.backward_ran, kBackwardWire);
    links_.backward->send(dense(c.executor->output(gradient_name(c.received), i.slot_set)), i.peer,
                          device_.stream(kBackwardWire));
    device_.record(*m.given_back, kBackwardWire);
  }
}

void ChunkRunner::receive_now(int wire) {
  device_.record(*here_);
  device_.wait(*here_, wire);
}

void ChunkRunner::receive(const Instruction& i) {
  Marks& m = marks(i);
  Chunk& c = chunk(i);
  if (i.phase == Phase::kForward) {
    device_.wait(*m.ran, kForwardWire);  // the slot set is free
    if (!c.sent.empty()) device_.wait(*m.sent, kForwardWire);
    device_.wait(*m.given_back, kForwardWire);
    receive_now(kForwardWire);
    links_.forward->receive(dense(c.executor->received(c.received, i.slot_set)), i.peer, device_.stream(kForwardWire));
    device_.record(*m.handed, kForwardWire);
  } else {
    device_.wait(*m.forward_ran, kBackwardWire);
    receive_now(kBackwardWire);
    links_.backward->receive(dense(c.executor->received(gradient_name(c.sent), i.slot_set)), i.peer,
                             device_.stream(kBackwardWire));
    device_.record(*m.taken_back, kBackwardWire);
  }
}

}  // namespace megatron
