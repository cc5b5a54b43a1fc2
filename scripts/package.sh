#!/usr/bin/env bash
# Makes a bundle that runs from any folder of a cluster node: dist/megatron-<version>-<arch>.tar.gz.
#   scripts/package.sh                     builds the preset release and packages it
#   --preset NAME      another preset of CMakePresets.json
#   --build-dir DIR    packages what is built in DIR, without building
#   --output DIR       folder of the bundle (default: dist)
#   --with-cuda        also the CUDA runtime, cuBLAS, cuDNN and NCCL (about 1 GB); else the node must have them
#   --no-install       leaves the packages of this machine alone
#   --verify FILE      only checks a bundle: unpacks it, runs it in a clean environment, looks where its libraries are
# The bundle holds bin/megatron, the libraries that a node may lack in lib/, configs/, licences and MANIFEST. What stays
# outside is the C library (the node's must be as new as this machine's), the NVIDIA driver and MPI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Libraries that belong to the node: the C library, the driver, MPI with its transports.
readonly system_libraries='^(linux-vdso|ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv|libnss_.*|libutil)\.so'
readonly node_libraries='^(libcuda|libnvidia-.*|libmpi.*|libopen-(rte|pal)|libpmix|libucp|libucs|libuct|libhwloc|libfabric)\.so'
readonly cuda_libraries='^(libcudart|libcublas|libcublasLt|libcudnn.*|libnccl|libnvrtc.*|libnvJitLink)\.so'
# Opened at run time rather than linked, so no list of needed libraries names them.
readonly cuda_plugins=('libcudnn*.so.9' 'libnccl.so.2' 'libnvrtc.so.*' 'libnvrtc-builtins.so.*')

fail() {
  printf 'package.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

preset=release
build_dir=''
output=dist
with_cuda=false
install=true
verify_only=''
need_value() { [[ $# -ge 2 && -n $2 ]] || fail "$1 needs a value" 2; }
while [[ $# -gt 0 ]]; do
  case $1 in
    --preset) need_value "$@" && preset=$2 && shift ;;
    --build-dir) need_value "$@" && build_dir=$2 && shift ;;
    --output) need_value "$@" && output=$2 && shift ;;
    --verify) need_value "$@" && verify_only=$2 && shift ;;
    --with-cuda) with_cuda=true ;;
    --no-install) install=false ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) fail "unknown argument '$1'; see scripts/package.sh --help" 2 ;;
  esac
  shift
done

work=$(mktemp -d)
unfinished=''
trap 'rm -rf "$work" ${unfinished:+"$unfinished"}' EXIT

# clean COMMAND ...: runs it as a node would, without anything from this shell.
clean() {
  env -i HOME="$work" PATH=/usr/bin:/bin LC_ALL=C "$@"
}

# libraries_of FILE [FOLDER]: "name path" of every shared library that the loader takes for it, looking into FOLDER
# first; the path is empty when there is none.
libraries_of() {
  clean ${2:+LD_LIBRARY_PATH="$2"} ldd "$1" | awk '$2 == "=>" && $3 == "not" { print $1, ""; next } $2 == "=>" { print $1, $3 }'
}

# needed_by FILE: names that the file itself asks for.
needed_by() {
  objdump -p "$1" | awk '$1 == "NEEDED" { print $2 }'
}

# collect FILE FOLDER: copies the libraries that FILE needs, and those that they need, but none that stays outside.
collect() {
  local name path resolved
  resolved=$(libraries_of "$1")
  while read -r name; do
    [[ $name =~ $system_libraries || $name =~ $node_libraries ]] && continue
    if [[ $name =~ $cuda_libraries ]] && ! $with_cuda; then continue; fi
    [[ -f $2/$name ]] && continue
    path=$(awk -v name="$name" '$1 == name { print $2 }' <<<"$resolved")
    [[ -n $path ]] || path=$(find_library "$name")
    [[ -n $path ]] || fail "$(basename "$1") needs $name, which this machine does not have; install it, then package again"
    take "$path" "$2/$name"
    collect "$path" "$2"
  done < <(needed_by "$1")
}

# take SOURCE TARGET: copies a library, and notes where it came from for the licences.
take() {
  cp -L "$1" "$2"
  chmod 755 "$2"
  readlink -f "$1" >>"$work/sources"
}

