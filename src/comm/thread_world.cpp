#include "comm/thread_world.h"

#include <exception>
#include <mutex>
#include <thread>

#include "base/host.h"
#include "base/strings.h"
#include "comm/thread_comm.h"

namespace megatron {
namespace {

class ThreadWorld final : public World {
 public:
  ThreadWorld(RankInfo info, std::shared_ptr<ThreadJob> job, std::unique_ptr<Comm> comm)
      : info_(std::move(info)), job_(std::move(job)), comm_(std::move(comm)) {}
  const RankInfo& info() const override { return info_; }
  std::vector<std::string> gather(const std::string& bytes) override { return gather_over(*comm_, bytes); }
  Comm& host_comm() override { return *comm_; }
  void fail(const std::string& reason) noexcept override { job_->fail(str_cat(label(), " failed: ", reason)); }
  void set_timeout(double seconds) override { job_->set_timeout(seconds); }
  bool is_one_process() const override { return true; }

 private:
  RankInfo info_;
  std::shared_ptr<ThreadJob> job_;
  std::unique_ptr<Comm> comm_;
};

}  // namespace

std::vector<std::unique_ptr<World>> make_thread_worlds(int size, double timeout_seconds) {
  const auto job = std::make_shared<ThreadJob>(timeout_seconds);
  auto comms = make_thread_comms(size, "world", job);
  std::vector<std::unique_ptr<World>> worlds;
  for (int r = 0; r < size; ++r) {
    const RankInfo info{r, size, r, size, host_name(), "threads"};
    worlds.push_back(std::make_unique<ThreadWorld>(info, job, std::move(comms[static_cast<size_t>(r)])));
  }
  return worlds;
}

void run_thread_ranks(int size, const std::function<void(World&)>& body, double timeout_seconds) {
  const auto worlds = make_thread_worlds(size, timeout_seconds);
  std::mutex mutex;
  std::exception_ptr first;
  const auto fail = [&](World& world, const std::string& reason) {
    {
      const std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
    }
    world.fail(reason);
  };
  std::vector<std::thread> threads;
  for (const auto& world : worlds) {
    threads.emplace_back([&body, &fail, &w = *world] {
      try {
        body(w);
      } catch (const std::exception& error) {
        fail(w, error.what());
      } catch (...) {
        fail(w, "unknown exception");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace megatron
