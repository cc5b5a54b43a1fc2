// One rank of a small job, started several times by the tests: comm_ranks SCENARIO. Prints what it saw as
// "rank R: ..."; ends with the exit code of the program for the error that ended it.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/strings.h"
#include "comm/launch.h"
#include "comm/mesh_comms.h"
#include "comm/monitor.h"
#include "comm/self_check.h"
#include "comm/start_check.h"
#include "tests/comm/random_sums.h"

using namespace megatron;

namespace {

void say(const World& world, const std::string& text) {
  std::printf("%s\n", str_cat("rank ", world.rank(), ": ", text).c_str());
  std::fflush(stdout);
}

void check(World& world) {
  const auto device = make_cpu_device();
  const CommCheck result = check_comm(world.host_comm(), *device);
  for (const std::string& failure : result.failures) say(world, failure);
  say(world, str_cat(result.cases, " cases, ", result.failures.size(), " failures, local rank ",
                     world.info().local_rank, " of ", world.info().local_size));
}

void mesh(World& world) {
  Mesh mesh;
  mesh.axes = {{"tp", 2, world.rank() % 2}, {"dp", 2, world.rank() / 2}};
  const auto device = make_cpu_device();
  MeshComms comms = make_mesh_comms(world, mesh, *device);
  std::string text;
  for (const MeshAxis& axis : mesh.axes) {
    int64_t sum = 1 << (4 * world.rank());
    comms.find(axis.name)->all_reduce(make_tensor(&sum, DType::kI64, {}));
    text += str_cat(axis.name, " ", std::hex, sum, " ");
  }
  say(world, text);
}

void mismatch(World& world) {
  float values[4] = {1, 2, 3, 4};
  if (world.rank() == 0) return world.host_comm().all_reduce(make_tensor(values, DType::kF32, {4}));
  world.host_comm().all_reduce(make_tensor(values, DType::kF32, {3}), Reduction::kMax);
}

void one_throws(World& world) {
  world.barrier();
  if (world.rank() == 1) throw DataError("the data of rank 1 is bad");
  float value = 1;
  for (;;) world.host_comm().all_reduce(make_tensor(&value, DType::kF32, {}));
}

void one_sleeps(World& world) {
  world.barrier();
  if (world.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(4));
  float value = 1;
  world.host_comm().all_reduce(make_tensor(&value, DType::kF32, {}));
}

/// All ranks meet twice; before the second time rank 1 does `instead`. `seconds`: how long a rank may stand.
void with_monitor(World& plain, double seconds, const std::function<void()>& instead) {
  const auto recorder = std::make_shared<FlightRecorder>();
  const auto world = make_recorded_world(plain, recorder);
  std::signal(SIGTERM, SIG_IGN);  // mpirun's, as soon as one has ended
  Mesh mesh;
  mesh.axes = {{"dp", world->size(), world->rank()}};
  const auto device = make_cpu_device();
  Monitor monitor(*world, recorder, seconds, [&](const Verdict& verdict) {
    if (verdict.failed) std::this_thread::sleep_for(std::chrono::seconds(5));
    say(*world, str_cat("culprit ", verdict.culprit, ": ", verdict.text));
    _exit(4);
  });
  MeshComms comms = make_mesh_comms(*world, mesh, *device, recorder);
  recorder->set_phase("iteration 1");
  float value = 1;
  comms.find("dp")->all_reduce(make_tensor(&value, DType::kF32, {}));
  recorder->set_phase("iteration 2");
  if (world->rank() == 1) {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));  // the others hear where it is
    instead();
  }
  comms.find("dp")->all_reduce(make_tensor(&value, DType::kF32, {}), Reduction::kMax);
}

void sleep_long() {
  std::this_thread::sleep_for(std::chrono::seconds(60));
}

void start(World& world) {
  compare_start(world, {{"build", "b1"}, {"configuration", world.rank() == 1 ? "c2" : "c1"}});
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, std::function<void(World&)>> scenarios = {
      {"check", check},
      {"bits", [](World& w) { say(w, bits_of_sums(w.host_comm())); }},
      {"mesh", mesh},
      {"mismatch", mismatch},
      {"one_throws", one_throws},
      {"one_sleeps", one_sleeps},
      {"hang", [](World& w) { with_monitor(w, 1, sleep_long); }},
      {"stops", [](World& w) { with_monitor(w, 1, [] { raise(SIGSTOP); }); }},
      {"dies", [](World& w) { with_monitor(w, 60, [] { raise(SIGKILL); }); }},
      {"alike", [](World&) { throw UsageError("nobody can use this"); }},
      {"start", start},
      {"gather", [](World& w) { say(w, join(w.gather(str_cat("<", w.rank(), ">")), "")); }},
      {"host_comm", [](World& w) { w.host_comm(); }}};
  const auto scenario = scenarios.find(argc == 2 ? argv[1] : "");
  if (scenario == scenarios.end()) return 2;
  try {
    WorldOptions options;
    options.timeout_seconds = scenario->first == "one_sleeps" ? 1 : 60;
    options.join_timeout_seconds = 2;
    const auto world = join_world(detect_launch(process_environment()), options);
    run_as_rank(*world, [&] { scenario->second(*world); });
  } catch (const SaidElsewhere& error) {
    std::printf("quiet: %s\n", error.what());
    return static_cast<int>(error.code());
  } catch (const Error& error) {
    std::printf("%s\n", str_cat("error: ", error.what()).c_str());
    return static_cast<int>(error.code());
  }
  return 0;
}
