#!/usr/bin/env bash
# Builds llama.cpp's own converter and quantizer in build/llama.cpp: what the quantising benchmark compares with.
# Both are of the very version that llama-cpp-python brings, out of its sdist. Run after setup.sh and bench.sh.
# Does nothing when nothing changed since the last time.
set -euo pipefail
cd "$(dirname "$0")/../.."

HOME_OF_IT=build/llama.cpp
LOG=build/setup-bench-llama.log
VERSION=$(sed -n 's/^llama_cpp_python==//p' contrib/dev/constraints.txt)
# The flags of setup.sh, so that both sides run the same kernels.
case "$(uname -m)" in x86_64 | amd64) NO_AMX="-mno-amx-tile -mno-amx-int8" ;; *) NO_AMX="" ;; esac

die() { printf '\nbench: %s\n' "$1" >&2; exit 1; }

# Runs a command with its output in the log, and says every few seconds that it is still at it.
run() {
    local label=$1 started=$SECONDS; shift
    printf '  %s ...\n' "$label"
    "$@" >>"$LOG" 2>&1 &
    local job=$!
    while kill -0 "$job" 2>/dev/null; do
        sleep 1
        if (( (SECONDS - started) % 15 == 14 )); then printf '    %ds: %s\n' $((SECONDS - started)) "$(tail -n 1 "$LOG" | cut -c1-90)"; fi
    done
    wait "$job" || { tail -n 30 "$LOG" >&2; die "$label failed; the whole log is in $LOG"; }
    printf '    done in %ds\n' $((SECONDS - started))
}

[ -x .venv/bin/python ] || die "the project's own environment is missing: run contrib/dev/setup.sh first"
MARK="$HOME_OF_IT/.built-$({ cat contrib/dev/bench-llama.sh; echo "$VERSION"; } | cksum | tr ' ' '-')"
[ -e "$MARK" ] && exit 0
command -v cmake >/dev/null 2>&1 || die "cmake is missing; see contrib/dev/setup.sh"

mkdir -p build; : >"$LOG"
echo "Building llama.cpp's programs in $HOME_OF_IT (3 to 5 minutes on 2 cores; log: $LOG)"
rm -rf "$HOME_OF_IT"; mkdir -p "$HOME_OF_IT/sdist"
run "source of llama-cpp-python $VERSION" .venv/bin/python -m pip --disable-pip-version-check download --no-deps \
    --no-binary :all: --dest "$HOME_OF_IT/sdist" "llama-cpp-python==$VERSION"
run "unpacking" tar -xzf "$HOME_OF_IT"/sdist/*.tar.gz -C "$HOME_OF_IT/sdist"
mv "$HOME_OF_IT"/sdist/*/vendor/llama.cpp "$HOME_OF_IT/source"
run "configuring" env CFLAGS="${CFLAGS:-} $NO_AMX" CXXFLAGS="${CXXFLAGS:-} $NO_AMX" \
    cmake -S "$HOME_OF_IT/source" -B "$HOME_OF_IT/objects" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF
run "compiling llama-quantize" cmake --build "$HOME_OF_IT/objects" --target llama-quantize \
    --parallel "$(getconf _NPROCESSORS_ONLN)"
mkdir "$HOME_OF_IT/bin"
cp "$HOME_OF_IT/objects/bin/llama-quantize" "$HOME_OF_IT/bin/"
rm -rf "$HOME_OF_IT/objects" "$HOME_OF_IT/sdist"
run "check that they start" .venv-bench/bin/python "$HOME_OF_IT/source/convert_hf_to_gguf.py" --help
touch "$MARK"
echo "Built."
