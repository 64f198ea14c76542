from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline.artifacts import Run
from pipeline.config import ViewSettings
from pipeline.envs.car_racing.actions import BRAKE, GAS, LEFT, NOTHING, RIGHT
from pipeline.envs.car_racing.view import CarRacingView
from pipeline.envs.view import AgentView
from pipeline.models.dynamics import Latent
from pipeline.playing.game import DREAM, HUMAN, POLICY, REAL, Command, Game, Input, Keys, Moment
from pipeline.playing.mind import Judgement, Mind
from pipeline.playing.play import open_mind

CPU = torch.device("cpu")
GO = Keys(gas=True)


@pytest.fixture(autouse=True)
def _dreams_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a continue head says that has learned nothing."""
    monkeypatch.setattr("pipeline.playing.game._LIKELY", 0.0)


@pytest.fixture(scope="module")
def view() -> Iterator[AgentView]:
    with CarRacingView() as view:
        yield view


@pytest.fixture
def mind(tiny_run: Run) -> Mind:
    return open_mind(tiny_run, CPU, 0)


def starts(mind: Mind, count: int = 3) -> Latent:
    latent = mind.world.model.dynamics.initial(count)
    return Latent(latent.deter, latent.stoch + torch.arange(count)[:, None])


def make(mind: Mind, view: AgentView, world: str = DREAM, *, dreams: bool = True) -> Game:
    return Game(mind, view, iter(range(2**24, 2**24 + 9)), starts(mind) if dreams else None, world)


@pytest.fixture
def dream(mind: Mind, view: AgentView) -> Game:
    return make(mind, view)


@pytest.fixture
def real(mind: Mind, view: AgentView) -> Game:
    return make(mind, view, REAL)


def go(game: Game, count: int, keys: Keys = GO) -> Moment:
    for _ in range(count):
        game.tick(keys)
    return game.now


def press(game: Game, *commands: Command) -> None:
    for command in commands:
        game.press(command)


def test_a_dream_follows_the_keys(dream: Game) -> None:
    begun = dream.now
    assert (dream.world, dream.driver, begun.before, begun.picture.shape) == (DREAM, HUMAN, None, (3, 64, 64))
    last = go(dream, 3)
    assert (last.decisions, len(last.drive()), last.drive()[0]) == (3, 4, begun)
    assert last.action is not None and last.action.tolist() == pytest.approx([0, 0.4, 0])  # type: ignore[union-attr]
    assert last.score == pytest.approx(sum(moment.said.reward for moment in last.drive()[1:]))
    np.testing.assert_array_equal(last.picture, dream.mind.picture(last.latent))


def test_the_wheel_takes_time_to_turn_and_none_to_let_go(dream: Game) -> None:
    turned = [go(dream, 1, Keys(left=True)).action[0] for _ in range(8)]  # type: ignore[index]
    assert turned == pytest.approx([-0.12, -0.24, -0.36, -0.48, -0.6, -0.6, -0.6, -0.6])
    assert go(dream, 1).action[0] == 0  # type: ignore[index]
    assert go(dream, 1, Keys(left=True, right=True, brake=True)).action.tolist() == [0, 0, 0.5]  # type: ignore[union-attr]


def test_a_key_is_a_discrete_action(discrete_run: Run) -> None:
    mind = open_mind(discrete_run, CPU, 0)
    with CarRacingView(ViewSettings(continuous=False)) as view:
        game = make(mind, view)
        keys = (Keys(), Keys(right=True, gas=True), Keys(left=True), Keys(gas=True), Keys(gas=True, brake=True))
        assert [go(game, 1, held).action for held in keys] == [NOTHING, RIGHT, LEFT, GAS, BRAKE]
        press(game, Command.SWITCH)
        assert go(game, 2).step is not None


def test_the_policy_drives_when_asked(dream: Game) -> None:
    press(dream, Command.DRIVER)
    before = dream.now
    assert dream.driver == POLICY
    np.testing.assert_array_equal(go(dream, 1).action, dream.mind.act(before.latent))  # type: ignore[arg-type]
    press(dream, Command.DRIVER)
    assert dream.driver == HUMAN


def test_without_a_policy_the_human_goes_on_driving(tiny_run: Run, view: AgentView) -> None:
    mind = Mind(open_mind(tiny_run, CPU, 0).world, None)
    game = make(mind, view)
    press(game, Command.DRIVER)
    assert game.driver == HUMAN and go(game, 1).said.value is None


def test_pause_and_single_steps(dream: Game) -> None:
    press(dream, Command.PAUSE)
    assert go(dream, 3).decisions == 0
    dream.take(Input((Command.STEP,), GO))
    assert go(dream, 3).decisions == 1
    press(dream, Command.PAUSE)
    assert go(dream, 1).decisions == 2


def test_rewinding_and_going_on_is_another_future(dream: Game) -> None:
    old = go(dream, 4)
    press(dream, Command.REWIND, Command.REWIND)
    assert dream.now is old.before.before and dream.branch == 1  # type: ignore[union-attr]
    press(dream, Command.FORWARD, Command.FORWARD, Command.FORWARD)
    assert dream.now is old
    press(dream, Command.REWIND, Command.REWIND)
    new = go(dream, 1, Keys(left=True))
    assert dream.ends == [old, new] and dream.branch == 2
    press(dream, Command.BRANCH)
    assert dream.now is old and dream.paused
    press(dream, Command.REWIND, Command.REWIND, Command.FORWARD)
    assert dream.now is old.before, "forward stays on the branch one went to"
    press(dream, Command.BRANCH, Command.BRANCH)
    assert dream.now is new
    press(dream, *[Command.REWIND] * 9)
    assert dream.now is dream.moments[0], "there is nothing before the first"


def test_a_new_start_keeps_what_was(dream: Game) -> None:
    last = go(dream, 2)
    press(dream, Command.RESTART)
    assert dream.now.before is None and dream.ends == [last, dream.now]


def test_a_real_drive_is_the_environments(real: Game) -> None:
    last = go(real, 5)
    with CarRacingView() as other:
        seen = [other.reset(2**24)]
        steps = [other.step(moment.action) for moment in last.drive()[1:]]  # type: ignore[arg-type]
    for moment, picture in zip(last.drive(), seen + [step.observation for step in steps], strict=True):
        np.testing.assert_array_equal(moment.picture, picture)
    assert last.score == pytest.approx(sum(step.reward for step in steps))
    assert last.track == 2**24


def test_a_real_drive_branches_as_if_it_had_been_driven_so(real: Game) -> None:
    go(real, 6)
    press(real, *[Command.REWIND] * 3)
    branched = go(real, 3, Keys(left=True, gas=True))
    with CarRacingView() as other:
        other.reset(2**24)
        *_, step = (other.step(moment.action) for moment in branched.drive()[1:])  # type: ignore[arg-type]
    np.testing.assert_array_equal(branched.picture, step.observation)
    assert branched.step is not None and branched.step.infos == step.infos
    assert [len(drive) for drive in real.real_drives()] == [7, 7]


def test_switching_dreams_on_from_the_real_drive_and_comes_back_to_it(real: Game) -> None:
    left = go(real, 2)
    press(real, Command.SWITCH)
    dreamt = go(real, 2)
    assert (dreamt.world, dreamt.before.before, dreamt.step) == (DREAM, left, None)  # type: ignore[union-attr]
    press(real, Command.SWITCH)
    assert (real.world, real.now) == (REAL, left)
    again = go(real, 1)
    assert (again.world, again.before) == (REAL, left)
    assert [drive[-1] for drive in real.real_drives()] == [again]
    press(real, Command.BRANCH)
    assert (real.now, real.world) == (dreamt, DREAM)


def test_from_a_dream_of_recorded_states_a_new_real_drive_begins(dream: Game) -> None:
    go(dream, 1)
    press(dream, Command.SWITCH)
    assert (dream.world, dream.now.world, dream.now.track) == (REAL, REAL, 2**24)
    assert dream.real_drives() == []


def test_forward_into_a_dream_is_the_dream(real: Game) -> None:
    press(real, Command.SWITCH)
    dreamt = go(real, 1)
    press(real, Command.SWITCH, Command.FORWARD)
    assert (real.now, real.world) == (dreamt, DREAM)


def test_without_recorded_states_the_game_begins_in_the_real_world(mind: Mind, view: AgentView) -> None:
    game = make(mind, view, dreams=False)
    assert game.world == REAL
    press(game, Command.SWITCH, Command.RESTART)
    assert (game.world, game.now.track) == (REAL, 2**24 + 1)


def test_nothing_follows_the_end(dream: Game, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.playing.game._LIKELY", 0.5)
    monkeypatch.setattr(dream.mind, "judge", lambda latent: Judgement(1.0, 0.1, None))
    assert go(dream, 3).decisions == 1
    press(dream, Command.REWIND)
    assert go(dream, 2).decisions == 1


def test_help_and_the_end_of_the_game(dream: Game) -> None:
    dream.take(Input((Command.HELP, Command.QUIT), GO))
    assert dream.help and dream.over and dream.now.decisions == 0


def test_a_value_is_what_the_policy_would_earn(mind: Mind, monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant:
        def __init__(self, value: float, feature: torch.Tensor) -> None:
            self.mean = torch.full(feature.shape[:-1], value)

    model = mind.world.model
    monkeypatch.setattr(model, "reward", lambda feature: Constant(2.0, feature))
    for chance, expected in ((1.0, 30.0), (0.5, 2 * (2 - 0.5**14)), (0.0, 2.0)):
        monkeypatch.setattr(model, "goes_on", lambda feature, chance=chance: Constant(chance, feature))
        assert mind.judge(starts(mind, 1)) == pytest.approx((2.0, chance, expected))


def test_what_the_model_says_of_a_moment_changes_nothing_that_follows(tiny_run: Run) -> None:
    one, other = (open_mind(tiny_run, CPU, 0) for _ in range(2))
    latent = starts(one, 1)
    one.judge(latent)
    action = np.zeros(3, np.float32)
    torch.testing.assert_close(one.imagine(latent, action).stoch, other.imagine(latent, action).stoch)


def test_looking_is_what_the_driver_does(tiny_run: Run) -> None:
    from pipeline import load_agent

    agent, mind = load_agent(tiny_run.root, particles=1), open_mind(tiny_run, CPU, 0)
    pictures = np.random.default_rng(0).integers(0, 256, (4, 3, 64, 64), np.uint8)
    mind._random = agent._random
    latent, action = None, None
    for picture in pictures:
        state = agent._random.get_state()
        chosen = agent.act(picture)
        mind._random.set_state(state)
        latent = mind.look(latent, action, picture)
        torch.testing.assert_close(latent.feature, agent.latent.feature)  # type: ignore[union-attr]
        action = mind.act(latent)
        np.testing.assert_array_equal(action, chosen)
