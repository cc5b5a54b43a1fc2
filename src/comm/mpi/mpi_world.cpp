#include "comm/mpi/mpi_world.h"

#include <cstdlib>
#include <exception>

#include "base/check.h"
#include "base/error.h"
#include "base/host.h"
#include "base/strings.h"
#include "comm/mpi/mpi_comm.h"

namespace megatron {
namespace {

class MpiWorld final : public World {
 public:
  MpiWorld(const Launch& launch, const WorldOptions& options) : exceptions_(std::uncaught_exceptions()) {
    // Ranks may outnumber cores: whoever waits inside MPI gives its core away.
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    int provided = 0;
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &info_.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &info_.size);
    info_.host = host_name();
    info_.launcher = launch.how;
    if (launch.size > 0 && launch.size != info_.size) {
      throw UsageError(str_cat("the launcher started ", launch.size, " ranks, but MPI sees ", info_.size,
                               "; the launcher belongs to another MPI than the one this program was built with (with "
                               "Slurm: srun --mpi=pmix, or srun --mpi=none)"));
    }
    MPI_Comm local = MPI_COMM_NULL, control = MPI_COMM_NULL, all = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, info_.rank, MPI_INFO_NULL, &local),
              "split by host");
    MPI_Comm_rank(local, &info_.local_rank);
    MPI_Comm_size(local, &info_.local_size);
    MPI_Comm_free(&local);
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &control), "MPI_Comm_dup");
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &all), "MPI_Comm_dup");
    MPI_Comm_set_errhandler(control, MPI_ERRORS_RETURN);
    job_ = std::make_shared<MpiJob>(control, options, label());
    gathering_ = all;
    comm_ = make_mpi_comm(job_, all, "world");
  }

  ~MpiWorld() override {
    if (!parted_ && std::uncaught_exceptions() > exceptions_) fail("it ended with an error");
    if (job_->failed()) {  // MPI_Finalize would wait for ranks that may not come
      job_->leave_together();
      return;
    }
    comm_.reset();
    MPI_Comm control = job_->control();
    MPI_Comm_free(&control);
    MPI_Finalize();
  }

  const RankInfo& info() const override { return info_; }
  Comm& host_comm() override { return *comm_; }
  void fail(const std::string& reason) noexcept override { job_->fail(reason); }
  bool says_first(const std::string& reason) noexcept override { return job_->says_first(reason); }
  void set_timeout(double seconds) override { job_->set_timeout(seconds); }

  /// By MPI's own algorithms, which need few connections however many ranks there are.
  std::vector<std::string> gather(const std::string& bytes) override {
    if (job_->failed()) job_->check_alive("gather of all ranks");
    const auto ranks = static_cast<size_t>(info_.size);
    const int mine = narrow<int>(static_cast<int64_t>(bytes.size()));
    std::vector<int> sizes(ranks), begins(ranks);
    MPI_Request request;
    check_mpi(MPI_Iallgather(&mine, 1, MPI_INT, sizes.data(), 1, MPI_INT, gathering_, &request), "MPI_Iallgather");
    wait(&request);
    int64_t total = 0;
    for (size_t r = 0; r < ranks; ++r) {
      begins[r] = narrow<int>(total);
      total += sizes[r];
    }
    std::string all(static_cast<size_t>(total), '\0');
    check_mpi(MPI_Iallgatherv(bytes.data(), mine, MPI_BYTE, all.data(), sizes.data(), begins.data(), MPI_BYTE,
                              gathering_, &request),
              "MPI_Iallgatherv");
    wait(&request);
    std::vector<std::string> parts;
    for (size_t r = 0; r < ranks; ++r) {
      parts.push_back(all.substr(static_cast<size_t>(begins[r]), static_cast<size_t>(sizes[r])));
    }
    return parts;
  }

 private:
  void wait(MPI_Request* request) {
    job_->wait(
        [&] {
          int done = 0;
          check_mpi(MPI_Test(request, &done, MPI_STATUS_IGNORE), "gather of all ranks");
          return done != 0;
        },
        "gather of all ranks");
  }

  int exceptions_;
  RankInfo info_;
  std::shared_ptr<MpiJob> job_;
  MPI_Comm gathering_ = MPI_COMM_NULL;  ///< that of comm_
  std::unique_ptr<Comm> comm_;
};

}  // namespace

std::unique_ptr<World> make_mpi_world(const Launch& launch, const WorldOptions& options) {
  return std::make_unique<MpiWorld>(launch, options);
}

}  // namespace megatron
