// megatron doctor: can this machine run, and what would make it run better?
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "cli/doctor_checks.h"
#include "train/version.h"

namespace megatron {
namespace {

struct DoctorArguments {
  std::string device = "auto";
  std::string dir;
  bool json = false;
};

Findings examine(const DoctorArguments& arguments, std::string& why_no_gpu) {
  Findings all = check_host();
  const auto add = [&](const Findings& some) { all.insert(all.end(), some.begin(), some.end()); };
  add(check_gpus(why_no_gpu));
  add(check_launch());
  add(check_disk(arguments.dir.empty() ? "." : arguments.dir, !arguments.dir.empty()));
  add(check_limits());
  add(check_environment());
  add(check_tools());
  return all;
}

int64_t count(const Findings& findings, Verdict verdict) {
  return std::count_if(findings.begin(), findings.end(), [&](const Finding& f) { return f.verdict == verdict; });
}

void print_text(const Findings& findings, const std::string& devices) {
  std::printf("megatron %s\n", kVersion);
  size_t width = 0;
  for (const Finding& finding : findings) width = std::max(width, finding.name.size());
  const int column = static_cast<int>(width);
  std::string section;
  for (const Finding& finding : findings) {
    if (finding.section != section) std::printf("%s\n", finding.section.c_str());
    section = finding.section;
    std::printf("  %-8s %-*s  %s\n", name_of(finding.verdict), column, finding.name.c_str(), finding.value.c_str());
    if (!finding.remedy.empty()) std::printf("  %-8s %-*s  -> %s\n", "", column, "", finding.remedy.c_str());
  }
  std::printf("this machine can run on: %s (warnings: %lld, missing: %lld)\n", devices.c_str(),
              static_cast<long long>(count(findings, Verdict::kWarn)),
              static_cast<long long>(count(findings, Verdict::kMissing)));
}

void print_json(const Findings& findings, bool cuda) {
  nlohmann::json report;
  report["version"] = kVersion;
  report["devices"] = cuda ? nlohmann::json{"cuda", "cpu"} : nlohmann::json::array({"cpu"});
  report["findings"] = nlohmann::json::array();
  for (const Finding& f : findings) {
    report["findings"].push_back({{"section", f.section},
                                  {"name", f.name},
                                  {"status", name_of(f.verdict)},
                                  {"value", f.value},
                                  {"remedy", f.remedy}});
  }
  // What drivers and the environment say need not be UTF-8.
  std::printf("%s\n", report.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

void run_doctor(const DoctorArguments& arguments) {
  std::string why_no_gpu;
  const Findings findings = examine(arguments, why_no_gpu);
  const bool cuda = why_no_gpu.empty();
  if (arguments.json) {
    print_json(findings, cuda);
  } else {
    print_text(findings, cuda ? "cuda, cpu" : "cpu");
  }
  for (const Finding& finding : findings) {
    if (finding.name == "BLAS" && finding.verdict != Verdict::kOk) throw DeviceError(finding.value);
  }
  if (arguments.device == "cuda" && !cuda) throw DeviceError("--device cuda: " + why_no_gpu);
}

}  // namespace

void add_doctor_command(CLI::App& app) {
  auto* command = app.add_subcommand(
      "doctor",
      "Look at this machine: GPUs, libraries, links, MPI, storage, limits; say what is missing and the remedy.");
  auto arguments = std::make_shared<DoctorArguments>();
  command->add_option("--device", arguments->device, "Device that has to be usable; cuda without one is exit code 4.")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--dir", arguments->dir,
                      "Measure the storage of this folder with a temporary file (at most 256 MiB, about 3 s).");
  command->add_flag("--json", arguments->json, "Print the report as JSON.");
  command->callback([arguments] { run_doctor(*arguments); });
}

}  // namespace megatron
