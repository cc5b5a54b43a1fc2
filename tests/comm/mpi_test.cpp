// Communicators over MPI: the same checks as with threads, in processes that mpirun starts.
#include "comm/launch.h"
#include "comm/thread_world.h"
#include "tests/catch.h"
#include "tests/comm/jobs.h"
#include "tests/comm/random_sums.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

const std::string kRanks = MEGATRON_COMM_RANKS;

bool can_run() {
  if (has_mpi() && have_mpirun()) return true;
  WARN("no MPI in this build, or no mpirun: not tested");
  return false;
}

}  // namespace

TEST_CASE("mpi: every collective, type and kind of block on 2, 3 and 4 ranks") {
  if (!can_run()) return;
  for (const int ranks : {2, 3, 4}) {
    const JobResult job = run_mpirun(ranks, kRanks + " check");
    INFO(job.output);
    CHECK(job.code == 0);
    CHECK(job.count(" cases, 0 failures") == ranks);
    for (int r = 0; r < ranks; ++r) CHECK(contains(job.output, str_cat("local rank ", r, " of ", ranks)));
  }
}

TEST_CASE("mpi: sums have the bits of the thread communicators") {
  if (!can_run()) return;
  for (const int ranks : {2, 3, 4}) {
    std::vector<std::string> bits(static_cast<size_t>(ranks));
    run_thread_ranks(ranks, [&](World& w) { bits[static_cast<size_t>(w.rank())] = bits_of_sums(w.host_comm()); });
    const JobResult job = run_mpirun(ranks, kRanks + " bits");
    INFO(job.output);
    for (int r = 0; r < ranks; ++r) {
      CHECK(bits[static_cast<size_t>(r)] == bits[0]);
      CHECK(contains(job.output, str_cat("rank ", r, ": ", bits[0])));
    }
  }
}

TEST_CASE("mpi: one communicator per mesh axis") {
  if (!can_run()) return;
  const JobResult job = run_mpirun(4, kRanks + " mesh");
  INFO(job.output);
  CHECK(contains(job.output, "rank 0: tp 11 dp 101"));
  CHECK(contains(job.output, "rank 1: tp 11 dp 1010"));
  CHECK(contains(job.output, "rank 2: tp 1100 dp 101"));
  CHECK(contains(job.output, "rank 3: tp 1100 dp 1010"));
}

TEST_CASE("mpi: a rank that fails ends the others, which name it") {
  if (!can_run()) return;
  const JobResult job = run_mpirun(3, kRanks + " one_throws");
  INFO(job.output);
  CHECK(job.code != 0);
  CHECK(job.seconds < 10);
  CHECK(job.count("error: the data of rank 1 is bad") == 1);
  CHECK(job.count("failed: the data of rank 1 is bad") == 2);
  CHECK(job.count("quiet: rank 1 (") == 1);  // rank 0 says what it saw
  CHECK(job.count("was in all_reduce(sum) of 1 fp32 over world (rank ") == 2);
}

TEST_CASE("mpi: ranks that call different collectives are told both") {
  if (!can_run()) return;
  const JobResult job = run_mpirun(2, kRanks + " mismatch");
  INFO(job.output);
  CHECK(job.code != 0);
  CHECK(contains(job.output, "the ranks call different collectives"));
  CHECK(contains(job.output, "all_reduce(sum) of 4 fp32"));
  CHECK(contains(job.output, "all_reduce(max) of 3 fp32"));
  CHECK(job.count("error:") == 2);
}

TEST_CASE("mpi: a rank that does not come is waited for so long") {
  if (!can_run()) return;
  const JobResult job = run_mpirun(2, kRanks + " one_sleeps");
  INFO(job.output);
  CHECK(job.code != 0);
  CHECK(contains(job.output, "all_reduce(sum) of 1 fp32 over world (rank 0 of 2) did not end within 1 s"));
}

TEST_CASE("mpi: when nothing moves, every rank learns who is to blame, and the job ends") {
  if (!can_run()) return;
  for (const std::string how : {"hang", "stops"}) {
    const JobResult job = run_mpirun(3, kRanks + " " + how);
    INFO(job.output);
    CHECK(job.code == 4);
    CHECK(job.seconds < 10);
    const bool stopped = how == "stops";
    CHECK(job.count("culprit rank 1 (") >= 2);  // mpirun wakes the stopped one, which may also say it
    CHECK(job.count(stopped ? "has given no sign of life for" : "has not moved for") >= 2);
    CHECK(job.count("it is in iteration 2 outside of collectives; the last was call 1 of dp, rank 1 of 3") >= 2);
    for (const int r : {0, 2}) {
      const std::string where =
          str_cat("waits in call 2 of dp, rank ", r, " of 3: all_reduce(max) of 1 fp32, not done");
      CHECK(job.count(where) >= 2);
    }
  }
}

TEST_CASE("mpi: a rank that dies ends the others at once, which name it") {
  if (!can_run()) return;
  const JobResult job = run_mpirun(3, kRanks + " dies");
  INFO(job.output);
  CHECK(job.code != 0);
  CHECK(job.seconds < 10);
  CHECK(job.count("culprit rank 1 (") == 2);
  CHECK(job.count("died: its process is gone; when last heard of it ") == 2);
}

TEST_CASE("mpi: what ends all ranks alike is said by the first") {
  if (!can_run()) return;
  const JobResult job = run_mpirun(3, kRanks + " alike");
  INFO(job.output);
  CHECK(job.code == 2);
  CHECK(job.count("error: nobody can use this") == 1);
  CHECK(job.count("quiet: nobody can use this") == 2);
}

TEST_CASE("mpi: ranks started with different configurations refuse to start") {
  if (!can_run()) return;
  const JobResult job = run_mpirun(2, kRanks + " start");
  INFO(job.output);
  CHECK(job.code == 2);
  CHECK(job.count("has configuration c2, rank 0 (") == 2);
  CHECK(job.count("error: ") == 1);
}

TEST_CASE("mpi: the program runs alone without mpirun") {
  const JobResult job = run_shell(kRanks + " check");
  INFO(job.output);
  CHECK(job.code == 0);
  CHECK(contains(job.output, " cases, 0 failures, local rank 0 of 1"));
}
