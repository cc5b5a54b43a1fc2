// The thread communicators: what they compute, and that nobody waits for ever.
#include "comm/thread_comm.h"
#include "base/host.h"

#include <chrono>
#include <thread>

#include "base/error.h"
#include "base/strings.h"
#include "comm/mesh_comms.h"
#include "comm/reduce.h"
#include "comm/self_check.h"
#include "comm/start_check.h"
#include "comm/thread_world.h"
#include "tests/catch.h"
#include "tests/comm/random_sums.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

/// What every rank throws when each runs body(world); "" where it throws nothing.
std::vector<std::string> messages(int ranks, const std::function<void(World&)>& body) {
  std::vector<std::string> texts(static_cast<size_t>(ranks));
  const auto start = std::chrono::steady_clock::now();
  message_of([&] {
    run_thread_ranks(ranks, [&](World& world) {
      try {
        body(world);
      } catch (const std::exception& error) {
        texts[static_cast<size_t>(world.rank())] = error.what();
        throw;
      }
    });
  });
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
  return texts;
}

Tensor floats(std::vector<float>& values) {
  return make_tensor(values.data(), DType::kF32, {static_cast<int64_t>(values.size())});
}

}  // namespace

TEST_CASE("threads: every collective, type and kind of block on 1 to 4 ranks") {
  for (const int ranks : {1, 2, 3, 4}) {
    std::vector<CommCheck> results(static_cast<size_t>(ranks));
    run_thread_ranks(ranks, [&](World& world) {
      const auto device = make_cpu_device();
      results[static_cast<size_t>(world.rank())] = check_comm(world.host_comm(), *device);
    });
    for (const CommCheck& result : results) {
      CHECK(result.cases > 500);
      for (const std::string& failure : result.failures) FAIL_CHECK(failure);
    }
  }
}

TEST_CASE("the check of communicators finds a wrong element of every operation") {
  class Wrong final : public Comm {  // spoils the last element that rank 1 gets from one operation
   public:
    Wrong(Comm& comm, CommOp op) : comm_(comm), op_(op) {}
    int rank() const override { return comm_.rank(); }
    int size() const override { return comm_.size(); }
    const std::string& name() const override { return comm_.name(); }
    void run(const CommCall& call) override {
      comm_.run(call);
      if (call.op != op_ || rank() != 1 || call.target.numel() == 0) return;
      static_cast<std::byte*>(call.target.data)[call.target.bytes() - 1] ^= std::byte{0x44};
    }
    std::unique_ptr<Comm> split(int colour, int key, const std::string& name) override {
      return comm_.split(colour, key, name);
    }

   private:
    Comm& comm_;
    CommOp op_;
  };
  const std::vector<std::pair<CommOp, std::string>> operations = {
      {CommOp::kAllReduce, "all_reduce"},         {CommOp::kAllGather, "all_gather"},
      {CommOp::kReduceScatter, "reduce_scatter"}, {CommOp::kAllToAll, "all_to_all"},
      {CommOp::kBroadcast, "broadcast"},          {CommOp::kExchange, "exchange"}};
  for (const auto& [op, name] : operations) {
    INFO(name);
    std::vector<CommCheck> results(2);
    run_thread_ranks(2, [&, spoiled = op](World& world) {
      Wrong wrong(world.host_comm(), spoiled);
      const auto device = make_cpu_device();
      results[static_cast<size_t>(world.rank())] = check_comm(wrong, *device);
    });
    CHECK(results[0].failures.empty());
    CHECK(results[1].failures.size() > 30);
    for (const std::string& failure : results[1].failures) {
      const bool transfer = op == CommOp::kExchange && contains(failure, "receive");
      CHECK((transfer || contains(failure, name)));
    }
  }
}

TEST_CASE("sums run in rank order, maxima keep NaN") {
  std::vector<float> a = {1e8F, 1}, b = {1, 2}, c = {-1e8F, NAN}, sum(2);
  reduce_in_rank_order(Reduction::kSum, DType::kF32, {a.data(), b.data(), c.data()}, sum.data(), 2);
  CHECK(sum[0] == 0);  // (1e8 + 1) - 1e8: any other order gives 1
  reduce_in_rank_order(Reduction::kSum, DType::kF32, {a.data(), c.data(), b.data()}, sum.data(), 1);
  CHECK(sum[0] == 1);
  for (const auto& order : {std::vector<const void*>{a.data(), c.data()}, {c.data(), a.data()}}) {
    reduce_in_rank_order(Reduction::kMax, DType::kF32, order, sum.data(), 2);
    CHECK(sum[0] == 1e8F);
    CHECK(std::isnan(sum[1]));
  }
  // bf16 sums are kept in fp32: 256 + 1 + 1 is 258, whereas 256 + 1 rounds back to 256
  std::vector<BFloat16> x = {BFloat16(256.F)}, one = {BFloat16(1.F)};
  reduce_in_rank_order(Reduction::kSum, DType::kBF16, {x.data(), one.data(), one.data()}, x.data(), 1);
  CHECK(static_cast<float>(x[0]) == 258);
}

