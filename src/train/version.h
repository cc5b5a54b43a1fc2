#pragma once

namespace megatron {
/// Version of the program, as `megatron --version` prints it.
inline constexpr char kVersion[] = MEGATRON_VERSION;
}  // namespace megatron
