"""What a user of peft writes to merge an adapter: ``python peft_merge.py MODEL ADAPTER TARGET``.

The peers' environment has nothing of ours, so this needs transformers and peft only.
"""

from __future__ import annotations

import sys

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Loads the model in its own format, merges, and saves model and tokenizer."""
    model, adapter, target = sys.argv[1:]
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model, dtype="auto"), adapter)
    merged.merge_and_unload().save_pretrained(target)
    AutoTokenizer.from_pretrained(model).save_pretrained(target)


if __name__ == "__main__":
    main()
