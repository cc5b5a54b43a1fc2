#!/usr/bin/env bash
# Compares a build with PyTorch on one GPU: the same losses, and how fast.
#   run_gpu.sh --megatron BINARY --data FOLDER --out FOLDER parity|control|speed MODEL...
# control is parity, and PyTorch once more with flash attention: how far two runs drift apart by rounding alone.
# MODEL is the name of a configuration in this folder: gpt2_124m, llama3.2_1b, llama3_8b_8layers (speed only).
# The data folder holds text_document.bin, text_document.idx and tokenizer.json (README.md); speed needs none of them.
# Python 3 with PyTorch 2.5 or newer is taken from $PYTHON, else python3.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
python=${PYTHON:-python3}
megatron='' data='' out=''
while [[ ${1:-} == --* ]]; do
  [[ $# -ge 2 ]] || { echo "run_gpu.sh: $1 needs a value" >&2; exit 2; }
  case $1 in
    --megatron) megatron=$(realpath "$2") ;;
    --data) data=$(realpath -m "$2") ;;
    --out) out=$(realpath -m "$2") ;;
    *) echo "run_gpu.sh: unknown option '$1'; known: --megatron, --data, --out" >&2 && exit 2 ;;
  esac
  shift 2
done
if [[ -z $megatron || -z $out || $# -lt 2 ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
readonly what=$1
shift
mkdir -p "$out"

# quiet LOG COMMAND...: the end of the log where the command fails.
quiet() {
  local log=$1 begin=$SECONDS
  shift
  "$@" >"$log" 2>&1 || { tail -n 30 "$log" >&2 && return 1; }
  printf '  %4d s  %s\n' "$((SECONDS - begin))" "$(basename "$log" .log)"
}

parity() {
  local config=$here/$1.yaml run=$out/$1
  local paths=(--set "data.data_path=[$data/text_document]" --set "data.tokenizer_model=$data/tokenizer.json")
  rm -rf "$run"
  mkdir -p "$run"
  printf '== %s: losses\n' "$1"
  # Initial values depend on names and seed alone, so in fp32 they are what the master copy of the run starts from.
  # skip_train evaluates and saves at iteration 0.
  quiet "$run/initial-weights.log" "$megatron" pretrain --config "$config" "${paths[@]}" --set run.dir="$run/initial" \
    --set training.skip_train=true --set precision.params_dtype=fp32 --set training.micro_batch_size=1
  quiet "$run/ours.log" "$megatron" pretrain --config "$config" "${paths[@]}" --set run.dir="$run/ours"
  local batch iters
  batch=$(sed -n 's/^  global_batch_size: //p' "$run/ours/resolved.yaml")
  iters=$(sed -n 's/^  train_iters: //p' "$run/ours/resolved.yaml")
  quiet "$run/samples.log" "$megatron" data samples --config "$run/ours/resolved.yaml" --count "$((batch * iters))" \
    --output "$run/samples.safetensors"
  local torch=("$python" "$here/train_torch.py" --config "$run/ours/resolved.yaml"
    --weights "$run/initial/checkpoints/iter_0000000" --samples "$run/samples.safetensors")
  quiet "$run/torch.log" "${torch[@]}" --attention cudnn --output "$run/torch.jsonl"
  "$python" "$here/compare.py" "$run/ours/metrics.jsonl" "$run/torch.jsonl" || failed=1
  if [[ $what == control ]]; then
    quiet "$run/torch-flash.log" "${torch[@]}" --attention flash --output "$run/torch-flash.jsonl"
    printf 'control: PyTorch with flash attention, and PyTorch\n'
    "$python" "$here/compare.py" "$run/torch-flash.jsonl" "$run/torch.jsonl" || true
  fi
  rm -rf "$run/initial" "$run/ours/checkpoints" "$run/samples.safetensors" # gigabytes
}

# What the two are timed on; the tokens are made up.
speed_settings() {
  printf '%s\n' data.mock_data=true data.data_path=null data.tokenizer_type=NullTokenizer data.tokenizer_model=null
  case $1 in
    gpt2_124m) printf '%s\n' training.micro_batch_size=64 training.global_batch_size=64 ;;
    llama3.2_1b) printf '%s\n' model.seq_length=8192 training.micro_batch_size=2 training.global_batch_size=2 ;;
  esac
}

speed() {
  local config=$here/$1.yaml sets=() setting round
  while read -r setting; do sets+=(--set "$setting"); done < <(speed_settings "$1")
  printf '== %s: speed\n' "$1"
  "$megatron" config show --config "$config" "${sets[@]}" >"$out/$1.shape.yaml"
  # In turn, so that a slow spell of the machine falls on both.
  for round in 1 2; do
    "$megatron" bench step --config "$config" "${sets[@]}" --steps 50 --json >"$out/$1.ours-$round.json"
    "$python" "$here/speed_torch.py" --config "$out/$1.shape.yaml" >"$out/$1.torch-$round.json"
  done
}

failed=0
for model in "$@"; do
  case $what in
    parity | control) parity "$model" ;;
    speed) speed "$model" ;;
    *) echo "run_gpu.sh: '$what': parity, control or speed" >&2 && exit 2 ;;
  esac
done
if [[ $what == speed ]]; then "$python" "$here/speed_table.py" "$out" "$@" || failed=1; fi
exit "$failed"
