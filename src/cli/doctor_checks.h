// What `megatron doctor` looks at: each check gives findings in words.
#pragma once

#include <string>
#include <vector>

namespace megatron {

enum class Verdict { kOk, kWarn, kMissing };
/// "ok", "warn", "missing".
const char* name_of(Verdict verdict);

/// One line of the report.
struct Finding {
  std::string section;  ///< "gpu"
  std::string name;     ///< "driver"
  Verdict verdict = Verdict::kOk;
  std::string value;   ///< what was found
  std::string remedy;  ///< what to do; never empty unless the verdict is ok
};
using Findings = std::vector<Finding>;

/// The program itself, processor, memory, BLAS.
Findings check_host();
/// Driver, CUDA libraries, each GPU and the links between them. `why_unusable` is set when no GPU can be computed on.
Findings check_gpus(std::string& why_unusable);
/// mpirun, and what this process was started by.
Findings check_launch();
/// Free space of `folder`; with `measure` also its speed (at most 256 MiB and three seconds).
Findings check_disk(const std::string& folder, bool measure);
/// Locked memory, open files, /dev/shm.
Findings check_limits();
/// Variables that change how a run behaves.
Findings check_environment();
/// Programs that are useful beside this one.
Findings check_tools();

}  // namespace megatron
