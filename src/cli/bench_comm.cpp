// `megatron bench comm`: speed and correctness of the communicators between the ranks that were started.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/strings.h"
#include "cli/bench.h"
#include "cli/machine_file.h"
#include "comm/launch.h"
#include "comm/mesh_comms.h"
#include "comm/self_check.h"
#include "comm/start_check.h"
#include "parallel/mesh.h"
#include "parallel/rank_device.h"
#include "train/machine_profile.h"

namespace megatron {
namespace {

struct BenchCommOptions {
  RunConfig run;
  ParallelConfig parallel;
  bool check = false;
  std::string dtype = "fp32";
  int64_t min_bytes = 1024, max_bytes = 0;
  double seconds = 0.2;
  std::string machine;  ///< file
};

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The slowest rank's time.
double slowest(World& world, double seconds) {
  double most = 0;
  for (const std::string& text : world.gather(std::to_string(seconds))) most = std::max(most, std::stod(text));
  return most;
}

std::string list_of(const std::vector<int>& ranks) {
  std::vector<std::string> texts;
  for (const int rank : ranks) texts.push_back(std::to_string(rank));
  return "{" + join(texts, " ") + "}";
}

/// Who is where, and which groups there are.
void print_world(World& world, const Device& device, const Mesh& mesh, const MeshComms& comms) {
  const std::string line =
      str_cat(world.info().host, ", local rank ", world.info().local_rank, ", ", device.description());
  const std::vector<std::string> lines = world.gather(line);
  if (world.rank() != 0) return;
  std::printf("ranks: %d, started by %s\n", world.size(), world.info().launcher.c_str());
  for (size_t r = 0; r < lines.size(); ++r) std::printf("  rank %zu: %s\n", r, lines[r].c_str());
  for (const auto& [name, comm] : comms.by_name) {
    std::string text;
    for (const std::vector<int>& group : groups_of(mesh, split(name, '-'))) text += " " + list_of(group);
    std::printf("%s:%s\n", name.c_str(), text.c_str());
  }
}

struct Measured {
  CommOp op;
  double factor;  ///< bytes on a link per byte of the whole tensor, for n ranks, as nccl-tests count them
  std::function<void()> call;
};

/// The collectives over `comm` on a tensor of `count` elements, at best evenly cut.
std::vector<Measured> collectives(Comm& comm, Device& device, const Buffer& a, const Buffer& b, DType dtype,
                                  int64_t count, std::vector<int64_t>& counts) {
  const int n = comm.size();
  const double others = static_cast<double>(n - 1) / n;
  void* const stream = device.stream();
  counts.assign(static_cast<size_t>(n), count / n);
  const Tensor source = make_tensor(a.data(), dtype, {count}), target = make_tensor(b.data(), dtype, {count});
  const Tensor part = make_tensor(a.data(), dtype, {count / n}), own = make_tensor(b.data(), dtype, {count / n});
  const int64_t* const even = counts.data();
  return {{CommOp::kAllReduce, 2 * others, [=, &comm] { comm.all_reduce(source, target, Reduction::kSum, stream); }},
          {CommOp::kAllGather, others, [=, &comm] { comm.all_gather(part, target, even, stream); }},
          {CommOp::kReduceScatter, others, [=, &comm] { comm.reduce_scatter(source, own, even, stream); }},
          {CommOp::kAllToAll, others, [=, &comm] { comm.all_to_all(source, target, even, even, stream); }},
          {CommOp::kBroadcast, 1, [=, &comm] { comm.broadcast(source, 0, stream); }},
          {CommOp::kExchange, 1,
           [=, &comm] { comm.exchange(source, (comm.rank() + 1) % n, target, (comm.rank() + n - 1) % n, stream); }}};
}

/// Seconds of one call, of the slowest rank, after one call that warms up.
double time_call(World& world, Device& device, const BenchCommOptions& options, const std::function<void()>& call) {
  const auto repeat = [&](int64_t times) {
    world.barrier();
    const auto start = Clock::now();
    for (int64_t i = 0; i < times; ++i) call();
    device.synchronize();
    return slowest(world, seconds_since(start)) / static_cast<double>(times);
  };
  repeat(1);
  const double once = std::max(repeat(2), 1e-7);
  return repeat(std::clamp(static_cast<int64_t>(options.seconds / once), int64_t{2}, int64_t{10000}));
}

/// Rank 0 gets a point for each line.
std::vector<CollectivePoint> measure(World& world, Device& device, const BenchCommOptions& options, Comm& comm) {
  const DType dtype = parse_dtype(options.dtype);
  const bool cuda = device.kind() == DeviceKind::kCuda;
  const int64_t most = options.max_bytes > 0 ? options.max_bytes : cuda ? int64_t{1} << 30 : int64_t{1} << 24;
  const int64_t unit = size_of(dtype) * comm.size();
  const Buffer a(device, most + unit), b(device, most + unit);
  device.fill_zero(a.data(), a.bytes());
  if (world.rank() == 0) {
    std::printf("\n%s, %d ranks%s, %s\n  %-14s %12s %12s %14s\n", comm.name().c_str(), comm.size(),
                comm.size() < world.size() ? " (all such groups at the same time)" : "", options.dtype.c_str(),
                "collective", "bytes", "time", "bus bandwidth");
  }
  std::vector<int64_t> counts;
  std::vector<CollectivePoint> points;
  for (size_t op = 0; op < 6; ++op) {
    for (int64_t bytes = options.min_bytes; bytes <= most; bytes *= 8) {
      const int64_t count = round_up(bytes, unit) / size_of(dtype);
      const Measured m = collectives(comm, device, a, b, dtype, count, counts)[op];
      const double seconds = time_call(world, device, options, m.call);
      if (world.rank() != 0) continue;
      points.push_back({collective_name(m.op), comm.size(), static_cast<double>(count * size_of(dtype)), seconds});
      const double moved = m.factor * points.back().bytes;
      std::printf("  %-14s %12s %9.1f us %9.2f GB/s\n", collective_name(m.op),
                  format_bytes(static_cast<double>(bytes)).c_str(), 1e6 * seconds, 1e-9 * moved / seconds);
      std::fflush(stdout);
    }
  }
  return points;
}

/// Puts the points into the file; those of other numbers of ranks stay.
void write_points(const BenchCommOptions& options, const Device& device, const std::vector<CollectivePoint>& points) {
  MachineConfig machine = read_machine_file_of(options.machine, device.description());
  if (machine.measured.empty()) machine.measured = measured_today();
  std::set<int> fresh;
  for (const CollectivePoint& p : points) fresh.insert(p.ranks);
  std::vector<std::string> entries;
  for (const CollectivePoint& old : read_collectives(machine)) {
    if (fresh.count(old.ranks) == 0) entries.push_back(to_text(old));
  }
  for (const CollectivePoint& p : points) entries.push_back(to_text(p));
  machine.collectives = entries;
  write_machine_file(options.machine, machine);
  std::printf("%zu collectives: %s\n", entries.size(), options.machine.c_str());
}

void check(World& world, Device& device, Comm& comm) {
  CommCheck result = check_comm(comm, device);
#ifdef MEGATRON_HAVE_CUDA
  if (device.kind() == DeviceKind::kCuda) {
    const CommCheck graph = check_comm_in_graph(comm, device);
    result.cases += graph.cases;
    result.failures.insert(result.failures.end(), graph.failures.begin(), graph.failures.end());
  }
#endif
  std::vector<std::string> failures;
  for (const std::string& text : world.gather(join(result.failures, "\n"))) {
    if (!text.empty()) failures.push_back(text);
  }
  if (world.rank() == 0) {
    std::printf("%-8s %d ranks, %lld cases on each: %s\n", comm.name().c_str(), comm.size(),
                static_cast<long long>(result.cases), failures.empty() ? "ok" : "FAILED");
    std::fflush(stdout);
  }
  if (!failures.empty()) throw InternalError("communicator " + comm.name() + ":\n" + join(failures, "\n"));
}

void run_rank(const BenchCommOptions& options, World& world) {
  compare_start(world, {{"build", build_identity()}});
  const Mesh mesh = make_mesh(options.parallel, world.size(), world.rank());
  const auto device = make_device(options.run, world);
  MeshComms comms = make_mesh_comms(world, mesh, *device);
  if (world.size() == 1) {
    if (!options.check) throw UsageError("bench comm measures between ranks; start it with mpirun -n N");
    if (device->kind() == DeviceKind::kCuda) comms.owned_world = make_nccl_comm(world, "world");  // tries the library
    if (comms.owned_world) comms.world = comms.owned_world.get();
  }
  if (!options.machine.empty()) read_machine_file_of(options.machine, device->description());  // before the work
  print_world(world, *device, mesh, comms);
  std::vector<CollectivePoint> points;
  const auto each = [&](Comm& comm) {
    if (options.check) return check(world, *device, comm);
    const std::vector<CollectivePoint> more = measure(world, *device, options, comm);
    points.insert(points.end(), more.begin(), more.end());
  };
  each(*comms.world);
  for (const auto& [name, comm] : comms.by_name) {
    if (comm->size() < world.size()) each(*comm);
  }
  if (!options.machine.empty() && world.rank() == 0) write_points(options, *device, points);
}

void run(const BenchCommOptions& options) {
  if (options.check && !options.machine.empty()) throw UsageError("--machine: --check measures nothing");
  const auto world = join_world(detect_launch(process_environment()));
  run_as_rank(*world, [&] { run_rank(options, *world); });
}

}  // namespace

void add_bench_comm_command(CLI::App& bench) {
  auto options = std::make_shared<BenchCommOptions>();
  CLI::App* comm = bench.add_subcommand("comm", "Check and time the communication between ranks.");
  comm->add_flag("--check", options->check, "Compare the results of every collective and type with the right ones");
  comm->add_option("--device", options->run.device, "Where the tensors lie: cpu (MPI), cuda (NCCL), or auto")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  const auto size = [&](const char* name, int64_t& value, const char* what) {
    comm->add_option(name, value, what)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  };
  size("--tensor-model-parallel-size", options->parallel.tensor_model_parallel_size, "Also measure groups of tp");
  size("--context-parallel-size", options->parallel.context_parallel_size, "Also measure groups of cp");
  size("--pipeline-model-parallel-size", options->parallel.pipeline_model_parallel_size, "Also measure groups of pp");
  comm->add_option("--dtype", options->dtype, "Element type")
      ->check(CLI::IsMember({"fp64", "fp32", "bf16", "fp16"}))
      ->capture_default_str();
  comm->add_option("--min-bytes", options->min_bytes, "Smallest tensor; the next is 8 times larger")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  comm->add_option("--max-bytes", options->max_bytes, "Largest tensor (default: 16 MiB on CPUs, 1 GiB on GPUs)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  comm->add_option("--seconds", options->seconds, "Time for each line")
      ->check(CLI::Range(0.001, 3600.0))
      ->capture_default_str();
  comm->add_option("--machine", options->machine,
                   "Put the times into FILE, from which `megatron plan --machine FILE` reckons the time of a step")
      ->type_name("FILE");
  comm->footer(
      "Start it like a run: mpirun -n 8 megatron bench comm. Bus bandwidth is what a link carries: bytes per second "
      "times "
      "2 (n-1)/n for all_reduce, (n-1)/n for all_gather, reduce_scatter and all_to_all, 1 for the others. Ends with 70 "
      "when --check finds a wrong value.");
  comm->callback([options] { run(*options); });
}

}  // namespace megatron
