// The communicator without traffic: what each collective leaves on each rank, and the groups that it stands for.
#include "comm/local_comm.h"

#include <vector>

#include "base/error.h"
#include "comm/mesh_comms.h"
#include "comm/thread_world.h"
#include "tests/catch.h"
#include "tests/program/rig.h"

using namespace megatron;
using namespace megatron::tiny;

namespace {

using Numbers = std::vector<float>;

Tensor view(Numbers& values) {
  return make_tensor(values.data(), DType::kF32, {static_cast<int64_t>(values.size())});
}

/// body(comm) on each of three ranks; what it returned, by rank.
std::vector<Numbers> on_three_ranks(const std::function<Numbers(Comm&)>& body) {
  std::vector<Numbers> results(3);
  run_thread_ranks(3, [&](World& world) {
    const auto device = make_cpu_device();
    results[static_cast<size_t>(world.rank())] = body(*make_local_comm(world, *device));
  });
  return results;
}

}  // namespace

TEST_CASE("without traffic a target takes what its rank has of the source, block by block") {
  const std::vector<int64_t> uneven = {3, 2, 1};
  const auto reduced = on_three_ranks([&](Comm& comm) {
    Numbers x = {1, 2, 3}, y = {0, 0, 0};
    comm.all_reduce(view(x), view(y), Reduction::kSum, nullptr);
    comm.all_reduce(view(y));  // in place: nothing moves
    return y;
  });
  CHECK(reduced[2] == Numbers{1, 2, 3});
  const auto gathered = on_three_ranks([&](Comm& comm) {
    Numbers y(6, -1), x = {1, 2, 3};
    x.resize(static_cast<size_t>(uneven[static_cast<size_t>(comm.rank())]));
    comm.all_gather(view(x), view(y), uneven.data());
    return y;
  });
  CHECK(gathered[0] == Numbers{1, 2, 3, 1, 2, 1});
  CHECK(gathered[1] == Numbers{1, 2, -1, 1, 2, 1});  // no more than it has
  CHECK(gathered[2] == Numbers{1, -1, -1, 1, -1, 1});
  const auto scattered = on_three_ranks([&](Comm& comm) {
    Numbers x = {1, 2, 3, 4, 5, 6}, y(static_cast<size_t>(uneven[static_cast<size_t>(comm.rank())]));
    comm.reduce_scatter(view(x), view(y), uneven.data());
    return y;
  });
  CHECK(scattered[0] == Numbers{1, 2, 3});
  CHECK(scattered[1] == Numbers{4, 5});
  CHECK(scattered[2] == Numbers{6});
  const auto exchanged = on_three_ranks([&](Comm& comm) {
    Numbers x = {7, 8}, y = {0, 0, 0};
    comm.exchange(view(x), (comm.rank() + 1) % 3, view(y), (comm.rank() + 2) % 3);
    comm.send(view(x), (comm.rank() + 1) % 3);  // nobody takes it, and nobody waits
    comm.broadcast(view(x), 1);
    comm.barrier();
    return y;
  });
  CHECK(exchanged[1] == Numbers{7, 8, 0});
  const std::vector<int64_t> sent = {1, 2, 3}, got = {2, 2, 1};
  const auto swapped = on_three_ranks([&](Comm& comm) {
    Numbers x = {1, 2, 3, 4, 5, 6}, y(5, 0);
    if (comm.rank() == 1) comm.all_to_all(view(x), view(y), sent.data(), got.data());  // own counts agree here
    return y;
  });
  CHECK(swapped[1] == Numbers{1, 0, 2, 3, 4});
}

TEST_CASE("without traffic the groups of a mesh are the real ones, and nobody is waited for") {
  run_thread_ranks(8, [](World& world) {
    const int r = world.rank();
    Mesh mesh;
    mesh.axes = {{"tp", 2, r % 2}, {"cp", 2, r / 2 % 2}, {"dp", 2, r / 4}};
    const auto device = make_cpu_device();
    MeshComms comms = make_mesh_comms(world, mesh, *device, nullptr, Traffic::kLocal);
    for (const auto& [name, size, place] :
         {std::tuple("tp", 2, r % 2), std::tuple("cp", 2, r / 2 % 2), std::tuple("dp", 2, r / 4)}) {
      const Comm* comm = comms.find(name);
      if (comm == nullptr || comm->size() != size || comm->rank() != place) throw InternalError(name);
    }
    float value = 1;
    if (r == 3) comms.find("tp")->all_reduce(make_tensor(&value, DType::kF32, {}));  // alone
  });
}
