#!/usr/bin/env python3
"""Kills training runs at random moments, flips bits, fills disks: no checkpoint may be lost, none may be half there.

  tests/checkpoint/crash_campaign.py MEGATRON [--kills 200] [--flips 1000] [--seed 1]

Without numbers it is the short form of CI. Prints one line of figures for each part; exit code 1 names the first failure.
"""
import argparse
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

CONFIG = """\
run: {device: cpu, cpu_threads: 1, seed: 7}
model: {num_layers: 2, hidden_size: 64, ffn_hidden_size: 128, num_attention_heads: 4, seq_length: 32,
        max_position_embeddings: 32, vocab_size: 512}
data: {mock_data: true, tokenizer_type: NullTokenizer}
training: {micro_batch_size: 2, global_batch_size: 4, train_iters: 1000000, eval_iters: 0}
optimizer: {lr: 0.001, min_lr: 0.0001, lr_decay_iters: 1000}
checkpoint: {save_interval: 3, most_recent_k: 2}
logging: {tensorboard: false, log_interval: 1000000}
"""


class Campaign:
    def __init__(self, binary, work, seed):
        self.binary, self.work, self.random = binary, work, random.Random(seed)
        with open(os.path.join(work, "run.yaml"), "w") as file:
            file.write(CONFIG)

    def command(self, run, *settings):
        words = [self.binary, "pretrain", "--config", os.path.join(self.work, "run.yaml")]
        for setting in (f"run.dir={self.path(run)}", *settings):
            words += ["--set", setting]
        return words

    def path(self, *names):
        return os.path.join(self.work, *names)

    def train(self, run, *settings, **options):
        return subprocess.run(self.command(run, *settings), capture_output=True, text=True, timeout=120, **options)

    def verify(self, folder):
        return subprocess.run([self.binary, "checkpoint", "verify", folder], capture_output=True, text=True, timeout=60)


def fail(what, output=""):
    sys.exit(f"crash_campaign: {what}\n{output[-3000:]}")


def checkpoints(folder):
    return sorted(name for name in os.listdir(folder) if name.startswith("iter_")) if os.path.isdir(folder) else []


def kill_runs(campaign, kills):
    """Each life starts from what the last one left, is killed, and what it leaves must be whole."""
    resumed, dead_staging, newest = 0, 0, 0
    folder = campaign.path("killed", "checkpoints")
    for life in range(kills):
        background = "true" if life % 2 else "false"
        with open(campaign.path("killed.log"), "w") as log:
            process = subprocess.Popen(campaign.command("killed", f"checkpoint.async_save={background}"), stderr=log)
            time.sleep(campaign.random.uniform(0.02, 0.5))
            process.kill()
            process.wait()
        with open(campaign.path("killed.log")) as log:
            text = log.read()
        if "checkpoint skipped" in text:
            fail(f"life {life}: an incomplete checkpoint was seen", text)
        found = re.search(r"resumed from \S+/iter_(\d+)", text)
        if found:
            resumed += 1
            if int(found.group(1)) < newest:
                fail(f"life {life}: went on from {found.group(1)}, but {newest} had been complete", text)
        elif newest and re.search(r"^error", text, re.MULTILINE):
            fail(f"life {life}: did not start", text)
        names = checkpoints(folder)
        if names:
            newest = int(names[-1][5:])
            checked = campaign.verify(folder)
            if checked.returncode != 0:
                fail(f"life {life}: a visible checkpoint is not whole", checked.stdout + checked.stderr)
        if os.path.isdir(folder):
            dead_staging += any(name.startswith((".tmp-", ".trash-")) for name in os.listdir(folder))
    if not newest or resumed < kills // 3:
        fail(f"only {resumed} of {kills} lives went on from a checkpoint: the campaign tested nothing")
    # The rest of the way, and the same way without a kill, must end in the same bytes.
    last = newest + 20
    for run in ("killed", "straight"):
        done = campaign.train(run, f"training.train_iters={last}")
        if done.returncode != 0:
            fail(f"{run}: exit code {done.returncode}", done.stderr)
    shards = [campaign.path(run, "checkpoints", f"iter_{last:07d}", "shard-00000-00000.safetensors")
              for run in ("killed", "straight")]
    if open(shards[0], "rb").read() != open(shards[1], "rb").read():
        fail(f"after {kills} kills the weights of iteration {last} are not those of a straight run")
    print(f"kills: {kills} (half of them with saves in the background), {resumed} resumed, {dead_staging} in the midst of a "
          f"save, {newest} iterations: 0 unloadable, 0 incomplete, same bytes as a straight run")


def flip_bits(campaign, flips):
    folder = campaign.path("straight", "checkpoints", checkpoints(campaign.path("straight", "checkpoints"))[-1])
    files = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    sizes = [os.path.getsize(path) for path in files]
    for number in range(flips):
        # Half of the flips by bytes, half by files, so that small ones get their share.
        path = campaign.random.choices(files, sizes)[0] if number % 2 else campaign.random.choice(files)
        at, bit = campaign.random.randrange(os.path.getsize(path)), campaign.random.randrange(8)
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ (1 << bit)]))
        result = campaign.verify(folder)
        places = re.findall(re.escape(path) + r": bytes \[(\d+), (\d+)\)", result.stdout)
        if result.returncode != 3 or not any(int(a) <= at < int(b) for a, b in places):
            fail(f"bit {bit} of byte {at} of {path}: exit code {result.returncode}", result.stdout + result.stderr)
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([byte]))
    if campaign.verify(folder).returncode != 0:
        fail("the checkpoint is not what it was")
    print(f"bit flips: {flips} of {flips} detected, with exit code 3, file and bytes named")


