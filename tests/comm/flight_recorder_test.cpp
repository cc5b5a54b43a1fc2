// What a rank did last.
#include "comm/flight_recorder.h"

#include "base/error.h"
#include "comm/mesh_comms.h"
#include "comm/thread_world.h"
#include "tests/catch.h"
#include "tests/program/rig.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

Tensor one(float& value) {
  return make_tensor(&value, DType::kF32, {});
}

}  // namespace

TEST_CASE("collectives are recorded with their communicator, number, phase and end") {
  std::vector<std::shared_ptr<FlightRecorder>> recorders;
  for (int r = 0; r < 2; ++r) recorders.push_back(std::make_shared<FlightRecorder>(3));
  CHECK(recorders[0]->where() == "is in start, without any collective so far");
  const std::string text = message_of([&] {
    run_thread_ranks(2, [&](World& world) {
      const auto& recorder = recorders[static_cast<size_t>(world.rank())];
      Mesh mesh;
      mesh.axes = {{"tp", 2, world.rank()}};
      const auto device = make_cpu_device();
      MeshComms comms = make_mesh_comms(world, mesh, *device, recorder);
      float value = 1;
      for (int i = 0; i < 3; ++i) comms.find("tp")->all_reduce(one(value));
      recorder->set_phase("iteration 7");
      const auto part = comms.find("tp")->split(0, 0, "part");
      part->broadcast(one(value), 1);
      if (world.rank() == 1) throw DataError("bad");
      part->barrier();
    });
  });
  CHECK(text == "bad");
  const auto records = recorders[0]->records();
  REQUIRE(records.size() == 3);  // the oldest are gone
  CHECK(records[0].comm == "tp, rank 0 of 2");
  CHECK(records[0].sequence == 3);
  CHECK(records[0].call == "all_reduce(sum) of 1 fp32");
  CHECK(records[0].phase == "start");
  CHECK(records[0].done);
  CHECK(records[1].comm == "part, rank 0 of 2");
  CHECK(records[1].sequence == 1);
  CHECK(records[1].call == "broadcast of 1 fp32 from 1");
  CHECK(records[1].phase == "iteration 7");
  CHECK(!records[2].done);
  CHECK(contains(recorders[0]->where(), "waits in call 2 of part, rank 0 of 2: barrier, not done"));
  CHECK(contains(recorders[1]->where(), "is in iteration 7 outside of collectives; the last was call 1 of part"));
}
