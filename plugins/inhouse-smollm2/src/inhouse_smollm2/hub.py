"""The source `hub`: a model by its id. The only one that uses the network, and only when told so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from inhouse.errors import InhouseError, StepError
from inhouse.protocols import Step
from inhouse_smollm2 import HubOptions
from inhouse_smollm2.folder import TAKEN, check, take, tell


class HubSource:
    """Fetches safetensors, JSON and text files of one commit into ``model/hf``."""

    def __init__(self, options: HubOptions) -> None:
        self.options = options

    def produce(self, step: Step) -> None:
        """Fetches file by file, going on where an earlier run stopped; then checks as `local` does.

        Raises ``StepError`` with what the hub said, ``DataError`` for a model that cannot be used.
        """
        fetched = step.checkpoints / "fetched"
        try:
            commit = self._fetch(step, fetched)
        except InhouseError:
            raise
        except Exception as error:  # the hub's own errors, the HTTP library's, the system's
            raise StepError(
                f"cannot fetch {self.options.model} ({self.options.revision}): {type(error).__name__}: {error}",
                hint="check the id, the revision and the network (--set run.network=true), then run again",
            ) from error
        model = check(fetched)
        take(step, model, step.output)
        tell(step, model, model=self.options.model, revision=self.options.revision, commit=commit)

    def _fetch(self, step: Step, folder: Path) -> str:
        """Fetches into ``folder``; returns the commit, to which all files belong."""
        api: Any = HfApi(endpoint=self.options.endpoint)
        info = api.model_info(self.options.model, revision=self.options.revision)
        names = [each.rfilename for each in info.siblings if _wanted(each.rfilename)]
        for name in step.track(names, unit="file"):
            api.hf_hub_download(self.options.model, name, revision=info.sha, local_dir=folder)
        return str(info.sha)


def _wanted(name: str) -> bool:
    return "/" not in name and name.endswith(TAKEN)
