// How a process learns its rank, and how ranks meet over TCP.
#include "comm/launch.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include "comm/socket.h"
#include "comm/thread_world.h"
#include "tests/catch.h"
#include "tests/comm/jobs.h"
#include "tests/program/rig.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

const std::string kRanks = MEGATRON_COMM_RANKS;
using Hosts = std::vector<std::string>;

/// A port that nobody listens on now.
int free_port() {
  const Socket socket(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (bind(socket.fd(), reinterpret_cast<sockaddr*>(&address), size) != 0) throw std::runtime_error("bind");
  getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

std::string variables(int rank, int size, int port) {
  return str_cat("RANK=", rank, " WORLD_SIZE=", size, " MASTER_ADDR=localhost MASTER_PORT=", port);
}

std::vector<std::string> job_of(int size) {
  std::vector<std::string> environments;
  const int port = free_port();
  for (int r = 0; r < size; ++r) environments.push_back(variables(r, size, port));
  return environments;
}

}  // namespace

TEST_CASE("Slurm node lists") {
  CHECK(expand_node_list("login") == Hosts{"login"});
  CHECK(expand_node_list("a,b-1") == Hosts{"a", "b-1"});
  CHECK(expand_node_list("gpu[01-03,7],login") == Hosts{"gpu01", "gpu02", "gpu03", "gpu7", "login"});
  CHECK(expand_node_list("n[098-101]") == Hosts{"n098", "n099", "n100", "n101"});
  CHECK(expand_node_list("r[1-2]n[3-4]x,z") == Hosts{"r1n3x", "r1n4x", "r2n3x", "r2n4x", "z"});
  for (const char* bad : {"", "a,,b", "a[1-2", "a1]", "a[2-1]", "a[x]", "a[]", "a[1-]", "a[1-99999999999]"}) {
    INFO(bad);
    CHECK(contains(message_of([&] { expand_node_list(bad); }), str_cat("node list '", bad, "' cannot be read")));
  }
}

TEST_CASE("the launcher is recognised from the environment") {
  using Kind = Launch::Kind;
  CHECK(detect_launch({}).kind == Kind::kSingle);
  CHECK(detect_launch({{"RANK", "0"}, {"WORLD_SIZE", "1"}}).kind == Kind::kSingle);
  const Launch mpi = detect_launch({{"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_RANK", "2"}, {"RANK", "0"}});
  CHECK(mpi.kind == Kind::kMpi);
  CHECK(mpi.size == 4);
  CHECK(mpi.rank == 2);
  const Launch tcp = detect_launch(
      {{"RANK", "3"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "1"}, {"MASTER_ADDR", "h"}, {"MASTER_PORT", "1234"}});
  CHECK(tcp.kind == Kind::kTcp);
  CHECK(tcp.rank == 3);
  CHECK(tcp.local_rank == 1);
  CHECK(tcp.master == "h");
  CHECK(tcp.port == 1234);

  Environment slurm = {{"SLURM_PROCID", "5"},  {"SLURM_NTASKS", "8"},          {"SLURM_LOCALID", "1"},
                       {"SLURM_STEP_ID", "0"}, {"SLURM_NODELIST", "g[07-08]"}, {"SLURM_JOB_ID", "71234"}};
  const Launch step = detect_launch(slurm);
  CHECK(step.kind == Kind::kTcp);
  CHECK(step.rank == 5);
  CHECK(step.size == 8);
  CHECK(step.local_rank == 1);
  CHECK(step.master == "g07");
  CHECK(step.port == 15000 + 71234 % 15000);
  slurm["MASTER_ADDR"] = "other";
  slurm["MASTER_PORT"] = "99";
  slurm["SLURM_STEP_NUM_TASKS"] = "6";  // a step smaller than its job
  CHECK(detect_launch(slurm).master == "other");
  CHECK(detect_launch(slurm).port == 99);
  CHECK(detect_launch(slurm).size == 6);
  slurm["PMIX_RANK"] = "5";
  CHECK(detect_launch(slurm).kind == Kind::kMpi);
  slurm.erase("PMIX_RANK");
  slurm.erase("SLURM_STEP_ID");  // the batch script itself
  CHECK(detect_launch(slurm).kind == Kind::kSingle);
}

TEST_CASE("incomplete and impossible variables are refused by name") {
  const auto text = [](const Environment& e) { return message_of([&] { detect_launch(e); }); };
  CHECK(contains(text({{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}, {"MASTER_PORT", "1"}}),
                 "RANK is '2', which is not a whole number from 0 to 1"));
  CHECK(contains(text({{"RANK", "0"}, {"WORLD_SIZE", "2x"}}), "WORLD_SIZE is '2x'"));
  CHECK(contains(text({{"RANK", "0"}, {"WORLD_SIZE", "2"}}), "MASTER_ADDR"));
  CHECK(contains(text({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}}), "MASTER_PORT is not set"));
  CHECK(contains(text({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}, {"MASTER_PORT", "70000"}}),
                 "MASTER_PORT is '70000'"));
  CHECK(contains(text({{"SLURM_PROCID", "1"}, {"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "2"}}), "SLURM_LOCALID"));
}

TEST_CASE("ranks meet over TCP") {
  const JobResult job = run_together(job_of(4), kRanks + " gather");
  INFO(job.output);
  CHECK(job.code == 0);
  for (int r = 0; r < 4; ++r) CHECK(contains(job.output, str_cat("rank ", r, ": <0><1><2><3>")));
  const JobResult start = run_together(job_of(3), kRanks + " start");
  INFO(start.output);
  CHECK(start.code == 2);
  CHECK(start.count("has configuration c2, rank 0 (") == 3);
}

TEST_CASE("a rank that does not come to the rendezvous is named, on all ranks") {
  auto environments = job_of(4);
  environments.erase(environments.begin() + 2);
  const JobResult job = run_together(environments, kRanks + " gather");
  INFO(job.output);
  CHECK(job.code == 4);
  CHECK(job.seconds < 10);
  CHECK(job.count("error: rank 0 waited 2 s") == 3);
  CHECK(job.count("missing: 2.") == 3);
  const JobResult alone = run_together({variables(1, 2, free_port())}, kRanks + " gather");
  INFO(alone.output);
  CHECK(alone.code == 4);
  CHECK(contains(alone.output, "could not join rank 0 at localhost:"));
  CHECK(contains(alone.output, "Check MASTER_ADDR and MASTER_PORT"));
}

TEST_CASE("ranks that disagree about the world are told so") {
  const int port = free_port();
  const JobResult job =
      run_together({variables(0, 2, port), variables(1, 3, port), variables(2, 3, port)}, kRanks + " gather");
  INFO(job.output);
  CHECK(job.code >= 2);
  CHECK(job.seconds < 10);
  CHECK(job.count("was started for 3 ranks, rank 0 (") >= 2);
  const int other = free_port();
  const JobResult twice =
      run_together({variables(0, 3, other), variables(1, 3, other), variables(1, 3, other)}, kRanks + " gather");
  INFO(twice.output);
  CHECK(twice.count("exists twice") == 3);
}

TEST_CASE("strangers at the door of the rendezvous are sent away") {
  const int port = free_port();
  const JobResult job =
      run_shell(str_cat("(env ", variables(0, 2, port), " ", kRanks, " gather & env ", variables(1, 2, port),
                        " sh -c 'sleep 1; exec ", kRanks, " gather' & sleep 0.4; bash -c 'exec 3<>/dev/tcp/127.0.0.1/",
                        port, "; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3'; wait)"));
  INFO(job.output);
  CHECK(contains(job.output, "rank 0: <0><1>"));
  CHECK(contains(job.output, "rank 1: <0><1>"));
}

TEST_CASE("without MPI, host tensors between processes are refused with the remedy") {
  const JobResult job = run_together(job_of(2), kRanks + " host_comm");
  INFO(job.output);
  CHECK(job.code == 4);
  CHECK(contains(job.output, "start them with mpirun"));
}

TEST_CASE("a port that is taken is named") {
  const Socket first = listen_on("localhost", 0);
  sockaddr_in6 address{};
  socklen_t size = sizeof address;
  getsockname(first.fd(), reinterpret_cast<sockaddr*>(&address), &size);  // the port is at one place in both families
  const int port = ntohs(address.sin6_port);
  CHECK(contains(message_of([&] { listen_on("localhost", port); }), str_cat("cannot listen on port ", port)));
}
