#include "comm/flight_recorder.h"

#include <algorithm>

#include "base/strings.h"

namespace megatron {
namespace {

class RecordedComm final : public Comm {
 public:
  RecordedComm(std::unique_ptr<Comm> comm, std::shared_ptr<FlightRecorder> recorder)
      : comm_(std::move(comm)), recorder_(std::move(recorder)) {}
  int rank() const override { return comm_->rank(); }
  int size() const override { return comm_->size(); }
  const std::string& name() const override { return comm_->name(); }

  /// A call that throws stays in the record as not done.
  void run(const CommCall& call) override {
    const uint64_t id = recorder_->begin(*comm_, ++sequence_, call);
    comm_->run(call);
    recorder_->end(id);
  }

  void run_group(std::span<const CommCall> calls) override {
    std::vector<uint64_t> ids;
    for (const CommCall& call : calls) ids.push_back(recorder_->begin(*comm_, ++sequence_, call));
    comm_->run_group(calls);
    for (const uint64_t id : ids) recorder_->end(id);
  }

  std::unique_ptr<Comm> split(int colour, int key, const std::string& name) override {
    return make_recorded_comm(comm_->split(colour, key, name), recorder_);
  }

 private:
  std::unique_ptr<Comm> comm_;
  std::shared_ptr<FlightRecorder> recorder_;
  uint64_t sequence_ = 0;
};

class RecordedWorld final : public World {
 public:
  RecordedWorld(World& world, std::shared_ptr<FlightRecorder> recorder)
      : world_(world), recorder_(std::move(recorder)) {}
  const RankInfo& info() const override { return world_.info(); }
  std::vector<std::string> gather(const std::string& bytes) override {
    const uint64_t id =
        recorder_->begin("all ranks", rank(), size(), ++sequence_, str_cat("gather of ", bytes.size(), " bytes"));
    std::vector<std::string> parts = world_.gather(bytes);
    recorder_->end(id);
    return parts;
  }
  Comm& host_comm() override { return world_.host_comm(); }
  void fail(const std::string& reason) noexcept override { world_.fail(reason); }
  void set_timeout(double seconds) override { world_.set_timeout(seconds); }
  bool says_first(const std::string& reason) noexcept override { return world_.says_first(reason); }
  bool is_one_process() const override { return world_.is_one_process(); }

 private:
  World& world_;
  std::shared_ptr<FlightRecorder> recorder_;
  uint64_t sequence_ = 0;
};

/// `text` is the whole of it where no tensors travel (a gather of bytes), else the subject.
std::string text_of(const CommCall& call, const std::string& text) {
  if (call.op == CommOp::kBarrier) return text.empty() ? describe(call) : text;
  return describe(call) + (text.empty() ? "" : str_cat(" (", text, ")"));
}

std::string line_of(const FlightRecorder::Record& r) {
  return str_cat("call ", r.sequence, " of ", r.comm, ": ", r.call, ", ", r.done ? "done" : "not done", ", begun ",
                 format_duration(r.seconds), " ago in ", r.phase);
}

}  // namespace

void FlightRecorder::set_phase(const std::string& phase) {
  const std::lock_guard lock(mutex_);
  phase_ = phase;
  ++progress_;
}

uint64_t FlightRecorder::add(Entry entry) {
  const std::lock_guard lock(mutex_);
  if (entries_.size() == capacity_) entries_.pop_front();
  entry.id = next_;
  entry.phase = phase_;
  entry.begun = Clock::now();
  entries_.push_back(std::move(entry));
  ++progress_;
  return next_++;
}

uint64_t FlightRecorder::begin(const Comm& comm, uint64_t sequence, const CommCall& call) {
  Entry entry{0, comm.name(), "", comm.rank(), comm.size(), sequence, call, "", {}, false};
  entry.call.send_counts = entry.call.receive_counts = nullptr;  // they live as long as the call only
  if (comm.subject() != nullptr) entry.text = *comm.subject();
  return add(std::move(entry));
}

uint64_t FlightRecorder::begin(const std::string& comm, int rank, int size, uint64_t sequence,
                               const std::string& call) {
  return add({0, comm, "", rank, size, sequence, {}, call, {}, false});
}

void FlightRecorder::end(uint64_t id) {
  const std::lock_guard lock(mutex_);
  ++progress_;
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    if (entry->id != id) continue;
    entry->done = true;
    return;
  }
}

FlightRecorder::Record FlightRecorder::to_record(const Entry& e) {
  return {str_cat(e.comm, ", rank ", e.rank, " of ", e.size),
          e.sequence,
          text_of(e.call, e.text),
          e.phase,
          std::chrono::duration<double>(Clock::now() - e.begun).count(),
          e.done};
}

std::vector<FlightRecorder::Record> FlightRecorder::records() const {
  const std::lock_guard lock(mutex_);
  std::vector<Record> records;
  for (const Entry& entry : entries_) records.push_back(to_record(entry));
  return records;
}

std::string FlightRecorder::where() const {
  return standing().where;
}

std::string FlightRecorder::phase() const {
  const std::lock_guard lock(mutex_);
  return phase_;
}

FlightRecorder::Standing FlightRecorder::standing() const {
  const std::lock_guard lock(mutex_);
  Standing s;
  s.progress = progress_;
  const auto waiting = std::find_if(entries_.begin(), entries_.end(), [](const Entry& e) { return !e.done; });
  s.waits = waiting != entries_.end();
  if (s.waits) {
    s.where = "waits in " + line_of(to_record(*waiting));
  } else if (entries_.empty()) {
    s.where = str_cat("is in ", phase_, ", without any collective so far");
  } else {
    s.where = str_cat("is in ", phase_, " outside of collectives; the last was ", line_of(to_record(entries_.back())));
  }
  return s;
}

std::unique_ptr<Comm> make_recorded_comm(std::unique_ptr<Comm> comm, std::shared_ptr<FlightRecorder> recorder) {
  return std::make_unique<RecordedComm>(std::move(comm), std::move(recorder));
}

std::unique_ptr<World> make_recorded_world(World& world, std::shared_ptr<FlightRecorder> recorder) {
  return std::make_unique<RecordedWorld>(world, std::move(recorder));
}

}  // namespace megatron
