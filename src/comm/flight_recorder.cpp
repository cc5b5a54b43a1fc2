#include "comm/flight_recorder.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/error.h"
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

uint64_t FlightRecorder::begin(const Comm& comm, uint64_t sequence, const CommCall& call) {
  const std::lock_guard lock(mutex_);
  if (entries_.size() == capacity_) entries_.pop_front();
  CommCall kept = call;  // counts live as long as the call only
  kept.send_counts = kept.receive_counts = nullptr;
  entries_.push_back({next_, comm.name(), phase_, comm.rank(), comm.size(), sequence, kept, Clock::now(), false});
  ++progress_;
  return next_++;
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
          describe(e.call),
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
  const std::lock_guard lock(mutex_);
  const auto waiting = std::find_if(entries_.begin(), entries_.end(), [](const Entry& e) { return !e.done; });
  if (waiting != entries_.end()) return "waits in " + line_of(to_record(*waiting));
  if (entries_.empty()) return str_cat("is in ", phase_, ", without any collective so far");
  return str_cat("is in ", phase_, " outside of collectives; the last was ", line_of(to_record(entries_.back())));
}

uint64_t FlightRecorder::progress() const {
  const std::lock_guard lock(mutex_);
  return progress_;
}

std::unique_ptr<Comm> make_recorded_comm(std::unique_ptr<Comm> comm, std::shared_ptr<FlightRecorder> recorder) {
  return std::make_unique<RecordedComm>(std::move(comm), std::move(recorder));
}

Watchdog::Watchdog(std::shared_ptr<const FlightRecorder> recorder, std::string label, double seconds, Expire expire)
    : recorder_(std::move(recorder)),
      label_(std::move(label)),
      expire_(std::move(expire)),
      seconds_(seconds),
      thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Watchdog::set_seconds(double seconds) {
  const std::lock_guard lock(mutex_);
  seconds_ = seconds;
}

void Watchdog::watch() {
  using Clock = std::chrono::steady_clock;
  uint64_t seen = recorder_->progress();
  Clock::time_point moved = Clock::now();
  std::unique_lock lock(mutex_);
  while (!stop_) {
    wake_.wait_for(lock, std::chrono::duration<double>(std::clamp(seconds_ / 10, 0.005, 1.0)));
    const uint64_t now = recorder_->progress();
    if (now != seen) {
      seen = now;
      moved = Clock::now();
    }
    if (stop_ || Clock::now() - moved < std::chrono::duration<double>(seconds_)) continue;
    const std::string report =
        str_cat(label_, " has not moved for ", format_duration(seconds_), ": it ", recorder_->where());
    lock.unlock();
    expire_(report);
    return;
  }
}

Watchdog::Expire print_and_exit(std::shared_ptr<const FlightRecorder> recorder, double grace_seconds) {
  return [recorder = std::move(recorder), grace_seconds](const std::string& report) {
    std::string text = str_cat("error: ", report, "\n");
    const std::vector<FlightRecorder::Record> records = recorder->records();
    for (size_t i = records.size() - std::min<size_t>(records.size(), 8); i < records.size(); ++i) {
      text += str_cat("  ", line_of(records[i]), "\n");
    }
    std::fputs(text.c_str(), stderr);  // in one piece: all ranks write at about the same time
    std::fflush(stderr);
    std::this_thread::sleep_for(std::chrono::duration<double>(grace_seconds));
    _exit(static_cast<int>(ExitCode::kDevice));  // the other threads hang, so nothing can be unwound
  };
}

}  // namespace megatron
