// Training samples as a file, in the order in which a run reads them: for comparing with other programs.
#pragma once

#include <cstdint>
#include <string>

#include "data/dataset.h"

namespace megatron {

/// Writes samples first .. first + count - 1 of `dataset` to the safetensors file `path`: tensor `tokens`
/// [count, S + 1] int32, row i being sample first + i (inputs are its first S tokens, labels its last S), and the
/// metadata `first_sample` and `seq_length`. With one data-parallel rank, iteration n (from 1) trains on the samples
/// (n - 1) global_batch_size ... n global_batch_size - 1. UsageError when first < 0 or count < 1; DataError when the
/// samples can't be read or the file can't be written, and then there is no file.
void export_samples(const Dataset& dataset, int64_t first, int64_t count, const std::string& path);

}  // namespace megatron
