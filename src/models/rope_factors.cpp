#include "models/rope_factors.h"

namespace megatron {

std::vector<float> rope_factors(const RopeSpec& spec) {
  RopeSpec plain = spec;
  plain.llama3.on = false;
  const std::vector<double> kept = rope_table(plain).inv_freq, stretched = rope_table(spec).inv_freq;
  std::vector<float> factors;
  for (size_t i = 0; i < kept.size(); ++i) factors.push_back(static_cast<float>(kept[i] / stretched[i]));
  return factors;
}

}  // namespace megatron
