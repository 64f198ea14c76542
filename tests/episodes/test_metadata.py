from __future__ import annotations

import importlib.metadata

import pytest

from pipeline.config import resolve
from pipeline.episodes.metadata import Origin


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
