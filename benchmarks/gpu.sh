#!/usr/bin/env bash
# usage: benchmarks/gpu.sh OUT [--wheels DIR]
#
# Builds univfast with CUDA, tests it on the device, runs compute-sanitizer and measures, in at most 8 minutes, on a
# machine with a GPU and perhaps no network. Needs nvcc, CMake, Ninja, compute-sanitizer and a python3 (or the one that
# PYTHON names) with a CUDA build of torch. Python packages that are missing are installed from the wheels in DIR, into
# a temporary folder as everything else: the machine and this source tree stay as they are.
#
# OUT gets results.json (pytest-benchmark's, with date, device and driver), table.md, and build.log, tests.log,
# sanitizer.log and benchmarks.log. A step that fails or takes too long does not keep the next ones from running; the
# exit status is 1 then.
set -uo pipefail

usage() {
  sed -n '2s/^# //p' "$0" >&2
  exit 2
}

out='' wheels=''
while (($#)); do
  case $1 in
    --wheels)
      if (($# < 2)) || [ ! -d "$2" ]; then usage; fi
      wheels=$(realpath "$2")
      shift 2
      ;;
    -*) usage ;;
    *)
      if [ -n "$out" ]; then usage; fi
      out=$1
      shift
      ;;
  esac
done
if [ -z "$out" ]; then usage; fi
mkdir -p "$out" || exit 2
out=$(realpath "$out")

root=$(realpath "$(dirname "$0")/..")
python=$(command -v "${PYTHON:-python3}") || { echo "no python3" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
site=$work/site packages=$work/packages
mkdir "$site" "$work/logs"
# Not in the source tree: its univfast/ has no compiled core, and would be imported in place of the one built here.
cd "$work" || exit 2
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
export PIP_DISABLE_PIP_VERSION_CHECK=1 TORCHINDUCTOR_CACHE_DIR=$work/inductor TRITON_CACHE_DIR=$work/triton

deadline=470 # seconds from the start, so that all is done within 8 minutes
failed=$work/failed
: > "$failed"

# step NAME LIMIT COMMAND...: runs it for at most LIMIT seconds, with what it prints in a log.
step() {
  local name=$1 limit=$2 began=$SECONDS status
  shift 2
  if ((limit > deadline - SECONDS)); then limit=$((deadline - SECONDS)); fi
  if ((limit < 5)); then
    status="no time left"
  else
    # An interrupted pytest still writes what it has measured.
    timeout --signal=INT --kill-after=10 "$limit" "$@" > "$work/logs/$name" 2>&1
    status=$?
    if ((status == 124 || status == 137)); then status="stopped after $limit s"; fi
  fi
  if [ "$status" = 0 ]; then
    echo "$name: passed ($((SECONDS - began)) s)"
  else
    echo "$name: FAILED ($status)"
    echo "$name" >> "$failed"
    tail -n 20 "$work/logs/$name" 2> /dev/null
  fi
}

# gather LOG NAME...: the logs of some steps as one.
gather() {
  local log=$out/$1.log name
  shift
  for name in "$@"; do
    [ ! -f "$work/logs/$name" ] || { echo "==== $name"; cat "$work/logs/$name"; }
  done > "$log"
}

# What is missing of the packages that univfast, its tests and its benchmarks import.
missing() {
  "$python" - << 'END'
from importlib.util import find_spec

packages = {
    **{name: name for name in ("click", "hypothesis", "matplotlib", "numpy", "pybind11", "pytest", "safetensors")},
    **{name: name for name in ("scipy", "torch", "torchmetrics", "tqdm")},
    "pytest_benchmark": "pytest-benchmark",
}
print(*(package for name, package in packages.items() if find_spec(name) is None))
END
}

install_missing() {
  local names
  read -ra names <<< "$(missing)"
  [ ${#names[@]} -gt 0 ] || return 0
  echo "missing: ${names[*]}"
  [ -n "$wheels" ] || { echo "give their wheels with --wheels DIR" >&2; return 1; }
  "$python" -m pip install --no-index --find-links "$wheels" --prefix "$packages" "${names[@]}"
}

# By CMake alone, for the machine may lack what pip builds with; and for this device alone, which is quicker.
build() {
  local architecture pybind11 version
  architecture=$("$python" -c 'import torch; print("%d%d-real" % torch.cuda.get_device_capability())') || return
  pybind11=$("$python" -m pybind11 --cmakedir) || return
  cmake -S "$root" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DUNIVFAST_CUDA=ON \
    "-DCMAKE_CUDA_ARCHITECTURES=$architecture" -DPYBIND11_FINDPYTHON=ON "-DPython_EXECUTABLE=$python" \
    "-Dpybind11_DIR=$pybind11" || return
  cmake --build "$work/build" && cmake --install "$work/build" --prefix "$site" || return
  # univfast asks the installation for its version.
  version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")
  cp -r "$root/univfast" "$site" && mkdir "$site/univfast-$version.dist-info" || return
  printf 'Metadata-Version: 2.1\nName: univfast\nVersion: %s\n' "$version" \
    > "$site/univfast-$version.dist-info/METADATA"
}

# Tests are skipped where no device can be used, which here is a failure.
device() {
  nvidia-smi
  "$python" -m univfast info && "$python" -c 'import sys; from univfast.machine import devices; sys.exit(devices.unavailable())'
}

run_pytest() {
  # Warnings are no errors here: the versions of the packages are those of the machine.
  "$python" -m pytest --rootdir "$root" -c "$root/pyproject.toml" -p no:cacheprovider -W default \
    --basetemp "$work/pytest-$$" "$@"
}

# compute-sanitizer sees only what is allocated by itself, which torch's memory pool hides.
sanitize() {
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 1 \
    "$python" "$root/benchmarks/gpu_small.py"
}

# timeout starts programs, not functions.
export -f missing install_missing build device run_pytest sanitize
export root python work site packages wheels
# shellcheck disable=SC2016
call() { step "$1" "$2" bash -c '"$@"' bash "${@:3}"; }

call packages 60 install_missing
installed=$(find "$packages" -type d \( -name site-packages -o -name dist-packages \) 2> /dev/null | paste -sd :)
[ -z "$installed" ] || PYTHONPATH=$PYTHONPATH:$installed
call build 180 build
call device 30 device
gather build packages build device

if grep -qxE 'build|device' "$failed"; then
  echo "nothing to test or measure"
else
  # Side by side: only what is measured needs the device, and the processor, for itself.
  export OMP_NUM_THREADS=4
  tests=()
  for file in "$root"/tests/native/test_gpu*.py "$root"/tests/test_live.py; do
    name=$(basename "$file" .py)
    tests+=("$name")
    call "$name" 150 run_pytest -q -rs -m gpu "$file" &
  done
  call memcheck 150 sanitize memcheck &
  call racecheck 150 sanitize racecheck &
  wait
  unset OMP_NUM_THREADS
  gather tests "${tests[@]}"
  gather sanitizer memcheck racecheck

  call benchmarks $((deadline - SECONDS - 20)) run_pytest "$root"/benchmarks/test_gpu*.py --benchmark-only \
    --benchmark-json "$out/results.json"
  gather benchmarks benchmarks
  call table 30 "$python" "$root/benchmarks/device_table.py" "$out/results.json"
  cp "$work/logs/table" "$out/table.md"
  cat "$out/table.md"
fi

if [ -s "$failed" ]; then
  echo "failed: $(paste -sd ' ' "$failed")"
  exit 1
fi
echo "all passed, in $SECONDS s"
