"""A corpus larger than the memory that may be taken: it is written to token files and read from them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

CORPUS, ROOM = 36 << 20, 24 << 20
"""Bytes of text; bytes that making and reading the token files may take on top of the imports."""

CHILD = """
import json, resource, sys
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from inhouse.values import Artifact
from inhouse_testing.recording import RecordingStep
from inhouse_torch.corpus import prepare, texts

folder, room = Path(sys.argv[1]), int(sys.argv[2])
words = {word: number for number, word in enumerate(json.loads((folder / "words.json").read_text()))}
made = Tokenizer(models.WordLevel(words, unk_token="."))
made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=made, eos_token=".").save_pretrained(folder / "tokenizer")


def tokens_of(corpus):
    given = Artifact("tokenizer", folder / "tokenizer", "")
    step = RecordingStep.at(corpus / "step")
    return prepare(step, Artifact("text/corpus", corpus, ""), given, vocabulary=300, context=512, heldout=0.1)


tokens_of(folder / "small")  # what is imported late counts as there
now = next(line for line in open("/proc/self/status") if line.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, (int(now.split()[1]) * 1024 + room,) * 2)
tokens = tokens_of(folder / "large")
count, total = 0, 0
for shards in (tokens.train, tokens.heldout):
    for start in range(0, shards.count, 512):
        window = shards.read(start, min(512, shards.count - start))
        count, total = count + len(window), total + int(window.sum())
try:
    held = list(texts(folder / "large" / "corpus.jsonl"))
except MemoryError:
    print(json.dumps({"tokens": count, "sum": total}))
else:
    print("the limit is none: the whole corpus fits")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's count of private memory")
def test_a_corpus_larger_than_memory_is_streamed(tmp_path: Path) -> None:
    """In a process that may take less memory than the text alone, and proves that it may not hold it."""
    draw = random.Random(1)
    words = [".", *("".join(draw.choices("abcdefghij", k=9)) + str(n) for n in range(200))]
    (tmp_path / "words.json").write_text(json.dumps(words))
    documents = [[draw.randrange(1, len(words)) for _ in range(3000)] for _ in range(20)]
    rows = [json.dumps({"text": " ".join(words[each] for each in document)}) + "\n" for document in documents]
    wanted = {"tokens": 0, "sum": 0}
    for name, most in (("small", 1), ("large", CORPUS)):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "corpus.jsonl").open("w") as stream:
            while stream.tell() < most:
                number = draw.randrange(len(rows))
                stream.write(rows[number])
                if name == "large":
                    wanted["tokens"] += 3001  # the document and its end, which is token 0
                    wanted["sum"] += sum(documents[number])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), str(ROOM)], env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == wanted
