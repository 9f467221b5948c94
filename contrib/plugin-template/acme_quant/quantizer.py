"""Imported when a recipe uses it."""

import shutil

from safetensors.torch import load_file, save_file


class AcmeQuantizer:
    def __init__(self, options):
        self.options = options

    def probe(self):
        return None  # can it run here? if not: why, and what to install

    def quantize(self, step, model):
        """Reads ``model.path``, writes ``step.output``; the kernel commits."""
        weights = load_file(model.path / "model.safetensors")
        for name in step.track(sorted(weights), unit="tensor"):
            if weights[name].ndim == 2:
                weights[name] = rounded(weights[name], self.options.bits)
        save_file(weights, step.output / "model.safetensors", metadata={"format": "pt"})
        for path in model.path.iterdir():
            if path.is_file() and path.suffix != ".safetensors":
                shutil.copy(path, step.output / path.name)
        step.note(type=f"acme{self.options.bits}")


def rounded(matrix, bits):
    """(rows, columns), each row rounded to multiples of its largest magnitude / (2^(bits-1) - 1)."""
    wide = matrix.float()
    levels = 2 ** (bits - 1) - 1
    scale = wide.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / levels
    return (wide / scale).round().mul(scale).to(matrix.dtype)
