// Parallel work whose results are used in the order of the input, in bounded memory.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace megatron {

/// Calls sink(work(item)) for every item of `source` until that gives nullopt. `work` runs on `workers` threads;
/// `source` and `sink` run on the calling thread, `sink` in the order of `source`. At most `in_flight` items exist at a
/// time. An exception of `work` is rethrown when its turn comes to be sunk, so the first error of the input wins,
/// whatever the number of workers.
template <typename In, typename Out>
class OrderedPipeline {
 public:
  explicit OrderedPipeline(int workers, std::function<Out(In&&)> work) : work_(std::move(work)) {
    for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { loop(); });
  }

  ~OrderedPipeline() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  OrderedPipeline(const OrderedPipeline&) = delete;
  OrderedPipeline& operator=(const OrderedPipeline&) = delete;

  void run(size_t in_flight, const std::function<std::optional<In>()>& source, const std::function<void(Out&&)>& sink) {
    std::deque<std::shared_ptr<Job>> order;
    bool more = true;
    while (more || !order.empty()) {
      if (more && order.size() < in_flight) {
        std::optional<In> item = source();
        if (!item) {
          more = false;
          continue;
        }
        order.push_back(std::make_shared<Job>(std::move(*item)));
        {
          std::lock_guard lock(mutex_);
          waiting_.push_back(order.back());
        }
        wake_.notify_one();
        continue;
      }
      const std::shared_ptr<Job> job = order.front();
      order.pop_front();
      {
        std::unique_lock lock(mutex_);
        done_.wait(lock, [&] { return job->done; });
      }
      if (job->error) std::rethrow_exception(job->error);
      sink(std::move(*job->out));
    }
  }

 private:
  struct Job {
    explicit Job(In&& item) : in(std::move(item)) {}
    In in;
    std::optional<Out> out;
    std::exception_ptr error;
    bool done = false;
  };

  void loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stop_ || !waiting_.empty(); });
      if (stop_) return;
      const std::shared_ptr<Job> job = waiting_.front();
      waiting_.pop_front();
      lock.unlock();
      try {
        job->out.emplace(work_(std::move(job->in)));
      } catch (...) {
        job->error = std::current_exception();
      }
      lock.lock();
      job->done = true;
      done_.notify_all();
    }
  }

  std::function<Out(In&&)> work_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::deque<std::shared_ptr<Job>> waiting_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace megatron
