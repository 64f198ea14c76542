from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.artifacts import Run
from pipeline.config import resolve
from pipeline.envs.actions import Actions
from pipeline.envs.adapter import Adapter
from pipeline.envs.car_racing.actions import ACTION_NAMES
from pipeline.episodes.store import EpisodeStore
from pipeline.errors import StageError, UsageError
from pipeline.models.checkpoints import load_world
from pipeline.models.dynamics import Latent
from pipeline.stages import show_futures as stage
from pipeline.stages.show_futures import IMAGINED, SEEN, choices, choose_present, imagine_futures, show_futures
from pipeline.viewing.futures import Future

CPU = torch.device("cpu")


class Rewards:
    """Stands for a store, of which the choice reads nothing but rewards."""

    def __init__(self, *rewards: list[float]) -> None:
        self.rewards, self.path = [np.array(part, np.float32) for part in rewards], Path("data/some")

    def read_decisions(self, index: int) -> Any:
        return type("Decisions", (), {"rewards": self.rewards[index]})


def show(run: Run, data: Path, tmp_path: Path, **options: Any) -> tuple[Path, list[Future], np.ndarray, str]:
    """Show futures of a copied run, and what was drawn."""
    copy = Run(tmp_path / "copy")
    if not copy.root.exists():
        copy.root.mkdir()
        shutil.copytree(run.world.path, copy.root / "world")
    drawn: list[Any] = []
    draw = stage.draw_futures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "draw_futures", lambda *args: (drawn.extend(args), draw(*args)))
        figure = show_futures(resolve("tiny"), run=copy, data=data, device=CPU, **options)
    present, futures, _, _, note = drawn
    return figure, futures, present, note


def test_the_present_is_where_most_is_earned_afterwards() -> None:
    quiet, late = [0.0] * 80, [0.0] * 60 + [5.0] + [0.0] * 3
    early = [9.0] * 3 + [0.0] * 80
    store: Any = Rewards(quiet, late, early, [99.0] * SEEN)
    episode, row = choose_present(store, np.arange(4))
    assert episode == 1 and row <= 60 < row + IMAGINED
    assert choose_present(store, np.array([2])) == (2, SEEN), "what was earned before does not count"
    with pytest.raises(StageError, match="dreamer collect --data some"):
        choose_present(store, np.array([3]))


def test_five_ways_to_steer_or_all_discrete_actions(tiny_run: Run, discrete_run: Run) -> None:
    steering = choices(load_world(tiny_run.world.weights))
    assert [action[0].item() for action in steering.values()] == sorted(
        action[0].item() for action in steering.values()
    )
    assert len({tuple(action[1:].tolist()) for action in steering.values()}) == 1 and len(steering) == 5
    discrete = choices(load_world(discrete_run.world.weights))
    assert [*discrete] == [*ACTION_NAMES] and torch.equal(torch.stack([*discrete.values()]), torch.eye(5))


def test_only_the_action_makes_the_difference(tiny_run: Run) -> None:
    model = load_world(tiny_run.world.weights).model
    start = model.dynamics.initial(1)
    left, again = torch.tensor([-1.0, 0.5, 0.0]), torch.tensor([-1.0, 0.5, 0.0])
    one, same, other = imagine_futures(model, start, {"a": left, "b": again, "c": -left}, 6, seed=1)
    np.testing.assert_array_equal(one.pictures, same.pictures)
    assert (one.pictures != other.pictures).any()
    assert one.pictures.shape == (6, 3, 64, 64) and one.reward.shape == (6,)


def test_the_figure_shows_the_present_that_was_asked_for(tiny_run: Run, tiny_data: Path, tmp_path: Path) -> None:
    figure, futures, present, note = show(tiny_run, tiny_data, tmp_path, episode=1, decision=7)
    assert figure == tmp_path / "copy" / "encodings" / "futures.png" and figure.exists()
    assert len(futures) == 5 and len(futures[0].reward) == IMAGINED and "Episode 1, decision 7" in note
    with EpisodeStore.open(tiny_data) as store:
        np.testing.assert_array_equal(present, store.read(1).observations[7])


def test_the_futures_begin_in_the_state_after_the_present(
    tiny_run: Run, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Latent] = []
    imagine = stage.imagine_futures
    monkeypatch.setattr(
        stage, "imagine_futures", lambda m, start, *rest: (begun.append(start), imagine(m, start, *rest))[1]
    )
    before = show(tiny_run, tiny_data, tmp_path, episode=1, decision=7)[1]
    show(tiny_run, tiny_data, tmp_path, episode=1, decision=8)
    show(tiny_run, tiny_data, tmp_path, episode=1, decision=7)
    assert begun[0].deter.shape[0] == 1
    torch.testing.assert_close(begun[0].feature, begun[2].feature)
    assert (begun[0].deter != begun[1].deter).any() and len(before) == 5


def test_there_must_be_such_a_present(tiny_run: Run, tiny_data: Path, discrete_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no episode 4"):
        show(tiny_run, tiny_data, tmp_path, episode=4)
    with pytest.raises(UsageError, match="decisions 0 to 12"):
        show(tiny_run, tiny_data, tmp_path, episode=1, decision=13)
    with pytest.raises(UsageError, match="--episode"):
        show(tiny_run, tiny_data, tmp_path, decision=3)
    with pytest.raises(StageError, match=f"within {SEEN} decisions"):
        show(tiny_run, tiny_data, tmp_path)  # whose drives are too short
    with pytest.raises(StageError, match="another view"):
        show(tiny_run, discrete_data, tmp_path, episode=1, decision=3)


def test_other_environments_have_actions_that_lead_apart(other_run: Run, other_data: Path, tmp_path: Path) -> None:
    _, futures, _, _ = show(other_run, other_data, tmp_path, episode=1, decision=7)
    continuous = load_world(other_run.world.weights).interface.view.continuous
    assert [future.name for future in futures] == (
        ["-2", "-1", "0", "1", "2"] if continuous else [f"action {number}" for number in range(4)]
    )


def test_of_several_numbers_and_of_many_actions_some_are_compared() -> None:
    adapter = Adapter()
    chosen = adapter.futures(Actions((0.0, -1.0, 0.0), (2.0, 1.0, 4.0)))
    assert [np.asarray(action).tolist() for action in chosen.values()] == [
        [1, 0, 2],
        [0, 0, 2],
        [2, 0, 2],
        [1, -1, 2],
        [1, 1, 2],
    ]
    names = tuple("abcdefghijk")
    assert adapter.futures(Actions.one_of(11, names)) == {"a": 0, "c": 2, "e": 4, "g": 6, "i": 8, "k": 10}