# find_library NAME: its path in the loader's cache or the CUDA Toolkit; a name may have wildcards.
find_library() {
  local folder
  for folder in $(cuda_folders) /usr/lib/x86_64-linux-gnu /usr/lib/aarch64-linux-gnu /usr/lib64; do
    find -L "$folder" -maxdepth 1 -name "$1" 2>/dev/null
  done | sort | head -n "${2:-1}"
}

cuda_folders() {
  local nvcc
  printf '%s\n' "${CUDA_HOME:-/usr/local/cuda}/lib64"
  if nvcc=$(command -v nvcc); then printf '%s\n' "$(dirname "$(dirname "$(readlink -f "$nvcc")")")/lib64"; fi
}

# The plug-ins in one folder: parts of cuDNN look for each other beside themselves.
collect_cuda_plugins() {
  local pattern path
  for pattern in "${cuda_plugins[@]}"; do
    while read -r path; do
      [[ -f $1/$(basename "$path") ]] && continue
      take "$path" "$1/$(basename "$path")"
      collect "$path" "$1"
    done < <(find_library "$pattern" 100)
  done
}

# The licence of every library that was taken, as its package gives it.
collect_licences() {
  local source package
  cp third_party/README.md "$1/README.md"
  command -v dpkg-query >/dev/null || return 0
  sort -u "$work/sources" | while read -r source; do
    package=$(dpkg-query -S "$source" "${source#/usr}" 2>/dev/null | head -n 1 | cut -d: -f1 || true)
    if [[ -n $package ]]; then printf '%s\n' "$package"; fi
  done >"$work/packages"
  # These are compiled into the program.
  printf '%s\n' libcli11-dev nlohmann-json3-dev libfmt-dev libspdlog-dev libxxhash-dev >>"$work/packages"
  sort -u "$work/packages" | while read -r package; do
    if [[ -f /usr/share/doc/$package/copyright ]]; then cp "/usr/share/doc/$package/copyright" "$1/$package.txt"; fi
  done
  local eula=${CUDA_HOME:-/usr/local/cuda}/EULA.txt
  if $with_cuda && [[ -f $eula ]]; then cp "$eula" "$1/cuda-EULA.txt"; fi
}

