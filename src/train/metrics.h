// What the trainer reports about a step, and the sinks that receive it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tensor/dtype.h"

namespace megatron {

/// Losses of one evaluation: `lm_loss` and any further ones, each an average over tokens.
struct Evaluation {
  std::string split = "valid";  ///< "valid" or "test"
  std::string set;              ///< name of the data set where there are several, else empty
  std::vector<std::pair<std::string, double>> losses;
};

/// One iteration. What was not measured is empty and is written as null.
struct StepMetrics {
  int64_t iteration = 0;         ///< 1-based; 0 is the evaluation before the first step
  int64_t consumed_samples = 0;  ///< after this iteration, skipped ones included
  int64_t consumed_tokens = 0;
  bool trained = true;            ///< false: nothing but the evaluations below was done (iteration 0, skip_train)
  std::optional<double> lm_loss;  ///< empty when nothing was computed (training.iterations_to_skip)
  std::vector<std::pair<std::string, double>> losses;  ///< further training losses, for example "load_balancing_loss"
  std::optional<double> grad_norm;                     ///< before clipping; empty as lm_loss
  double learning_rate = 0.0;                          ///< used by this step, of the default group
  double weight_decay = 0.0;
  double loss_scale = 1.0;
  int64_t batch_size = 0;  ///< samples of this iteration
  double step_seconds = 0.0;
  double tokens_per_second = 0.0;
  std::optional<double> tflops_per_gpu;
  std::optional<double> mfu;  ///< fraction of the device's peak; empty on the CPU
  std::optional<int64_t> peak_memory_bytes;
  double data_wait_fraction = 0.0;  ///< part of step_seconds spent waiting for data
  bool skipped = false;             ///< the step changed no weight (non-finite gradients, or on the skip list)
  int64_t skipped_iterations = 0;   ///< such steps since the start of the run
  std::vector<Evaluation> evaluations;
};

/// Fills tokens_per_second, tflops_per_gpu and mfu from step_seconds. `flops` is of the whole step over all ranks; 0
/// leaves both empty. `peak_flops` is the dense peak of one device, not set on the CPU.
void set_rates(StepMetrics& metrics, int64_t tokens, double flops, int64_t world_size,
               std::optional<double> peak_flops);

/// Dense peak of a GPU by its name, in FLOP/s, as NVIDIA's data sheets say without sparsity: H100 SXM, H200 and GH200
/// in bf16 and fp16 989.4e12, H100 NVL 835e12, H100 PCIe 756e12; empty for what is not known, and for fp32 and fp64,
/// whose kernels do not use the units that a peak counts.
std::optional<double> dense_peak_flops(const std::string& device, DType dtype);

/// Perplexity as Megatron-LM prints it: exp(min(20, loss)).
double perplexity(double loss);

/// "valid_lm_loss", "valid_books_lm_loss", "test_lm_loss"; further losses likewise.
std::string evaluation_key(const Evaluation& evaluation, const std::string& loss);

/// One JSON object on one line with the line feed. Doubles have the shortest text that reads back as the same bits.
/// JSON has no NaN and no infinity: such a value is null and its text is in the object "non_finite".
std::string to_json_line(const StepMetrics& metrics);

/// Receives every iteration once it is complete, evaluations included. An iteration may come again, after a resume or
/// with evaluations that were made later: the last one counts. Sinks never end a run: what cannot be written costs a
/// warning.
class MetricsSink {
 public:
  virtual ~MetricsSink() = default;
  virtual void write(const StepMetrics& metrics) = 0;
};

}  // namespace megatron
