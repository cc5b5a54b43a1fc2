#include "checkpoint/store.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <random>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/host.h"
#include "base/log.h"
#include "base/strings.h"
#include "checkpoint/layout.h"

namespace megatron {
namespace {

constexpr int64_t kReserveBytes = int64_t{4} << 20;  // manifest, headers, folders

std::string nonce() {
  std::random_device source;
  return hex64(uint64_t{source()} << 32 | source());
}

std::string owner_text() {
  const char* job = std::getenv("SLURM_JOB_ID");
  return str_cat("host ", host_name(), ", process ", ::getpid(), job ? str_cat(", job ", job) : "", ", token ", nonce(),
                 "\n");
}

FileLock take_ownership(const std::string& root, FileOps& ops) {
  create_directories(root, ops);
  std::string owner;
  auto lock = FileLock::try_lock(path_join(root, kOwnerName), owner_text(), &owner);
  if (lock) return std::move(*lock);
  throw UsageError(str_cat(root, ": another job writes its checkpoints here (", trim(owner),
                           "). Wait until it has ended, or choose another folder (checkpoint.save)."));
}

bool is_leftover(std::string_view name) {
  return starts_with(name, kStagingPrefix) || starts_with(name, kTrashPrefix);
}

/// A rename over a network can be reported as failed although it was done: the manifest tells.
bool holds_manifest(const std::string& folder, const std::string& manifest_text) {
  const std::string path = path_join(folder, kManifestName);
  return path_exists(path) && read_file(path) == manifest_text;
}

/// All that is known before anything is written.
Manifest begin_manifest(const std::string& root, const CheckpointContent& content, const StoreOptions& options) {
  Manifest manifest;
  for (const Candidate& candidate : list_checkpoints(root)) {
    manifest.sequence = std::max(manifest.sequence, candidate.sequence);
  }
  ++manifest.sequence;
  manifest.iteration = content.iteration;
  manifest.chunk_bytes = options.chunk_bytes;
  manifest.program = options.program;
  manifest.tokenizer = content.tokenizer;
  manifest.state = content.state;
  return manifest;
}

}  // namespace

CheckpointStore::CheckpointStore(std::string root, StoreOptions options, FileOps& ops)
    : root_(std::move(root)), options_(std::move(options)), ops_(ops), lock_(take_ownership(root_, ops_)) {
  MEGATRON_CHECK(options_.most_recent_k >= 0 && options_.save_retain_interval >= 0, "negative retention");
  MEGATRON_CHECK(options_.shard_bytes > 0 && options_.chunk_bytes > 0, "sizes of shards and chunks must be positive");
}

void CheckpointStore::remove_leftovers() {
  bool synced = false;
  for (const std::string& name : list_directory(root_)) {
    if (!is_leftover(name)) continue;
    // What swapped names with a leftover must be durable before the leftover goes.
    if (!synced) sync_directory(root_, ops_);
    synced = true;
    log_info(str_cat("removing ", path_join(root_, name), ", which an unfinished save left"));
    remove_tree(path_join(root_, name), ops_);
  }
}

StagedSave CheckpointStore::begin(const CheckpointContent& content) {
  MEGATRON_CHECK(content.iteration >= 0, "negative iteration");
  StagedSave save;
  save.start = std::chrono::steady_clock::now();
  remove_leftovers();
  save.bytes = total_bytes(content.tensors) + content.other_bytes;
  for (const auto& [name, text] : content.texts) {
    MEGATRON_CHECK(name.find('/') == std::string::npos, "not a plain file name: " + name);
    save.bytes += std::ssize(text);
  }
  require_free_space(root_, save.bytes + kReserveBytes, ops_);
  save.manifest = begin_manifest(root_, content, options_);
  save.texts = content.texts;
  save.staging =
      path_join(root_, str_cat(kStagingPrefix, iteration_name(content.iteration), "-", ::getpid(), "-", nonce()));
  const int made = ops_.make_directory(save.staging);
  if (made < 0) throw_file_error("create the folder", save.staging, -made);
  return save;
}

SaveResult CheckpointStore::save(const CheckpointContent& content) {
  StagedSave save = begin(content);
  ShardSet shards;
  try {
    shards = write_shards(save.staging, 0, content.tensors, options_.shard_bytes, options_.chunk_bytes, ops_,
                          options_.threads);
  } catch (...) {
    abandon(save);
    throw;
  }
  return commit(std::move(save), std::move(shards));
}

SaveResult CheckpointStore::commit(StagedSave save, ShardSet shards) {
  const std::string name = iteration_name(save.manifest.iteration);
  const std::string target = path_join(root_, name);
  try {
    Manifest& manifest = save.manifest;
    manifest.files = std::move(shards.files);
    manifest.tensors = std::move(shards.tensors);
    const auto write = [&](const std::string& file, const std::string& text) {
      FileWriter writer(path_join(save.staging, file), FileOps::Create::kNew, ops_);
      writer.append(text);
      writer.finish();
    };
    for (const auto& [file, text] : save.texts) {
      write(file, text);
      manifest.files.push_back({file, std::ssize(text), 0, xxh64(text)});
    }
    const std::string text = print_manifest(manifest);
    write(std::string(kManifestName), text);
    sync_directory(save.staging, ops_);
    // The production reader judges what lies on the storage, before anybody can rely on it.
    for (const StoredFile& file : manifest.files) FileReader(path_join(save.staging, file.name)).drop_cache();
    CheckpointReader::open_folder(save.staging, options_.read_back);
    publish(save.staging, target, text);
  } catch (...) {
    abandon(save);
    throw;
  }
  sync_directory(root_, ops_);
  try {  // The checkpoint is safe: what fails from here on is worth a warning only.
    atomic_write_file(path_join(root_, kLatestName), name + "\n", ops_);
    remove_leftovers();
    apply_retention();
  } catch (const DataError& error) {
    log_warn(str_cat("checkpoint ", target, " is complete, but: ", error.what()));
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - save.start;
  return {target, save.bytes, elapsed.count()};
}

void CheckpointStore::abandon(const StagedSave& save) noexcept {
  try {
    remove_tree(save.staging, ops_);
  } catch (const std::exception& error) {
    log_warn(str_cat("the failed save left files behind: ", error.what()));
  }
}

void CheckpointStore::publish(const std::string& staging, const std::string& target, const std::string& manifest_text) {
  if (!lock_.still_owned()) {
    throw DataError(str_cat(root_, ": this job no longer owns the folder (", path_join(root_, kOwnerName),
                            " was removed or rewritten): the checkpoint is not published. Choose another folder."));
  }
  if (path_exists(target)) {
    replace(staging, target);
  } else {
    const int renamed = ops_.rename(staging, target);
    if (renamed < 0 && !holds_manifest(target, manifest_text)) throw_file_error("publish", target, -renamed);
  }
}

void CheckpointStore::replace(const std::string& staging, const std::string& target) {
  const int swapped = ops_.exchange(staging, target);
  if (swapped >= 0) return;
  if (swapped != -EINVAL && swapped != -ENOSYS && swapped != -EOPNOTSUPP) throw_file_error("replace", target, -swapped);
  // This file system cannot swap names. Between the two renames only the older checkpoints are visible.
  const std::string trash = path_join(root_, str_cat(kTrashPrefix, iteration_name(0), "-", nonce()));
  const int moved = ops_.rename(target, trash);
  if (moved < 0) throw_file_error("replace", target, -moved);
  const int renamed = ops_.rename(staging, target);
  if (renamed < 0) {
    ops_.rename(trash, target);
    throw_file_error("replace", target, -renamed);
  }
}

void CheckpointStore::apply_retention() {
  const int64_t interval = options_.save_retain_interval;
  const int64_t keep = options_.most_recent_k > 0 ? options_.most_recent_k : interval > 0 ? 1 : 0;
  if (keep == 0) return;
  int64_t seen = 0;
  for (const Candidate& candidate : list_checkpoints(root_)) {
    if (!candidate.damage.empty() || is_symlink(candidate.path)) continue;  // not ours to judge
    if (++seen <= keep || (interval > 0 && candidate.iteration % interval == 0)) continue;
    // Out of sight first: a half-removed checkpoint must not look like a damaged one.
    const std::string trash = str_cat(kTrashPrefix, iteration_name(candidate.iteration), "-", nonce());
    const int moved = ops_.rename(candidate.path, path_join(root_, trash));
    if (moved < 0) throw_file_error("remove", candidate.path, -moved);
    sync_directory(root_, ops_);
    remove_tree(path_join(root_, trash), ops_);
    log_info(str_cat("removed ", candidate.path, " (most_recent_k ", options_.most_recent_k, ", save_retain_interval ",
                     interval, ")"));
  }
}

}  // namespace megatron
