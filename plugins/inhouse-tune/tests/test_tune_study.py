"""The study: what comes next, what is hopeless, and what a killed search finds again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from inhouse.errors import ResourceError
from inhouse_tune.space import Parameter
from inhouse_tune.storage import shown, storage_url
from inhouse_tune.study import FIRST_JUDGED, WEIGHED_FROM, WHOLE_TRIALS, Study, Trial, open_study
from inhouse_tune.subject import Value

SPACE = (Parameter("rank", (4, 8, 16)), Parameter("rate", low=1e-4, high=1.0, log=True))

MEMORY = "sqlite://"


def loss(params: Mapping[str, Value]) -> float:
    return math.log10(float(params["rate"]) / 1e-2) ** 2 + 1 / float(params["rank"])


def started(study: Study) -> Trial:
    trial = study.next(None)
    assert trial is not None
    return trial


def whole(study: Study, value: float | None = None) -> Trial:
    trial = started(study)
    for at in (10, 20, 30):
        trial.measured(at, value if value is not None else loss(trial.params))
    trial.done(value if value is not None else loss(trial.params), 30, sorted(trial.curve.items()))
    return trial


def tried(url: str, *, seed: int, at_once: int, count: int) -> list[Mapping[str, Value]]:
    """The settings of a search that is opened anew after each ``at_once`` trials."""
    for _ in range(0, count, at_once):
        with open_study(url, "s", SPACE, seed=seed, owner="me") as study:
            for _ in range(at_once):
                whole(study)
    with open_study(url, "s", SPACE, seed=seed, owner="me") as study:
        return [each.params for each in study.rows()]


def test_what_is_tried_does_not_depend_on_interruptions(tmp_path: Path) -> None:
    unbroken = tried(f"sqlite:///{tmp_path}/a.db", seed=7, at_once=8, count=8)
    assert tried(f"sqlite:///{tmp_path}/b.db", seed=7, at_once=4, count=8) == unbroken
    assert tried(f"sqlite:///{tmp_path}/c.db", seed=8, at_once=2, count=2) != unbroken[:2]
    assert len({tuple(each.values()) for each in unbroken}) == 8
    for each in unbroken:
        assert each["rank"] in (4, 8, 16)
        assert 1e-4 <= float(each["rate"]) <= 1.0
        assert each["rate"] == float(f"{each['rate']:.4g}")


def test_it_comes_nearer_to_the_lowest_and_says_what_decides() -> None:
    with open_study(MEMORY, "s", SPACE, seed=1, owner="me") as study:
        for _ in range(WEIGHED_FROM - 1):
            whole(study)
        assert study.importance() == {}
        for _ in range(9):
            whole(study)
        losses = [loss(each.params) for each in study.rows()]
        assert sorted(losses[-9:])[4] < sorted(losses[:5])[2]  # medians of the last and of the random ones
        shares = study.importance()
    assert shares["rate"] > shares["rank"]
    assert sum(shares.values()) == pytest.approx(1)


def test_it_keeps_away_from_what_failed() -> None:
    with open_study(MEMORY, "s", SPACE, seed=2, owner="me") as study:
        for _ in range(20):
            trial = started(study)
            if float(trial.params["rate"]) > 1e-2:
                trial.failed("not a number")
            else:
                trial.done(1.0, 1, [(1, 1.0)])
        failed = [each.state == "failed" for each in study.rows()]
    assert any(failed[:5])
    assert sum(failed[10:]) <= 5, failed  # ten of ten, were failures left out of what it learns from


def test_only_a_loss_above_the_median_of_whole_trials_is_hopeless() -> None:
    with open_study(MEMORY, "s", SPACE, seed=1, owner="me") as study:
        for value in (1.0, 2.0, 3.0):
            whole(study, value)
        trial = started(study)
        for at in range(1, 5):
            trial.measured(at, 9.0)
            assert not trial.hopeless()  # too few to compare with
        trial.done(9.0, 4, sorted(trial.curve.items()))
        assert study.ended() == WHOLE_TRIALS
        good = started(study)
        good.measured(7, 2.4)
        good.measured(9, 2.4)
        assert not good.hopeless()  # the median of 1, 2, 3 and 9 is 2.5
        good.cut_short()
        bad = started(study)
        for number, at in enumerate((100, 200), 1):
            bad.measured(at, 2.6)
            assert bad.hopeless() == (number >= FIRST_JUDGED)  # steps do not matter, the number does
        bad.cut_short()
        row = study.rows()[-1]
    assert (row.state, row.heldout_loss, row.at) == ("cut short", 2.6, 100)


def test_a_killed_trial_is_found_again_with_its_losses(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    with open_study(url, "s", SPACE, seed=1, owner="me") as study:
        killed = started(study)
        killed.note(key="abc", ours=True)
        killed.measured(10, 2.0)
        assert study.ended() == 0
    with open_study(url, "s", SPACE, seed=1, owner="another machine") as study:
        assert started(study).number == killed.number + 1
    with open_study(url, "s", SPACE, seed=1, owner="me") as study:
        again = started(study)
        assert (again.number, again.params, again.curve) == (killed.number, killed.params, {10: 2.0})
        assert (again.fact("key"), again.fact("ours")) == ("abc", True)
        again.measured(10, 2.0)  # trained once more from the checkpoint before
        again.measured(20, 1.0)
        again.done(1.0, 20, sorted(again.curve.items()))
        assert study.rows()[0].curve == ((10, 2.0), (20, 1.0))


def test_a_trial_that_was_only_queued_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/s.db"

    def killed(*_: object) -> Trial:
        raise KeyboardInterrupt

    with open_study(url, "s", SPACE, seed=1, owner="me") as study, pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr(Study, "_open", killed)
        study.next({"rank": 8, "rate": 0.5})
    monkeypatch.undo()
    with open_study(url, "s", SPACE, seed=1, owner="me") as study:
        assert started(study).params == {"rank": 8, "rate": 0.5}
        assert len(study.rows()) == 1


def test_a_finite_space_is_tried_whole_and_nothing_twice() -> None:
    space = (Parameter("rank", (4, 8)), Parameter("layers", low=1, high=3, whole=True))
    with open_study(MEMORY, "s", space, seed=1, owner="me") as study:
        for _ in range(6):
            started(study).done(1.0, 1, [(1, 1.0)])
        assert study.next(None) is None
        found = {(each.params["rank"], each.params["layers"]) for each in study.rows()}
    assert found == {(rank, layers) for rank in (4, 8) for layers in (1, 2, 3)}


# --- where it lies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s.db", "what? 100%.db"])
def test_a_path_is_a_sqlite_file(tmp_path: Path, name: str) -> None:
    url = storage_url(str(tmp_path / name), network=False)
    assert shown(url) == str(tmp_path / name)
    with open_study(url, "s", SPACE, seed=1, owner="me") as study:
        whole(study)
    assert (tmp_path / name).is_file()


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("postgresql://me:secret@localhost/trials", True),
        ("postgresql://me:secret@127.0.0.1:5432/trials", True),
        ("postgresql:///trials?host=/var/run/postgresql", True),
        ("postgresql:///trials?host=far.example", False),
        ("postgresql://me:secret@far.example/trials", False),
        ("postgresql://me:secret@10.0.0.7/trials", False),
    ],
)
def test_another_machine_needs_the_recipes_word(url: str, here: bool) -> None:
    assert storage_url(url, network=True) == url
    assert "secret" not in shown(url)
    if here:
        assert storage_url(url, network=False) == url
    else:
        with pytest.raises(Exception, match="the recipe allows none") as failure:
            storage_url(url, network=False)
        assert "secret" not in str(failure.value)


def test_a_database_that_fails_on_the_way_is_a_typed_error(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with (
        pytest.raises(ResourceError, match="the study cannot be kept here") as failure,
        open_study(f"sqlite:///{path}", "s", SPACE, seed=1, owner="me") as study,
    ):
        trial = started(study)
        path.write_bytes(b"no database at all " * 4000)
        trial.measured(1, 1.0)
    assert str(path) in str(failure.value)
