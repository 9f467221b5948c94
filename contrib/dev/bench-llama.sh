#!/usr/bin/env bash
# Puts llama.cpp's own converter and quantizer in build/llama.cpp: what the quantising benchmark compares with.
# Both come out of llama-cpp-python's sdist. llama-quantize is linked against the library that llama-cpp-python brought,
# so both sides quantise with the very same code. Run after setup.sh and bench.sh.
# Does nothing when nothing changed since the last time.
set -euo pipefail
cd "$(dirname "$0")/../.."

FOLDER=build/llama.cpp
LOG=build/setup-bench-llama.log
VERSION=$(sed -n 's/^llama_cpp_python==//p' contrib/dev/constraints.txt)

WHO=bench
. contrib/dev/run.sh

[ -x .venv/bin/python ] || die "the project's own environment is missing: run contrib/dev/setup.sh first"
[ -x .venv-bench/bin/python ] || die "the peers' environment is missing: run contrib/dev/bench.sh first"
LIBRARIES=$(.venv/bin/python -c 'import importlib.util, os
print(os.path.join(os.path.dirname(importlib.util.find_spec("llama_cpp").origin), "lib"))')
MARK="$FOLDER/.built-$({ cat contrib/dev/bench-llama.sh; echo "$VERSION"; ls -l "$LIBRARIES"; } | cksum | tr ' ' '-')"
[ -e "$MARK" ] && exit 0
command -v g++ >/dev/null 2>&1 || die "g++ is missing; see contrib/dev/setup.sh"
# Of the library "common" a few functions are used; what the others need is not there, and not linked.
case "$(uname -s)" in Darwin) FEW=-Wl,-dead_strip ;; *) FEW=-Wl,--gc-sections ;; esac

mkdir -p build; : >"$LOG"
echo "Building llama.cpp's own programs in $FOLDER (a minute; log: $LOG)"
rm -rf "$FOLDER"; mkdir -p "$FOLDER/sdist" "$FOLDER/bin"
run "source of llama-cpp-python $VERSION" .venv/bin/python -m pip --disable-pip-version-check download --no-deps \
    --no-binary llama-cpp-python --dest "$FOLDER/sdist" "llama-cpp-python==$VERSION"
run "unpacking" tar -xzf "$FOLDER/sdist/llama_cpp_python-$VERSION.tar.gz" -C "$FOLDER/sdist"
SOURCE=$FOLDER/source
mv "$FOLDER"/sdist/llama_cpp_python-*/vendor/llama.cpp "$SOURCE"
# What cmake would fill in: the commit, which the sdist does not know.
sed 's/@[A-Z_]*_NUMBER@/0/; s/@[A-Z_]*@/sdist/' "$SOURCE/common/build-info.cpp.in" >"$FOLDER/sdist/build-info.cpp"
run "compiling llama-quantize" g++ -std=c++17 -O1 -ffunction-sections -fdata-sections \
    -I"$SOURCE/common" -I"$SOURCE/include" -I"$SOURCE/ggml/include" -I"$SOURCE/vendor" -I"$SOURCE/tools/quantize" \
    "$SOURCE"/tools/quantize/{main,quantize}.cpp "$SOURCE"/common/{common,imatrix-loader,json,log}.cpp \
    "$FOLDER/sdist/build-info.cpp" -o "$FOLDER/bin/llama-quantize" \
    -L"$LIBRARIES" -lllama -lggml -lggml-base -lggml-cpu -Wl,-rpath,"$LIBRARIES" "$FEW" -pthread
rm -rf "$FOLDER/sdist"
run "check that the converter starts" .venv-bench/bin/python "$SOURCE/convert_hf_to_gguf.py" --help
# it ends with 1 after its help
run "check that the quantizer starts" bash -c '"$0" --help | grep usage' "$FOLDER/bin/llama-quantize"
touch "$MARK"
echo "Built."
