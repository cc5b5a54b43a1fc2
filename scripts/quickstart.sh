#!/usr/bin/env bash
# From a fresh clone to generated text, without a GPU, in under ten minutes: installs what is missing, builds, turns a
# dictionary of English into training data, trains a small GPT until its loss has visibly fallen, and lets it write.
#   scripts/quickstart.sh [--corpus FILE] [--out DIR] [--no-install]
# FILE is a plain text file to train on instead (at least 1 MB); DIR (default: out/quickstart) gets all that is made.
set -euo pipefail

fail() {
  printf 'quickstart.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

corpus=
out=out/quickstart
install=true
while [[ $# -gt 0 ]]; do
  case $1 in
    --corpus | --out)
      [[ $# -ge 2 ]] || fail "$1 needs a value" 2
      if [[ $1 == --corpus ]]; then corpus=$(realpath -m "$2"); else out=$(realpath -m "$2"); fi
      shift
      ;;
    --no-install) install=false ;;
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) fail "unknown argument '$1'; known: --corpus FILE, --out DIR, --no-install, --help" 2 ;;
  esac
  shift
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[[ -z $corpus || -r $corpus ]] || fail "cannot read the corpus $corpus" 2
readonly vocab_size=4096
readonly data=$out/data
# A folder of its own for each run: the metrics of an earlier one must not be taken for this one's.
run=$out/run-$(date +%Y%m%d-%H%M%S)
readonly run

step() {
  printf '\n== %s (%d s)\n' "$1" "$SECONDS"
}

# The text of the dictionary: its file as installed, or as fetched by install_deps.sh.
dictionary_text() {
  local file=/usr/share/dictd/gcide.dict.dz
  [[ -f $file ]] || file=data/corpus/gcide.dict.dz
  [[ -f $file ]] || fail "the dictionary is not here; run without --no-install, or name a text with --corpus FILE"
  # The entries are alphabetical; mixing them makes the validation split, which is the end, like the rest.
  gzip -dc "$file" | LC_ALL=C awk -f scripts/gcide_to_text.awk | shuf --random-source="$file" >"$data/text.txt.part"
  mv "$data/text.txt.part" "$data/text.txt"
}

# Prints the validation losses before the first and after the last step, and fails unless they fell by a third.
check_losses() {
  grep -o '"valid_lm_loss": *[0-9.eE+-]*' "$1" | awk -F': *' '
    NR == 1 { first = $2 }
    { last = $2 }
    END {
      if (NR < 2) { print "there are no two validation losses in the metrics"; exit 1 }
      printf "validation loss: %.3f before step 1, %.3f at the end, %.0f %% less\n", first, last, 100 * (1 - last / first)
      exit !(last > 0 && last <= first * 2 / 3)
    }'
}

if $install; then
  step "packages"
  if [[ -n $corpus ]]; then scripts/install_deps.sh; else scripts/install_deps.sh --corpus; fi
fi

step "build"
preset=cpu-release
# The CUDA code takes long to compile, so it is built only where a GPU can use it.
device=cpu
if command -v nvidia-smi nvcc >/dev/null && nvidia-smi -L >/dev/null 2>&1; then preset=release device=auto; fi
scripts/build.sh --no-install --no-tests --preset "$preset" megatron
readonly megatron=build/$preset/megatron

step "corpus"
mkdir -p "$data"
if [[ -n $corpus ]]; then
  text=$corpus
else
  text=$data/text.txt
  [[ -s $text ]] || dictionary_text
fi
printf '%s: %d bytes\n' "$text" "$(stat -c %s "$text")"

step "tokenizer"
"$megatron" tokenizer train --input "$text" --vocab-size "$vocab_size" --output "$data/tokenizer.json"

step "preprocess"
"$megatron" preprocess --input "$text" --output-prefix "$data/text" --append-eod --workers "$(nproc)" \
  --tokenizer-type HuggingFaceTokenizer --tokenizer-model "$data/tokenizer.json"

step "train"
"$megatron" pretrain --config configs/quickstart.yaml --set "run.dir=$run" --set "run.device=$device" \
  --set "data.data_path=[$data/text_document]" --set "data.tokenizer_model=$data/tokenizer.json"

step "generate"
"$megatron" generate --load "$run/checkpoints" --prompt "Bread, n. A kind of" \
  --num-tokens-to-generate 64 --temperature 0.7 --seed 1

step "result"
check_losses "$run/metrics.jsonl" || fail "the validation loss did not fall by a third"
printf 'quickstart.sh: done in %d s; everything is in %s\n' "$SECONDS" "$out"
