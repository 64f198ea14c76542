from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from pipeline.config import resolve
from pipeline.episodes.metadata import DrivingPolicy, Origin, read_origin, write_metadata


def test_origin_is_that_of_the_settings() -> None:
    settings = resolve("tiny", values=[("seed", 5), ("collect.policy", "smooth"), ("view.action_repeat", 8)])
    origin = Origin.of(settings)
    assert (origin.seed, origin.policy, origin.patience, origin.limit) == (5, "smooth", 10, 60)
    assert (origin.view.action_repeat, origin.view.size) == (8, 64)
    assert origin.view.continuous and origin.view.action_high == (1.0, 1.0, 1.0)
    assert origin.gymnasium == importlib.metadata.version("gymnasium")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("seed", 1, "seed 1, not 0"),
        ("collect.policy", "smooth", "policy 'smooth', not 'mixture'"),
        ("collect.limit", 7, "limit 7, not 250"),
        ("view.size", 96, "view.size 96, not 64"),
        ("view.continuous", False, "view.continuous False, not True"),
        ("collect.decisions", 7, None),
        ("world.updates", 7, None),
    ],
)
def test_difference_of_origins(name: str, value: object, said: str | None) -> None:
    assert Origin.of(resolve(values=[(name, value)])).difference(Origin.of(resolve())) == said


DRIVER = DrivingPolicy(run="first", world="a" * 64, policy="b" * 64, actions="stochastic")


def test_driven_data_name_their_driver_and_are_never_taken_for_random(tmp_path: Path) -> None:
    origin, random = Origin.of(resolve(), driver=DRIVER), Origin.of(resolve())
    write_metadata(tmp_path / "metadata.json", "x", origin, 1, 2, 3.0)
    assert read_origin(tmp_path / "metadata.json") == origin
    tree = json.loads((tmp_path / "metadata.json").read_text())
    assert tree["algorithm_name"] == "policy of the run first (bbbbbbbb), stochastic"
    assert tree["dreamer"]["driver"] == DRIVER.model_dump() and not {"patience", "limit"} & tree["dreamer"].keys()
    assert (origin.kind, random.kind) == ("driven", "random")
    assert origin.difference(random) == "policy 'driven', not 'mixture'"
    assert random.difference(origin) == "policy 'mixture', not 'driven'"
    other = Origin.of(resolve(), driver=DRIVER.model_copy(update={"policy": "c" * 64}))
    assert str(origin.difference(other)).startswith("driver.policy 'bbb")


@pytest.mark.parametrize(
    "changed",
    [{"driver": None}, {"policy": "mixture"}, {"driver": DRIVER.model_dump() | {"policy": "b"}}, {"driver": {}}],
)
def test_a_driver_that_is_not_named_is_refused(changed: dict[str, object]) -> None:
    tree = Origin.of(resolve(), driver=DRIVER).model_dump()
    assert Origin.model_validate(tree).driver == DRIVER
    with pytest.raises(ValueError, match="driver"):
        Origin.model_validate(tree | changed)


def test_random_data_tell_when_they_were_cut_short() -> None:
    with pytest.raises(ValueError, match="patience or limit is missing"):
        Origin.model_validate(Origin.of(resolve()).model_dump() | {"limit": None})


def test_a_view_asks_for_itself() -> None:
    for values in ([], [("view.continuous", False), ("view.size", 96), ("view.action_repeat", 2)]):
        settings = resolve(values=values)
        origin = Origin.of(settings)
        view = origin.view
        assert origin.view_settings == settings.view
        assert len(view.action_low) == len(view.action_high) == (5 if values else 3)


def test_data_from_before_there_were_discrete_actions_are_continuous() -> None:
    tree = Origin.of(resolve()).model_dump()
    del tree["view"]["continuous"]
    assert Origin.model_validate(tree) == Origin.of(resolve())
