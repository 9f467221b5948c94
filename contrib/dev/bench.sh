#!/usr/bin/env bash
# Sets up .venv-bench: what the benchmarks compare with (trl, sentence-transformers, LlamaIndex, LangChain, and what
# they need). Run after setup.sh.
# Does nothing when nothing changed since the last time.
set -euo pipefail
cd "$(dirname "$0")/../.."

VENV=.venv-bench
LOG=build/setup-bench.log
PINS=contrib/dev/bench-constraints.txt

WHO=bench
. contrib/dev/run.sh

stamp() { { cat "$PINS" contrib/dev/bench.sh; .venv/bin/python --version; } | cksum | tr ' ' '-'; }

[ -x .venv/bin/python ] || die "the project's own environment is missing: run contrib/dev/setup.sh first"
MARK="$VENV/.bench-$(stamp)"
[ -e "$MARK" ] && exit 0

mkdir -p build; : >"$LOG"
echo "Setting up $VENV (about a minute; log: $LOG)"
rm -rf "$VENV"
run "virtual environment" .venv/bin/python -m venv --without-pip "$VENV"
# One line in a .pth puts the packages of .venv behind those of .venv-bench: peers run on the very same torch,
# transformers and peft, at no cost of disk. The .pth files of .venv are not followed, so peers see nothing of ours.
"$VENV/bin/python" - <<'PYTHON'
import os, sysconfig
site = sysconfig.get_path("purelib")
with open(os.path.join(site, "behind.pth"), "w") as file:
    print(os.path.relpath(site.replace(".venv-bench", ".venv"), site), file=file)
PYTHON
# Every package that is to come is pinned, so nothing of .venv is looked at, replaced or removed.
run "packages (trl, sentence-transformers and so on)" .venv/bin/python -m pip --disable-pip-version-check \
    --python "$VENV/bin/python" install --no-deps --only-binary :all: --requirement "$PINS"
run "check that they fit together" "$VENV/bin/python" -c 'from datasets import Dataset; from trl import SFTConfig, SFTTrainer
from langchain_core.vectorstores import InMemoryVectorStore; from langchain_text_splitters import RecursiveCharacterTextSplitter
from llama_index.core import VectorStoreIndex; from llama_index.embeddings.huggingface import HuggingFaceEmbedding'
touch "$MARK"
echo "Set up."
