"""The loss curve of a training as a picture."""

from __future__ import annotations

from pathlib import Path

from .loop import Progress


def save_curve(progress: Progress, path: Path) -> None:
    """Writes a PNG: the loss of each step, its running mean, and the held-out losses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = range(1, progress.step + 1)
    axes.plot(steps, progress.losses, color="0.75", linewidth=0.8, label="each step")
    axes.plot(steps, _running_mean(progress.losses), color="C0", label="running mean")
    if progress.heldout:
        axes.plot(*zip(*progress.heldout, strict=True), "o-", color="C1", markersize=4, label="held out")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats a token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})  # no version in the bytes


def _running_mean(losses: list[float], keep: float = 0.95) -> list[float]:
    """Exponential mean without the bias of its beginning."""
    found, mean, weight = [], 0.0, 0.0
    for loss in losses:
        mean, weight = keep * mean + (1 - keep) * loss, keep * weight + (1 - keep)
        found.append(mean / weight)
    return found
