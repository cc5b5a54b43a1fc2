#!/usr/bin/env bash
# Kills (SIGKILL) and stops (SIGSTOP) one rank of a CPU job at random moments of training with frequent checkpoints.
# Each time the job has to end by itself, within 30 s of a kill and within the time-out + 15 s of a stop, exit_status.json
# has to name the rank, and the newest checkpoint has to be whole and go on.
# usage: lost_ranks.sh BUILD_FOLDER [times each, default 3] [random seed]
set -euo pipefail
build=$(cd "$1" && pwd) times=${2:-3} RANDOM=${3:-$$}
megatron=$build/megatron ranks=3 timeout_seconds=3
command -v mpirun > /dev/null || { echo "no mpirun: not tested"; exit 0; }
"$megatron" doctor --help > /dev/null
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 work megatron
root=()
[[ $(id -u) == 0 ]] && root=(--allow-run-as-root)
cat > "$work/run.yaml" <<YAML
run: {device: cpu, cpu_threads: 1}
model: {vocab_size: 64, num_layers: 2, hidden_size: 32, num_attention_heads: 4, seq_length: 16}
data: {mock_data: true, tokenizer_type: NullTokenizer}
training: {micro_batch_size: 1, global_batch_size: 6, train_iters: 100000000, eval_iters: 0}
optimizer: {lr: 1.0e-3, lr_decay_style: constant}
precision: {params_dtype: fp32}
checkpoint: {save_interval: 10, most_recent_k: 2}
logging: {tensorboard: false, log_interval: 1000}
parallel: {distributed_timeout_minutes: $(awk "BEGIN {print $timeout_seconds / 60}")}
YAML

fail() {
  echo "FAILED: $1"
  tail -n 40 "$work/output" "$work/run/exit_status.json" 2> /dev/null || true
  exit 1
}

# signal rank limit
lose() {
  local signal=$1 rank=$2 limit=$3
  rm -rf "$work/run" "$work"/pid.*
  # shellcheck disable=SC2016  # for the shell of each rank
  timeout 120 mpirun "${root[@]}" --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 -n $ranks \
    sh -c 'echo $$ > "$work/pid.$OMPI_COMM_WORLD_RANK"; exec "$megatron" pretrain --config "$work/run.yaml" --set run.dir="$work/run"' \
    > "$work/output" 2>&1 &
  local job=$! begin
  for _ in $(seq 400); do
    [[ -e $work/run/checkpoints/latest ]] && break
    sleep 0.05
  done
  [[ -e $work/run/checkpoints/latest ]] || fail "no checkpoint within 20 s"
  sleep "$((RANDOM % 2)).$((RANDOM % 1000 + 1000))"
  kill "-$signal" "$(cat "$work/pid.$rank")"
  begin=$(date +%s%N)
  local code=0
  wait $job || code=$?
  local took=$((($(date +%s%N) - begin) / 1000000))
  ((code != 0 && code != 124)) || fail "SIG$signal of rank $rank: the job ended with $code"
  ((took < limit * 1000)) || fail "SIG$signal of rank $rank: the job took $took ms to end, more than $limit s"
  local r status
  for r in $(seq 0 $((ranks - 1))); do
    status=$work/run/exit_status.json
    if ((r > 0)); then status=$work/run/logs/exit_status-rank-000$r.json; fi
    if ((r == rank && r > 0)); then continue; fi  # it could say nothing
    grep -q '"code": 4' "$status" || fail "SIG$signal of rank $rank: $status is not there or not of code 4"
    grep -q "\"culprit\": \"rank $rank (" "$status" || fail "SIG$signal of rank $rank: $status names another culprit"
  done
  local saved
  saved=$("$megatron" checkpoint verify "$work/run/checkpoints" 2>&1) || fail "the checkpoint is damaged: $saved"
  code=0
  "$megatron" pretrain --config "$work/run.yaml" --set run.dir="$work/run" --set run.exit_interval=1 \
    > "$work/output" 2>&1 || code=$?
  if ((code != 75)) || ! grep -q "resumed from" "$work/output"; then
    fail "going on from the checkpoint ended with $code"
  fi
  echo "SIG$signal of rank $rank: ended after $took ms, $(grep -o 'resumed from [^:]*' "$work/output" | sed 's/.*iter_0*/checkpoint /')"
}

for ((i = 0; i < times; ++i)); do
  lose KILL $((i % ranks)) 30
  lose STOP $(((i + 1) % ranks)) $((timeout_seconds + 15))
done
echo "lost_ranks: $times kills and $times stops, all ended and named"
