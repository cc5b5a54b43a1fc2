// Facts about the machine, and the speed of its storage.
#include "base/host.h"

#include <cmath>
#include <filesystem>

#include "base/disk_speed.h"
#include "base/error.h"
#include "base/strings.h"
#include "tests/catch.h"

using namespace megatron;

TEST_CASE("host facts are those of this machine") {
  const HostFacts facts = host_facts();
  CHECK(facts.processors >= 1);
  CHECK(facts.memory_total > (int64_t{64} << 20));
  CHECK(facts.memory_available > 0);
  CHECK(facts.memory_available <= facts.memory_total);
  CHECK(starts_with(facts.system, "Linux "));
  CHECK(proc_value("/proc/meminfo", "no such key").empty());
  CHECK(proc_value("/no/such/file", "key").empty());
  const HostLimits limits = host_limits();
  CHECK((limits.open_files == kUnlimited || limits.open_files > 2));
}

TEST_CASE("file systems that are there and that are not") {
  const FileSystemFacts here = file_system_facts(".");
  CHECK(here.exists);
  CHECK(here.total >= here.free);
  CHECK(here.total > 0);
  CHECK_FALSE(file_system_facts("/no/such/folder").exists);
}

TEST_CASE("programs on PATH and their versions") {
  const std::string shell = find_program("sh");
  CHECK(ends_with(shell, "/sh"));
  CHECK(find_program("no-such-program-anywhere").empty());
  CHECK(find_program("..").empty());  // a folder
  CHECK(starts_with(program_version(find_program("ls")), "ls "));
  CHECK(program_version("/no/such/program").empty());
}

TEST_CASE("a shared library tells its version, or why it is not there") {
  const LibraryFacts none = library_facts({"libno-such-thing.so.1"}, "f");
  CHECK_FALSE(none.found);
  CHECK(none.load_error.find("libno-such-thing.so.1") != std::string::npos);
  // getpagesize() is a function without arguments that every machine has.
  const LibraryFacts libc = library_facts({"libno-such-thing.so.1", "libc.so.6"}, "getpagesize");
  CHECK(libc.found);
  CHECK(libc.path.find("libc.so.6") != std::string::npos);
  CHECK(libc.version >= 4096);
  const LibraryFacts mute = library_facts({"libc.so.6"}, "no_such_function");
  CHECK(mute.found);
  CHECK(mute.version == 0);
}

TEST_CASE("disk speed is measured within its bounds and leaves nothing behind") {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "megatron_disk_speed_test";
  std::filesystem::create_directories(folder);
  const DiskSpeed speed = measure_disk(folder.string(), int64_t{9} << 20, 3.0);
  CHECK(speed.bytes == int64_t{8} << 20);  // whole blocks of 4 MiB
  CHECK(speed.write_seconds > 0);
  CHECK(speed.read_seconds > 0);
  CHECK(speed.sync_seconds > 0);
  CHECK(std::isfinite(speed.write_rate()));
  CHECK(std::filesystem::is_empty(folder));
  std::filesystem::remove_all(folder);
  CHECK_THROWS_AS(measure_disk("/no/such/folder", 1 << 20, 0.1), DataError);
}