TEST_CASE("threads: a rank that throws ends the waits of all others") {
  for (const char* where : {"all_reduce", "receive", "send", "split", "gather"}) {
    INFO(where);
    const std::string place = where;
    const auto texts = messages(4, [&](World& world) {
      world.barrier();
      if (world.rank() == 2) throw DataError("bad data");
      std::vector<float> values(1000);
      Comm& comm = world.host_comm();
      if (place == "all_reduce") comm.all_reduce(floats(values));
      if (place == "receive") comm.receive(floats(values), 2);
      if (place == "send") comm.send(floats(values), 2);
      if (place == "split") comm.split(0, 0, "part");
      if (place == "gather") world.gather("x");
    });
    CHECK(texts[2] == "bad data");
    for (const size_t r : {0, 1, 3}) {
      CHECK(contains(texts[r], "rank 2 ("));
      CHECK(contains(texts[r], "failed: bad data"));
    }
  }
  CHECK(message_of([] {
          run_thread_ranks(2, [](World& w) { w.rank() == 1 ? throw DataError("first") : w.barrier(); });
        }) == "first");
}

TEST_CASE("threads: failures reach the communicators that were split off") {
  const auto texts = messages(4, [&](World& world) {
    const auto part = world.host_comm().split(world.rank() / 2, 0, "tp");
    if (world.rank() == 3) throw DataError("bad data");
    std::vector<float> values(10);
    for (;;) part->all_reduce(floats(values));  // ranks 0 and 1 would go on for ever
  });
  for (const size_t r : {0, 1, 2}) CHECK(contains(texts[r], "failed: bad data"));
}

TEST_CASE("threads: ranks that never meet are named after a while") {
  const std::string text = message_of([&] {
    run_thread_ranks(
        3,
        [&](World& world) {
          world.barrier();
          std::vector<float> mine(3);
          if (world.rank() == 0) world.host_comm().all_reduce(floats(mine));
          if (world.rank() == 1) world.host_comm().receive(floats(mine), 0);
        },
        0.3);
  });
  CHECK(
      text ==
      "communicator world: the ranks did not come together within 0.3 s:\n  rank 0 waits in all_reduce(sum) of 3 fp32\n"
      "  rank 1 waits in receive of 3 fp32 from 0\n  rank 2 is elsewhere");
}

TEST_CASE("threads: different collectives are refused on all ranks with one message") {
  std::vector<std::vector<float>> values(3, std::vector<float>(12));
  const auto texts_of = [&](const std::function<void(Comm&, Tensor)>& odd) {
    return messages(3, [&](World& world) {
      const Tensor t = floats(values[static_cast<size_t>(world.rank())]);
      if (world.rank() == 1) return odd(world.host_comm(), t);
      world.host_comm().all_reduce(t);
    });
  };
  const auto expect = [](const std::vector<std::string>& texts, const std::string& what) {
    for (const std::string& text : texts) {
      CHECK(text == texts[0]);
      CHECK(contains(text,
                     "communicator world: the ranks call different collectives: rank 0: all_reduce(sum) of 12 fp32; "
                     "rank 1: " +
                         what));
    }
  };
  expect(texts_of([](Comm& c, Tensor t) { c.all_reduce(t, Reduction::kMax); }), "all_reduce(max) of 12 fp32");
  expect(texts_of([](Comm& c, Tensor t) {
           t.shape = {11};
           c.all_reduce(t);
         }),
         "all_reduce(sum) of 11 fp32");
  expect(texts_of([](Comm& c, Tensor t) {
           t.dtype = DType::kI32;
           c.all_reduce(t);
         }),
         "all_reduce(sum) of 12 int32");
  expect(texts_of([](Comm& c, Tensor t) { c.broadcast(t, 1); }), "broadcast of 12 fp32 from 1");
  expect(texts_of([](Comm& c, Tensor) { c.barrier(); }), "barrier");
}

