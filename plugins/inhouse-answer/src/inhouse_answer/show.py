"""How an answer looks on a terminal, and where the last bundle lies."""

from __future__ import annotations

import json
from pathlib import Path

import click

from inhouse import runs
from inhouse.errors import RecipeError
from inhouse.values import Answer


def find_bundle(home: Path, given: str | None) -> Path:
    """The folder given, else the bundle of the last run. Raises ``RecipeError`` when there is none."""
    if given:
        return Path(given)
    record = runs.load_record(runs.last_run(home))
    if not record.bundle:
        raise RecipeError("the last run made no bundle", where=record.id, hint="inhouse ask --bundle FOLDER …")
    return Path(record.bundle)


def show_answer(answer: Answer) -> None:
    """The steps on standard error, the answer on standard output."""
    for call in answer.calls:
        click.secho(f"  thought      {call.thought}", dim=True, err=True)
        click.secho(f"  action       {call.tool} {json.dumps(dict(call.arguments), ensure_ascii=False)}", err=True)
        click.secho(f"  observation  {call.observation}", dim=True, err=True)
    label = {"answered": "", "handed_over": "handed over to a person: ", "gave_up": "gave up: "}[answer.outcome]
    click.echo(f"{label}{answer.text}")
    for each in answer.citations:
        place = f"page {each.page}, characters" if each.page else "characters"
        click.secho(f"  source       [{each.document}] {each.title}, {place} {each.start} to {each.end}", err=True)
    click.secho(f"  {answer.completion_tokens} tokens in {answer.seconds:.1f} s", dim=True, err=True)