def small_files_only(limit):
    """What a full disk looks like: writing past `limit` bytes of a file fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def fill_disk(campaign):
    cases = 0
    for background in ("false", "true"):
        run = f"full-{background}"
        settings = (f"checkpoint.async_save={background}", "training.train_iters=9", "optimizer.lr_decay_iters=1000")
        good = campaign.train(run, *settings, "run.exit_interval=3")
        if good.returncode != 75:
            fail(f"{run}: exit code {good.returncode}", good.stderr)
        for limit in (0, 1000, 50000, 200000):
            result = campaign.train(run, *settings, preexec_fn=lambda limit=limit: small_files_only(limit))
            if result.returncode != 3 and limit > 0:
                fail(f"{run}, {limit} bytes: exit code {result.returncode}", result.stderr)
            if limit > 20000 and not re.search(r"iteration \d+ was not saved: cannot write .*File too large", result.stderr):
                fail(f"{run}, {limit} bytes: the reason is not named", result.stderr)
            names = checkpoints(campaign.path(run, "checkpoints"))
            if names != ["iter_0000003"] or campaign.verify(campaign.path(run)).returncode != 0:
                fail(f"{run}, {limit} bytes: left {names}", result.stderr)
            cases += 1
        done = campaign.train(run, *settings)
        if done.returncode != 0 or "iter_0000009" not in checkpoints(campaign.path(run, "checkpoints")):
            fail(f"{run}: with space again: exit code {done.returncode}", done.stderr)
    print(f"full disk: {cases} runs ended with a clear error and the checkpoint from before; all went on with space")
    tmpfs = campaign.path("tmpfs")
    os.mkdir(tmpfs)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7m", "none", tmpfs], capture_output=True).returncode != 0:
        print("full disk: no right to mount a small file system; not tested on one")
        return
    try:
        result = campaign.train("small", f"checkpoint.save={tmpfs}", "training.train_iters=9")
        if result.returncode != 3 or "space" not in result.stderr:
            fail(f"file system of 7 MiB: exit code {result.returncode}", result.stderr)
        names = checkpoints(tmpfs)
        if not names or campaign.verify(tmpfs).returncode != 0:
            fail(f"file system of 7 MiB: {names} is left", result.stderr)
        subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
        result = campaign.train("readonly", f"checkpoint.save={tmpfs}/new", "training.train_iters=9")
        if result.returncode != 3 or "Read-only file system" not in result.stderr:
            fail(f"read-only file system: exit code {result.returncode}", result.stderr)
    finally:
        subprocess.run(["umount", tmpfs], check=False)
    print(f"full disk: a file system of 7 MiB held {len(names)} checkpoints, whole; a read-only one was refused at the start")


def refuse(campaign):
    if os.geteuid() != 0:
        folder = campaign.path("locked")
        os.mkdir(folder, 0o555)
        result = campaign.train("denied", f"checkpoint.save={folder}/new")
    else:
        result = campaign.train("denied", "checkpoint.save=/proc/new")  # where nobody can write
    if result.returncode != 3 or "cannot" not in result.stderr or "step 1/" in result.stderr:
        fail(f"a folder without the right to write: exit code {result.returncode}", result.stderr)
    shared = campaign.path("shared")
    with open(os.devnull, "w") as nowhere:
        first = subprocess.Popen(campaign.command("first", f"checkpoint.save={shared}"), stderr=nowhere)
    try:
        for _ in range(200):
            if checkpoints(shared):
                break
            time.sleep(0.05)
        second = campaign.train("second", f"checkpoint.save={shared}")
        if second.returncode != 2 or "another job writes its checkpoints here" not in second.stderr:
            fail(f"a second job: exit code {second.returncode}", second.stderr)
        if f"process {first.pid}" not in second.stderr:
            fail("the owner of the folder is not named", second.stderr)
        if first.poll() is not None:
            fail("the first job ended when a second one came")
        first.send_signal(signal.SIGUSR1)
        if first.wait(timeout=60) != 75 or campaign.verify(shared).returncode != 0:
            fail("the first job did not end well")
    finally:
        first.kill()
        first.wait()
    print("refusals: no right to write, and a second job on one folder, which names the first: clear errors, nothing lost")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    work = tempfile.mkdtemp(prefix="megatron-crash-")
    start = time.monotonic()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    campaign = Campaign(os.path.abspath(arguments.binary), work, arguments.seed)
    try:
        kill_runs(campaign, arguments.kills)
        flip_bits(campaign, arguments.flips)
        fill_disk(campaign)
        refuse(campaign)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"crash_campaign: passed in {time.monotonic() - start:.0f} s (seed {arguments.seed})")


main()