# What a reader of the bundle wants to know before starting it.
write_manifest() {
  local glibc
  glibc=$(for file in "$1"/bin/megatron "$1"/lib/*; do objdump -T "$file"; done 2>/dev/null |
    grep -oE 'GLIBC_[0-9]+\.[0-9.]+' | sort -Vu | tail -n 1)
  printf 'megatron %s for %s\n' "$version" "$arch"
  printf 'commit %s\n' "$(git rev-parse HEAD 2>/dev/null || echo unknown)"
  printf 'needs the C library %s or newer\n' "${glibc#GLIBC_}"
  printf 'from the node: %s\n' "$(needed_by_all "$1" | grep -E "$node_libraries|$cuda_libraries" |
    while read -r name; do [[ -f $1/lib/$name ]] || printf '%s ' "$name"; done || true)"
  printf 'files\n'
  (cd "$1" && find . -type f ! -name MANIFEST -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum)
}

needed_by_all() {
  local file
  for file in "$1"/bin/megatron "$1"/lib/*; do if [[ -f $file ]]; then needed_by "$file"; fi; done | sort -u
}

# check_origin FILE ROOT [FOLDER]: every library is in the bundle or belongs to the node.
check_origin() {
  local name path bad=0
  while read -r name path; do
    [[ $name =~ $system_libraries ]] && continue
    if [[ -n $path && $(realpath -s "$path") == "$2"/lib/* ]]; then continue; fi
    # What the node's own libraries need is the node's affair.
    grep -qxF "$name" "$work/needed" || continue
    if [[ $name =~ $node_libraries || $name =~ $cuda_libraries ]]; then
      [[ -n $path ]] || printf 'package.sh: note: %s has to come from the node; this machine lacks it\n' "$name"
      continue
    fi
    printf 'package.sh: %s takes %s from %s instead of the bundle\n' "${1#"$2"/}" "$name" "${path:-nowhere}" >&2
    bad=1
  done < <(libraries_of "$1" "${3:-}")
  return "$bad"
}

verify() {
  local root file bad=0 said
  mkdir -p "$work/unpacked"
  tar -xzf "$1" -C "$work/unpacked" || fail "$1 cannot be unpacked"
  root=$(find "$work/unpacked" -mindepth 1 -maxdepth 1 -type d)
  [[ -x $root/bin/megatron ]] || fail "$1 holds no bin/megatron"
  (cd "$root" && sed '1,/^files$/d' MANIFEST | sha256sum --check --quiet) || fail "$1: files differ from its MANIFEST"
  needed_by_all "$root" >"$work/needed"
  check_origin "$root/bin/megatron" "$root" || bad=1
  # Within the program its run path serves the libraries too; looked at alone, each has to be told where to look.
  for file in "$root"/lib/*; do
    if [[ -f $file ]]; then check_origin "$file" "$root" "$root/lib" || bad=1; fi
  done
  # An absolute path would find libraries of this machine only.
  if objdump -p "$root/bin/megatron" | awk '
      $1 == "RPATH" || $1 == "RUNPATH" { n = split($2, path, ":"); for (i = 1; i <= n; ++i) if (index(path[i], "$ORIGIN") != 1) bad = 1 }
      END { exit !bad }'; then
    printf 'package.sh: bin/megatron looks for libraries at absolute paths\n' >&2
    bad=1
  fi
  [[ $bad -eq 0 ]] || fail "$1 is not complete; see above"
  said=$(cd / && clean "$root/bin/megatron" --version) || fail "$1: bin/megatron --version does not run"
  (cd / && clean "$root/bin/megatron" doctor >"$work/doctor.txt" 2>&1) || {
    cat "$work/doctor.txt" >&2
    fail "$1: bin/megatron doctor does not run; see above"
  }
  (cd / && clean "$root/bin/megatron" validate --config "$root/configs/quickstart.yaml" >/dev/null) ||
    fail "$1: bin/megatron does not accept configs/quickstart.yaml"
  printf '%s: complete, and %s runs from it; %s\n' "${1%.part}" "$said" "$(tail -n 1 "$work/doctor.txt")"
}

if [[ -n $verify_only ]]; then
  [[ -f $verify_only ]] || fail "--verify $verify_only: there is no such file" 2
  verify "$verify_only"
  exit 0
fi

for tool in objdump ldd tar gzip cmake; do
  command -v "$tool" >/dev/null || fail "$tool is missing; run scripts/install_deps.sh"
done
if [[ -z $build_dir ]]; then
  build_dir=build/$preset
  options=(--preset "$preset" --no-tests)
  $install || options+=(--no-install)
  scripts/build.sh "${options[@]}" megatron
fi
[[ -x $build_dir/megatron ]] || fail "$build_dir/megatron is not there; build it, or leave out --build-dir" 2
version=$("$build_dir/megatron" --version | awk '{ print $2 }')
arch=$(uname -m)
if $with_cuda && ! needed_by "$build_dir/megatron" | grep -qE "$cuda_libraries"; then
  fail "--with-cuda: $build_dir/megatron was built without CUDA; package a build with it" 2
fi

name=megatron-$version-$arch
stage=$work/$name
mkdir -p "$stage/lib" "$stage/licences"
# The installation step sets the run path to \$ORIGIN/../lib.
cmake --install "$build_dir" --component megatron --prefix "$stage" --strip >"$work/install.log" 2>&1 || {
  cat "$work/install.log" >&2
  fail "cmake --install failed; see above"
}
: >"$work/sources"
collect "$build_dir/megatron" "$stage/lib"
if $with_cuda; then collect_cuda_plugins "$stage/lib"; fi
collect_licences "$stage/licences"
cp -r configs LICENSE README.md "$stage/"
write_manifest "$stage" >"$stage/MANIFEST"

mkdir -p "$output"
bundle=$output/$name.tar.gz
unfinished=$bundle.part
# Same input, same bytes: sorted names, no owners, the time of the commit.
time=$(git log -1 --format=%ct 2>/dev/null || echo 0)
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-$time}" -C "$work" -cf - "$name" |
  gzip -n >"$unfinished"
verify "$unfinished"
mv "$unfinished" "$bundle"
unfinished=''
printf '%s: %s, %d libraries\n' "$bundle" "$(du -h "$bundle" | cut -f1)" "$(find "$stage/lib" -type f | wc -l)"
