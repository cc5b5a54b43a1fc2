// The file of section `machine` that `bench ops` and `bench comm` write and `plan` reads.
#pragma once

#include <string>

#include "config/config.h"

namespace megatron {

/// The section as the file has it; empty when there is no such file. UsageError: it is no configuration.
MachineConfig read_machine_file(const std::string& path);

/// The same, for figures of `device` to be added: UsageError where the file holds those of another one.
MachineConfig read_machine_file_of(const std::string& path, const std::string& device);

/// Replaces the file. Nothing but the section stands in it afterwards. DataError: it cannot be written.
void write_machine_file(const std::string& path, const MachineConfig& machine);

/// "2026-11-29, megatron 0.1.0": what goes before the versions of libraries.
std::string measured_today();

}  // namespace megatron
