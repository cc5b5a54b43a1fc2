#!/usr/bin/env bash
# Fuzzes the readers of checkpoint files under AddressSanitizer and UndefinedBehaviorSanitizer. Builds what it needs.
#   tests/checkpoint/fuzz.sh [SECONDS]   30 by default; the folder build/fuzz keeps objects and, with clang, the corpus
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seconds=${1:-30}
folder=build/fuzz
mkdir -p "$folder/corpus"
flags=(-std=c++20 -O1 -g -Isrc -I. "-fsanitize=address,undefined" -fno-sanitize-recover=undefined)
compiler=("${CXX:-g++}")
kind=own
if echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
  clang++ -fsanitize=fuzzer -x c++ - -o "$folder/probe" 2> /dev/null; then
  compiler=(clang++) kind=libfuzzer
  flags+=(-fsanitize=fuzzer-no-link -DMEGATRON_LIBFUZZER)
fi
if command -v ccache > /dev/null; then compiler=(ccache "${compiler[@]}"); fi

objects=()
for source in tests/checkpoint/fuzz/main.cpp \
  src/base/{check,file_io,hash,log,strings,thread_pool}.cpp src/tensor/dtype.cpp \
  src/checkpoint/{manifest,safetensors,shard_exchange,shard_writer,strict_json}.cpp; do
  object=$folder/$kind-$(echo "${source%.cpp}" | tr / -).o
  "${compiler[@]}" "${flags[@]}" -c "$source" -o "$object"
  objects+=("$object")
done
link=("-fsanitize=address,undefined")
if [[ $kind == libfuzzer ]]; then link+=(-fsanitize=fuzzer); fi
"${compiler[@]}" "${link[@]}" "${objects[@]}" -lspdlog -lfmt -pthread -o "$folder/fuzz"

if [[ $kind == libfuzzer ]]; then
  MEGATRON_FUZZ_SEEDS=$folder/corpus "$folder/fuzz" -runs=0 "$folder/corpus" 2> /dev/null
  code=0
  "$folder/fuzz" -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=1024 -timeout=5 -print_final_stats=1 \
    "$folder/corpus" > "$folder/log" 2>&1 || code=$?
  if ((code != 0)); then
    tail -n 60 "$folder/log"
    exit "$code"
  fi
  grep -E '^(Done|stat::peak_rss_mb)' "$folder/log"
else
  "$folder/fuzz" "$seconds"
fi