TEST_CASE("threads: blocks and transfers that do not fit are refused") {
  const auto blocks = messages(2, [&](World& world) {
    std::vector<float> mine(world.rank() == 0 ? 3 : 2), all(6);
    const std::vector<int64_t> counts = world.rank() == 0 ? std::vector<int64_t>{3, 3} : std::vector<int64_t>{4, 2};
    world.host_comm().all_gather(floats(mine), floats(all), counts.data());
  });
  CHECK(blocks[0] == blocks[1]);
  CHECK(contains(blocks[0], "(block 0 has 3 elements and 4)"));
  const auto transfers = messages(2, [&](World& world) {
    std::vector<float> values(world.rank() == 0 ? 5 : 4);
    if (world.rank() == 0) world.host_comm().send(floats(values), 1);
    if (world.rank() == 1) world.host_comm().receive(floats(values), 0);
  });
  CHECK(transfers[0] == transfers[1]);
  CHECK(contains(transfers[0], "rank 0 sends 5 fp32 to rank 1, which expects 4 fp32"));
  const auto strided = messages(1, [&](World& world) {
    std::vector<float> values(8);
    Tensor t = make_tensor(values.data(), DType::kF32, {2, 2});
    t.strides = {4, 1};
    world.host_comm().all_reduce(t);
  });
  CHECK(contains(strided[0], "collectives take contiguous tensors"));
}

TEST_CASE("groups of a mesh are Megatron's") {
  // 16 ranks, tp 2, cp 2, dp 2, pp 2: the groups of rank 5 = (tp 1, cp 0, dp 1, pp 0)
  Mesh mesh;
  mesh.axes = {{"tp", 2, 1}, {"cp", 2, 0}, {"dp", 2, 1}, {"pp", 2, 0}};
  using Ranks = std::vector<int>;
  CHECK(group_of(mesh, {"tp"}) == Ranks{4, 5});
  CHECK(group_of(mesh, {"cp"}) == Ranks{5, 7});
  CHECK(group_of(mesh, {"dp"}) == Ranks{1, 5});
  CHECK(group_of(mesh, {"pp"}) == Ranks{5, 13});
  CHECK(group_of(mesh, {"dp", "cp"}) == Ranks{1, 3, 5, 7});  // cp fastest
  CHECK(group_of(mesh, {"tp", "pp"}) == Ranks{4, 5, 12, 13});
}

TEST_CASE("mesh communicators hold the ranks of their groups, in order") {
  run_thread_ranks(8, [](World& world) {
    const int r = world.rank();
    Mesh mesh;
    mesh.axes = {{"tp", 2, r % 2}, {"cp", 2, r / 2 % 2}, {"dp", 2, r / 4}};
    const auto device = make_cpu_device();
    MeshComms comms = make_mesh_comms(world, mesh, *device);
    for (const std::string name : {"tp", "cp", "dp"}) {
      Comm* comm = comms.find(name);
      if (comm == nullptr) throw InternalError("no " + name);
      const std::vector<int> group = group_of(mesh, {name});
      std::vector<int64_t> members(group.size()), ones(group.size(), 1);
      int64_t mine = r;
      comm->all_gather(make_tensor(&mine, DType::kI64, {1}),
                       make_tensor(members.data(), DType::kI64, {static_cast<int64_t>(members.size())}), ones.data());
      if (std::vector<int>(members.begin(), members.end()) != group) throw InternalError("wrong group " + name);
    }
    if (comms.axes(mesh).size() != 3 || comms.find("pp") != nullptr) throw InternalError("axes");
  });
}

TEST_CASE("ranks that were started differently are all named") {
  const auto texts = messages(4, [](World& world) {
    StartFacts facts = {{"build", "b1"}, {"configuration", "c1"}};
    if (world.rank() == 1) facts[0].second = "b2";
    if (world.rank() == 3) facts[1].second = "c3";
    compare_start(world, facts);
  });
  for (const std::string& text : texts) {
    CHECK(text == texts[0]);
    CHECK(contains(text, "rank 1 (" + host_name() + ") has build b2, rank 0 (" + host_name() + ") has b1"));
    CHECK(contains(text, "rank 3 (" + host_name() + ") has configuration c3"));
    CHECK(!contains(text, "rank 2"));
  }
  CHECK(messages(3, [](World& w) { compare_start(w, {{"build", build_identity()}}); }) == std::vector<std::string>(3));
}
