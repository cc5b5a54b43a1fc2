#include "kernels/all_cases.h"

#include "kernels/activation/cases.h"
#include "kernels/adamw/cases.h"
#include "kernels/attention/cases.h"
#include "kernels/attention_merge/cases.h"
#include "kernels/cast/cases.h"
#include "kernels/dropout/cases.h"
#include "kernels/embedding/cases.h"
#include "kernels/gather_rows/cases.h"
#include "kernels/gradient_norm/cases.h"
#include "kernels/kv_cache/cases.h"
#include "kernels/layernorm/cases.h"
#include "kernels/linear/cases.h"
#include "kernels/lm_head_loss/cases.h"
#include "kernels/repeat_groups/cases.h"
#include "kernels/rmsnorm/cases.h"
#include "kernels/rope/cases.h"
#include "kernels/sgd/cases.h"
#include "kernels/spread_groups/cases.h"
#include "kernels/zigzag_order/cases.h"

namespace megatron {

std::vector<OpCases> all_op_cases() {
  return {
      {"activation", activation_cases()},
      {"adamw", adamw_cases()},
      {"attention", attention_cases()},
      {"attention_merge", attention_merge_cases()},
      {"bias_grad", bias_gradient_cases()},
      {"cast", cast_cases()},
      {"clip", clip_cases()},
      {"dropout", dropout_cases()},
      {"dropout_add", dropout_add_cases()},
      {"embedding", embedding_cases()},
      {"fill_zero", fill_zero_cases()},
      {"gated_activation", gated_activation_cases()},
      {"gather_rows", gather_rows_cases()},
      {"kv_cache", kv_cache_cases()},
      {"layernorm", layernorm_cases()},
      {"linear", linear_cases()},
      {"lm_head_loss", lm_head_loss_cases()},
      {"repeat_groups", repeat_groups_cases()},
      {"rmsnorm", rmsnorm_cases()},
      {"rope", rope_cases()},
      {"sgd", sgd_cases()},
      {"spread_groups", spread_groups_cases()},
      {"sum_of_squares", sum_of_squares_cases()},
      {"zigzag_order", zigzag_order_cases()},
  };
}

}  // namespace megatron
