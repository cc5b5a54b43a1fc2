#include "comm/world.h"

#include <numeric>

#include "base/host.h"
#include "base/strings.h"
#include "comm/thread_comm.h"

namespace megatron {
namespace {

class SingleWorld final : public World {
 public:
  SingleWorld() : comm_(std::move(make_thread_comms(1)[0])) {
    info_.host = host_name();
    info_.launcher = "one rank";
  }
  const RankInfo& info() const override { return info_; }
  std::vector<std::string> gather(const std::string& bytes) override { return {bytes}; }
  Comm& host_comm() override { return *comm_; }
  void fail(const std::string&) noexcept override {}
  void set_timeout(double) override {}
  bool is_one_process() const override { return true; }

 private:
  RankInfo info_;
  std::unique_ptr<Comm> comm_;
};

}  // namespace

std::string World::label() const {
  return str_cat("rank ", info().rank, " (", info().host, ")");
}

std::unique_ptr<World> make_single_world() {
  return std::make_unique<SingleWorld>();
}

void run_as_rank(World& world, const std::function<void()>& body) {
  try {
    body();
  } catch (const PeerFailure& error) {
    world.fail(error.what());
    if (world.rank() > 0) throw SaidElsewhere(error.code(), error.what());
    throw;
  } catch (const AgreedError& error) {
    world.part();
    if (world.rank() > 0) throw SaidElsewhere(error.code(), error.what());
    throw;
  } catch (const Error& error) {
    world.fail(error.what());
    if (world.rank() > 0 && world.says_first(error.what())) throw SaidElsewhere(error.code(), error.what());
    throw;
  } catch (const std::exception& error) {
    world.fail(error.what());
    throw;
  }
}

std::vector<std::string> gather_over(Comm& comm, const std::string& bytes) {
  const auto ranks = static_cast<size_t>(comm.size());
  std::vector<int64_t> sizes(ranks), ones(ranks, 1);
  int64_t mine = static_cast<int64_t>(bytes.size());
  comm.all_gather(make_tensor(&mine, DType::kI64, {1}), make_tensor(sizes.data(), DType::kI64, {comm.size()}),
                  ones.data());
  std::string copy = bytes, all(static_cast<size_t>(std::accumulate(sizes.begin(), sizes.end(), int64_t{0})), '\0');
  comm.all_gather(make_tensor(copy.data(), DType::kU8, {mine}),
                  make_tensor(all.data(), DType::kU8, {static_cast<int64_t>(all.size())}), sizes.data());
  std::vector<std::string> parts;
  size_t begin = 0;
  for (const int64_t size : sizes) {
    parts.push_back(all.substr(begin, static_cast<size_t>(size)));
    begin += static_cast<size_t>(size);
  }
  return parts;
}

}  // namespace megatron
