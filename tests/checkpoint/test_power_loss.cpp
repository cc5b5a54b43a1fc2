// A power loss keeps of what was not yet synchronised whatever it likes. A save is recorded operation by operation; for
// each prefix, random worlds are drawn that a loss of power at that moment could leave, and the production reader must
// find a whole checkpoint in each. Two planted faults show that the model can fail.
#include <map>
#include <memory>
#include <set>

#include "tests/checkpoint/helpers.h"

using namespace megatron;
using namespace megatron::testing;

namespace {

struct Operation {
  enum class Kind { kCreate, kWrite, kSync, kRename, kExchange, kRemove, kMakeFolder, kSyncFolder } kind;
  std::string path, to, data;
  int64_t offset = 0;
};

/// Does everything for real, and notes what would matter after a loss of power.
class Recorder : public FileOps {
 public:
  bool sync_files = true, sync_folders = true;
  std::vector<Operation> log;

  int open_for_writing(const std::string& path, Create mode) override {
    const int fd = FileOps::open_for_writing(path, mode);
    if (fd >= 0) {
      paths_[fd] = path;
      log.push_back({Operation::Kind::kCreate, path, "", ""});
    }
    return fd;
  }
  int64_t write_at(int fd, std::span<const std::byte> bytes, int64_t offset) override {
    const std::string data(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    log.push_back({Operation::Kind::kWrite, paths_[fd], "", data, offset});
    return FileOps::write_at(fd, bytes, offset);
  }
  int sync(int fd) override {
    if (sync_files) log.push_back({Operation::Kind::kSync, paths_[fd], "", ""});
    return 0;
  }
  int rename(const std::string& from, const std::string& to) override {
    log.push_back({Operation::Kind::kRename, from, to, ""});
    return FileOps::rename(from, to);
  }
  int exchange(const std::string& a, const std::string& b) override {
    log.push_back({Operation::Kind::kExchange, a, b, ""});
    return FileOps::exchange(a, b);
  }
  int unlink(const std::string& path) override {
    log.push_back({Operation::Kind::kRemove, path, "", ""});
    return FileOps::unlink(path);
  }
  int remove_directory(const std::string& path) override {
    log.push_back({Operation::Kind::kRemove, path, "", ""});
    return FileOps::remove_directory(path);
  }
  int make_directory(const std::string& path) override {
    log.push_back({Operation::Kind::kMakeFolder, path, "", ""});
    return FileOps::make_directory(path);
  }
  int sync_directory(const std::string& path) override {
    if (sync_folders) log.push_back({Operation::Kind::kSyncFolder, path, "", ""});
    return 0;
  }

 private:
  std::map<int, std::string> paths_;
};

/// A file or folder: what programs see now, and what surely is on the storage. Each change of a folder is one step that
/// the storage keeps or drops as a whole.
struct Node {
  using Entries = std::map<std::string, std::shared_ptr<Node>>;
  using Step = std::vector<std::pair<std::string, std::shared_ptr<Node>>>;  // name -> node, null: gone
  bool folder = false;
  std::string data, safe_data;
  Entries entries, safe_entries;
  std::vector<Step> pending;

  void change(const Step& step) {
    apply(entries, step);
    pending.push_back(step);
  }
  static void apply(Entries& entries, const Step& step) {
    for (const auto& [name, node] : step) {
      if (node) {
        entries[name] = node;
      } else {
        entries.erase(name);
      }
    }
  }
};

class Disk {
 public:
  /// All that lies in `root` is safe.
  explicit Disk(const std::string& root) : root_path_(root), root_(load(root)) {}

  void replay(const Operation& op) {
    if (op.kind == Operation::Kind::kSyncFolder) {
      const auto node = find(op.path);
      node->safe_entries = node->entries;
      node->pending.clear();
      return;
    }
    const auto parent = find(parent_directory(op.path));
    const std::string name = base_name(op.path);
    switch (op.kind) {
      case Operation::Kind::kCreate:
        if (!parent->entries.contains(name)) parent->change({{name, std::make_shared<Node>()}});
        break;
      case Operation::Kind::kWrite: {
        std::string& data = parent->entries.at(name)->data;
        data.resize(std::max(data.size(), static_cast<size_t>(op.offset) + op.data.size()));
        data.replace(static_cast<size_t>(op.offset), op.data.size(), op.data);
        break;
      }
      case Operation::Kind::kSync:
        parent->entries.at(name)->safe_data = parent->entries.at(name)->data;
        break;
      case Operation::Kind::kRename:
        parent->change({{name, nullptr}, {base_name(op.to), parent->entries.at(name)}});
        break;
      case Operation::Kind::kExchange:
        parent->change({{name, parent->entries.at(base_name(op.to))}, {base_name(op.to), parent->entries.at(name)}});
        break;
      case Operation::Kind::kRemove:
        parent->change({{name, nullptr}});
        break;
      case Operation::Kind::kMakeFolder: {
        auto node = std::make_shared<Node>();
        node->folder = true;
        parent->change({{name, node}});
        break;
      }
      case Operation::Kind::kSyncFolder:
        break;
    }
  }

