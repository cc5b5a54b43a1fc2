// Collectives on paper: what fits comes to its end, everything else is named.
#include "comm/paper_run.h"

#include "base/error.h"
#include "tests/catch.h"

namespace megatron {
namespace {

using Catch::Matchers::ContainsSubstring;

/// Ranks 0, 1 and 2 in communicator "a", 0 and 1 also in "b".
class Paper {
 public:
  Paper() {
    run.comms = {{"a", {0, 1, 2}}, {"b", {0, 1}}};
    for (int64_t rank = 0; rank < 3; ++rank) run.scripts.push_back({rank, {}});
  }
  void add(int rank, int comm, const PlannedCall& call, const std::string& what = "x",
           const std::string& when = "F0.0") {
    run.transfers.push_back(call);
    run.scripts[static_cast<size_t>(rank)].calls.push_back(
        {comm, &run.transfers.back(), run.texts.number(what), run.texts.number(when)});
  }
  void all(const PlannedCall& call) {
    for (int rank = 0; rank < 3; ++rank) add(rank, 0, call);
  }
  PaperRun run;
};

const PlannedCall kSum = PlannedCall::all_reduce(DType::kF32, 12);

PlannedCall sends(int64_t count, int to) {
  return PlannedCall::exchange(DType::kBF16, count, to, 0, -1);
}
PlannedCall receives(int64_t count, int from) {
  return PlannedCall::exchange(DType::kBF16, 0, -1, count, from);
}

}  // namespace

TEST_CASE("paper run: collectives, blocks of several sizes, rings and transfers that fit") {
  Paper p;
  p.all(kSum);
  for (int rank = 0; rank < 3; ++rank) {
    p.add(rank, 0, PlannedCall::all_gather(DType::kF32, {3, 2, 2}, rank));
    p.add(rank, 0, PlannedCall::reduce_scatter(DType::kF32, {3, 2, 2}, rank));
    p.add(rank, 0, PlannedCall::exchange(DType::kF32, 5, (rank + 1) % 3, 5, (rank + 2) % 3));
  }
  p.add(0, 1, sends(4, 1));
  p.add(1, 1, receives(4, 0));
  const PaperReport report = run_on_paper(p.run);
  CHECK(report.communicators == 2);
  CHECK(report.collectives == 3);
  CHECK(report.transfers == 4);
  CHECK(report.alone == 0);
}

TEST_CASE("paper run: members without a script are not waited for, all or none") {
  Paper p;
  p.run.scripts.resize(1);
  p.add(0, 0, kSum);
  p.add(0, 1, sends(4, 1));
  CHECK(run_on_paper(p.run).alone == 2);
  p.run.scripts.push_back({1, {}});
  CHECK_THROWS_WITH(run_on_paper(p.run), ContainsSubstring("some of its members have scripts and some have none"));
}

TEST_CASE("paper run: what differs is refused with both ranks, operations and calls") {
  const auto refused = [](const PlannedCall& other, const char* what, const char* when, const std::string& text) {
    Paper p;
    p.add(0, 0, kSum);
    p.add(1, 0, kSum);
    p.add(2, 0, other, what, when);
    CHECK_THROWS_WITH(run_on_paper(p.run), ContainsSubstring("communicator a: ranks do not do the same") &&
                                               ContainsSubstring("rank 0: F0.0, x: all_reduce(sum) of 12 fp32") &&
                                               ContainsSubstring(text));
  };
  refused(PlannedCall::all_reduce(DType::kF32, 13), "x", "F0.0", "rank 2: F0.0, x: all_reduce(sum) of 13 fp32");
  refused(PlannedCall::all_reduce(DType::kBF16, 12), "x", "F0.0", "rank 2: F0.0, x: all_reduce(sum) of 12 bf16");
  refused(PlannedCall::all_reduce(DType::kF32, 12, Reduction::kMax), "x", "F0.0", "all_reduce(max)");
  refused(PlannedCall::reduce_scatter(DType::kF32, {4, 4, 4}, 2), "x", "F0.0", "reduce_scatter(sum) of 12 fp32");
  refused(kSum, "y", "F0.0", "rank 2: F0.0, y: all_reduce(sum) of 12 fp32 (another operation)");
  refused(kSum, "x", "F1.0", "(another moment)");
  Paper blocks;
  blocks.add(0, 0, PlannedCall::all_gather(DType::kF32, {3, 2, 2}, 0));
  blocks.add(1, 0, PlannedCall::all_gather(DType::kF32, {2, 3, 2}, 1));
  blocks.add(2, 0, PlannedCall::all_gather(DType::kF32, {3, 2, 2}, 2));
  CHECK_THROWS_WITH(run_on_paper(blocks.run), ContainsSubstring("(block 0 has 3 elements and 2)"));
}

TEST_CASE("paper run: transfers of other sizes, types, values or micro-batches are refused") {
  const auto refused = [](const PlannedCall& taken, const char* what, const char* when) {
    Paper p;
    p.add(0, 1, sends(4, 1));
    p.add(1, 1, taken, what, when);
    CHECK_THROWS_WITH(run_on_paper(p.run), ContainsSubstring("rank 0: F0.0, x: send of 4 bf16 to 1; rank 1: "));
  };
  refused(receives(5, 0), "x", "F0.0");
  refused(PlannedCall::exchange(DType::kF32, 0, -1, 4, 0), "x", "F0.0");
  refused(receives(4, 0), "y", "F0.0");
  refused(receives(4, 0), "x", "F1.0");
  Paper p;
  p.add(0, 1, sends(4, 1));
  p.add(1, 1, kSum);
  CHECK_THROWS_WITH(run_on_paper(p.run),
                    ContainsSubstring("2 of 3 ranks wait for ever: rank 0: F0.0, x: send of 4 bf16 to "
                                      "1 over b; rank 1: F0.0, x: all_reduce(sum)"));
  std::swap(p.run.scripts[0].calls, p.run.scripts[1].calls);  // now the collective is met first
  p.run.transfers[0].to = 0;
  CHECK_THROWS_WITH(run_on_paper(p.run), ContainsSubstring("rank 0: F0.0, x: all_reduce(sum) of 12 fp32; rank 1: "));
}

TEST_CASE("paper run: ranks that wait for ever are named with what they wait in") {
  Paper missing;  // rank 2 leaves one out
  missing.add(0, 0, kSum);
  missing.add(1, 0, kSum);
  CHECK_THROWS_WITH(run_on_paper(missing.run), ContainsSubstring("2 of 3 ranks wait for ever: rank 0: F0.0, x: ") &&
                                                   ContainsSubstring("over a; rank 1: "));
  Paper crossed;  // every communicator is in order, together they are not
  for (int rank = 0; rank < 2; ++rank) {
    crossed.add(rank, rank == 0 ? 0 : 1, kSum);
    crossed.add(rank, rank == 0 ? 1 : 0, kSum);
  }
  crossed.add(2, 0, kSum);
  CHECK_THROWS_WITH(run_on_paper(crossed.run), ContainsSubstring("3 of 3 ranks wait for ever"));
  Paper facing;  // both send first
  for (int rank = 0; rank < 2; ++rank) {
    facing.add(rank, 1, sends(4, 1 - rank));
    facing.add(rank, 1, receives(4, 1 - rank));
  }
  CHECK_THROWS_WITH(run_on_paper(facing.run), ContainsSubstring("2 of 3 ranks wait for ever: rank 0: F0.0, x: send"));
}

TEST_CASE("bytes on the wire are those of a ring") {
  CHECK(wire_bytes(PlannedCall::all_reduce(DType::kF32, 8), 4) == 48);
  CHECK(wire_bytes(PlannedCall::all_reduce(DType::kF32, 8), 1) == 0);
  CHECK(wire_bytes(PlannedCall::all_gather(DType::kBF16, {4, 4, 4, 4}, 1), 4) == 24);
  CHECK(wire_bytes(PlannedCall::reduce_scatter(DType::kF64, {4, 4}, 1), 2) == 32);
  CHECK(wire_bytes(PlannedCall::all_to_all(DType::kF32, 8, 2), 2) == 16);
  CHECK(wire_bytes(sends(4, 1), 2) == 8);
  CHECK(wire_bytes(receives(4, 0), 2) == 0);
}

}  // namespace megatron
