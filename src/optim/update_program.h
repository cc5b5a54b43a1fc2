// The optimizer step as programs: zeroing at the start of a step, and norm, clipping and update at its end.
#pragma once

#include <string>
#include <vector>

#include "config/config.h"
#include "optim/param_groups.h"
#include "parallel/parallel_context.h"
#include "program/program.h"

namespace megatron {

/// Names of the inputs and outputs of the update program (fp64 scalars, but for the totals).
namespace update_io {
inline constexpr char kWeightDecay[] = "weight_decay", kInverseScale[] = "inverse_loss_scale",
                      kUpdateCount[] = "update_count";
inline constexpr char kNorm[] = "grad_norm", kCoefficient[] = "clip_coefficient", kSkip[] = "skip";
/// State: not 0 after a step that was skipped, and then all further ones are, until the host writes 0.
inline constexpr char kHalt[] = "halt";
std::string learning_rate(const ParamGroup& group);  ///< "learning_rate/default"
std::string total(const std::string& sum);           ///< "total/loss_sum"
}  // namespace update_io

/// Names of optimizer state, as in Megatron-Core's distributed checkpoints.
namespace optimizer_state {
std::string master(const std::string& parameter);      ///< fp32 copy of a 16-bit parameter
std::string exp_avg(const std::string& parameter);     ///< first moment of Adam
std::string exp_avg_sq(const std::string& parameter);  ///< second moment
std::string momentum(const std::string& parameter);    ///< of SGD
bool is_optimizer_state(const std::string& name);
}  // namespace optimizer_state

/// A program that zeroes all parameter gradients and `sums` of `train`.
Program make_begin_program(const Program& train, const std::vector<std::string>& sums);

/// Global norm, clipping and one AdamW or SGD update of every parameter of the differentiated program `train`. When the
/// norm is not finite, or state kHalt is set, nothing changes and output kSkip is 1. Each of `sums`, states of `train`,
/// is added up over the ranks that hold parts of it: output total(name), of its type. `stages`: the communicator of the
/// pipeline stages, over which the norm and the sums go too; "" without a pipeline.
///
/// A rank updates the part of a parameter for which it has the summed gradient (reduce_gradients), and holds the
/// optimizer's state of that part; where it holds more of the parameter, the parts are gathered.
Program make_update_program(const Program& train, const OptimizerConfig& config, const std::vector<ParamGroup>& groups,
                            const std::vector<std::string>& sums = {}, const DataParallel& data = {},
                            const std::string& stages = "");

}  // namespace megatron
