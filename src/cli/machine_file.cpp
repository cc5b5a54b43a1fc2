#include "cli/machine_file.h"

#include <chrono>
#include <ctime>
#include <filesystem>

#include "base/error.h"
#include "base/file_io.h"
#include "base/strings.h"
#include "config/load.h"
#include "train/machine_profile.h"
#include "train/version.h"

namespace megatron {

MachineConfig read_machine_file(const std::string& path) {
  if (!std::filesystem::exists(path)) return {};
  LoadOptions piece;
  piece.check_rules = false;
  const MachineConfig machine = load_config({path}, {}, piece).config.machine;
  read_operations(machine);
  read_collectives(machine);
  return machine;
}

MachineConfig read_machine_file_of(const std::string& path, const std::string& device) {
  MachineConfig machine = read_machine_file(path);
  if (!machine.device.empty() && machine.device != device) {
    throw UsageError(str_cat("--machine: ", path, " holds figures of '", machine.device, "', and this is '", device,
                             "'; name another file"));
  }
  machine.device = device;
  return machine;
}

void write_machine_file(const std::string& path, const MachineConfig& machine) {
  Config config;
  config.machine = machine;
  const std::string text = str_cat(
      "# Speed of one kind of GPU and of the links between GPUs, for `megatron plan --machine FILE`. Measured by\n"
      "#   megatron bench ops --mode perf --device cuda --machine FILE\n"
      "#   mpirun -n N megatron bench comm --machine FILE              # once for each number of ranks\n"
      "# which replace what they measure anew. `megatron config explain machine.operations` tells the columns.\n",
      section_to_yaml(config, "machine"));
  atomic_write_file(path, text);
}

std::string measured_today() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  gmtime_r(&now, &parts);
  char date[16];
  std::strftime(date, sizeof date, "%Y-%m-%d", &parts);
  return str_cat(date, ", megatron ", kVersion);
}

}  // namespace megatron