  /// Writes what a loss of power could leave to the empty folder `to`.
  void draw_world(uint64_t seed, const std::string& to) const {
    uint64_t draws = 0;
    write(*root_, to, [&] { return philox_uniform(seed, draws++); });
  }

 private:
  static std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

  static std::shared_ptr<Node> load(const std::string& path) {
    auto node = std::make_shared<Node>();
    node->folder = directory_exists(path);
    if (!node->folder) {
      node->data = node->safe_data = read_file(path);
      return node;
    }
    for (const std::string& name : list_directory(path)) node->entries[name] = load(path_join(path, name));
    node->safe_entries = node->entries;
    return node;
  }

  std::shared_ptr<Node> find(const std::string& path) const {
    if (path == root_path_) return root_;
    return find(parent_directory(path))->entries.at(base_name(path));
  }

  /// Unsynchronised data arrives wholly, not at all, or in blocks; each pending step of a folder arrives or not. In a
  /// third of the worlds each, everything or nothing that is pending arrives.
  template <typename Draw>
  static void write(const Node& node, const std::string& path, Draw draw) {
    const double luck = draw() * 3;
    const auto arrives = [&] { return luck < 1 || (luck < 2 && draw() < 0.5); };
    if (!node.folder) {
      std::string data = node.safe_data;
      constexpr size_t kBlock = 64;
      for (size_t at = 0; at < node.data.size(); at += kBlock) {
        if (!arrives()) continue;
        const std::string block = node.data.substr(at, kBlock);
        data.resize(std::max(data.size(), at + block.size()), '\0');
        data.replace(at, block.size(), block);
      }
      FileWriter writer(path, FileOps::Create::kReplace);
      writer.append(data);
      writer.flush();
      return;
    }
    Node::Entries entries = node.safe_entries;
    for (const Node::Step& step : node.pending) {
      if (arrives()) Node::apply(entries, step);
    }
    std::filesystem::create_directories(path);
    for (const auto& [name, child] : entries) write(*child, path_join(path, name), draw);
  }

  std::string root_path_;
  std::shared_ptr<Node> root_;
};

struct Count {
  int states = 0, failures = 0, newest = 0;
};

/// Saves of iterations 10 and 20 are safe; `iteration` is being saved, keeping one. `worlds` draws for each prefix.
Count lose_power(Recorder& recorder, int64_t iteration, int worlds) {
  TempFolder root;
  save(root.path(), 10);
  save(root.path(), 20);
  Disk disk(root.path());
  CheckpointStore(root.path(), small_options(1), recorder).save(Sample(iteration).content());
  Count count;
  TempFolder scratch;
  for (size_t prefix = 0; prefix <= recorder.log.size(); ++prefix) {
    if (prefix > 0) disk.replay(recorder.log[prefix - 1]);
    for (int world = 0; world < worlds; ++world) {
      const std::string folder = scratch.file("world");
      std::filesystem::remove_all(folder);
      disk.draw_world(prefix * 1000003 + static_cast<uint64_t>(world), folder);
      ++count.states;
      bool good = false;
      try {
        std::vector<std::string> skipped;
        const auto reader = CheckpointReader::open_latest(folder, Verify::kFull, &skipped);
        const bool known = reader && (reader->iteration() == 20 || reader->iteration() == iteration);
        const bool done = prefix == recorder.log.size();  // the save has returned: it must not be lost any more
        good = known && skipped.empty() && Sample(reader->iteration()).matches(*reader) &&
               (!done || reader->iteration() == iteration);
        count.newest += good && reader->iteration() == iteration;
      } catch (const DataError&) {
      }
      count.failures += !good;
    }
  }
  return count;
}

void check_power_loss(int worlds) {
  for (int64_t iteration : {30, 20}) {  // a new one, and one that replaces the newest
    Recorder recorder;
    const Count count = lose_power(recorder, iteration, worlds);
    if (worlds >= 70) CHECK(2 * count.states >= 5000);
    CHECK(count.failures == 0);
    CHECK(count.newest > count.states / 10);
  }
}

}  // namespace

TEST_CASE("no loss of power during a save costs more than that save") {
  check_power_loss(6);
}

TEST_CASE("no loss of power costs more than that save, 5,000 states", "[full]") {
  check_power_loss(70);
}

TEST_CASE("the power-loss test notices a missing synchronisation") {
  Recorder no_files;
  no_files.sync_files = false;
  CHECK(lose_power(no_files, 30, 4).failures > 0);
  Recorder no_folders;
  no_folders.sync_folders = false;
  CHECK(lose_power(no_folders, 30, 4).failures > 0);
}
