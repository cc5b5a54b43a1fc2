#!/usr/bin/env python3
"""Follows metrics.jsonl of a run and sends it to Weights & Biases.

    wandb_sync.py RUN_DIR --project P              follow until the run has ended
    wandb_sync.py RUN_DIR --project P --once       send what is there and end
    wandb_sync.py RUN_DIR --project P --offline    write W&B's files locally; `wandb sync` uploads them later
    wandb_sync.py RUN_DIR --dry-run --once         print what would be sent; needs neither wandb nor a network

The script may be stopped and started at any time: the id of the W&B run and what has been sent are kept in
RUN_DIR/wandb_sync.json. A resumed run repeats iterations: W&B gets each value of an iteration once (--repeated send
sends them again). Lines are read only when they are complete.
"""
import argparse
import json
import os
import secrets
import sys
import time

STATE_FILE = "wandb_sync.json"


def fail(message, code=2):
    print("wandb_sync: " + message, file=sys.stderr)
    sys.exit(code)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", help="run folder (run.dir)")
    parser.add_argument("--project", help="W&B project; required unless --dry-run")
    parser.add_argument("--entity", help="W&B user or team")
    parser.add_argument("--name", help="name shown in W&B; default: name of the run folder")
    parser.add_argument("--id", help="id of the W&B run to continue; default: the one in " + STATE_FILE)
    parser.add_argument("--once", action="store_true", help="send what is there and end")
    parser.add_argument("--keep-following", action="store_true", help="go on after the run has ended (it may resume)")
    parser.add_argument("--interval", type=float, default=10.0, metavar="S", help="seconds between looks (default 10)")
    parser.add_argument("--repeated", choices=["skip", "send"], default="skip",
                        help="values of an iteration that was sent before (default skip)")
    parser.add_argument("--offline", action="store_true", help="W&B's offline mode")
    parser.add_argument("--dry-run", action="store_true", help="print instead of sending, and keep no state")
    args = parser.parse_args(argv)
    if not args.dry_run and not args.project:
        parser.error("--project is required (or --dry-run)")
    if args.interval <= 0:
        parser.error("--interval must be positive")
    if args.once and args.keep_following:
        parser.error("--once and --keep-following exclude each other")
    return args


class Printer:
    """The target of --dry-run."""

    def send(self, row):
        print(json.dumps(row), flush=True)

    def finish(self):
        pass


class Wandb:
    def __init__(self, args, run_id):
        try:
            import wandb
        except ImportError:
            fail("the package wandb is not installed: pip install wandb (or use --dry-run)")
        self.run = wandb.init(project=args.project, entity=args.entity, id=run_id, resume="allow",
                              name=args.name or os.path.basename(os.path.abspath(args.run_dir)), dir=args.run_dir,
                              mode="offline" if args.offline else "online", config=read_config(args.run_dir))
        # W&B's own step only grows; with an axis of its own an iteration may get values later.
        self.run.define_metric("iteration")
        self.run.define_metric("*", step_metric="iteration")

    def send(self, row):
        self.run.log(row)

    def finish(self):
        self.run.finish()


def read_config(run_dir):
    """The text of resolved.yaml: parsed when PyYAML is there, else as one string."""
    path = os.path.join(run_dir, "resolved.yaml")
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        import yaml
    except ImportError:
        return {"resolved_yaml": text}
    return yaml.safe_load(text) or {}


def load_state(path):
    if not os.path.exists(path):
        return {"id": None, "offset": 0}
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        return {"id": str(state["id"]), "offset": int(state["offset"])}
    except (ValueError, KeyError, TypeError):
        fail(f"{path} is damaged; remove it to start a new W&B run")


def save_state(path, state):
    temporary = path + ".tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(state, file)
    os.replace(temporary, path)


class Follower:
    """Reads complete lines from an offset on and remembers which values of which iteration have been seen."""

    def __init__(self, path, repeated):
        self.path = path
        self.repeated = repeated
        self.offset = 0
        self.line = 0
        self.seen = {}

    def lines(self, end=None):
        """(object, offset behind it) of each complete line up to `end`."""
        with open(self.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < self.offset:
                fail(f"{self.path} has become shorter; for a new run remove {STATE_FILE} beside it", 3)
            file.seek(self.offset)
            while end is None or self.offset < end:
                raw = file.readline()
                if not raw.endswith(b"\n"):
                    return
                self.line += 1
                try:
                    row = json.loads(raw)
                    row["iteration"] += 0
                except (ValueError, KeyError, TypeError):
                    fail(f"{self.path}:{self.line}: not a metrics line", 3)
                self.offset += len(raw)
                yield row

    def fresh(self, row):
        """The part of a row to send; None when there is nothing new."""
        known = self.seen.get(row["iteration"], frozenset())
        values = {key: value for key, value in row.items()
                  if key not in ("iteration", "non_finite") and value is not None}
        if self.repeated == "skip":
            values = {key: value for key, value in values.items() if key not in known}
        self.seen[row["iteration"]] = known | frozenset(values)
        return {"iteration": row["iteration"], **values} if values else None

    def catch_up(self, end):
        """Goes over what an earlier call of this script has sent."""
        for row in self.lines(end):
            self.fresh(row)
        if self.offset < end:
            fail(f"{self.path} is shorter than what was sent; for a new run remove {STATE_FILE} beside it", 3)

    def new_rows(self):
        for row in self.lines():
            values = self.fresh(row)
            if values is not None:
                yield values


def follow(args, follower, target, save):
    sent = 0
    while True:
        ended = os.path.exists(os.path.join(args.run_dir, "exit_status.json"))
        before = follower.offset
        for row in follower.new_rows():
            target.send(row)
            sent += 1
        if follower.offset != before:
            save(follower.offset)
        if args.once or (ended and not args.keep_following):
            return sent
        time.sleep(args.interval)


def main(argv=None):
    args = parse_arguments(argv)
    metrics = os.path.join(args.run_dir, "metrics.jsonl")
    if not os.path.isdir(args.run_dir):
        fail(f"there is no folder {args.run_dir}", 3)
    while not os.path.exists(metrics):
        if args.once:
            fail(f"there is no {metrics}", 3)
        time.sleep(args.interval)
    state_path = os.path.join(args.run_dir, STATE_FILE)
    state = {"id": None, "offset": 0} if args.dry_run else load_state(state_path)
    if args.id and args.id != state["id"]:
        state = {"id": args.id, "offset": 0}
    state["id"] = state["id"] or secrets.token_hex(4)
    follower = Follower(metrics, args.repeated)
    follower.catch_up(state["offset"])
    target = Printer() if args.dry_run else Wandb(args, state["id"])

    def save(offset):
        state["offset"] = offset
        if not args.dry_run:
            save_state(state_path, state)

    save(follower.offset)
    try:
        sent = follow(args, follower, target, save)
        print(f"wandb_sync: sent {sent} rows of {metrics}", file=sys.stderr)
    except KeyboardInterrupt:
        print("wandb_sync: stopped; start it again to go on", file=sys.stderr)
    finally:
        target.finish()


if __name__ == "__main__":
    main()
