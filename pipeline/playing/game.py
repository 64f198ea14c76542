"""The game without its window: a tree of moments, a place in it, and what each key does.

Driving on adds a moment. Going back removes none: whoever drives on from an earlier moment begins another branch. A
real drive can branch too, for a track and the actions so far make the same drive again.

    start -- real -- real -- real -- real          the real drive
                        `--- dream -- dream        imagined from its third moment on
                                 `--- dream        and again, otherwise
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..envs import adapter_of
from ..envs.actions import Action
from ..envs.car_racing.actions import BRAKE, GAS, LEFT, NOTHING, RIGHT
from ..envs.view import AgentView, Gauge, Step
from ..models.dynamics import Latent
from .mind import Judgement, Mind

DREAM, REAL = "dream", "real"
HUMAN, POLICY = "human", "policy"

_TURN, _MOST = 0.12, 0.6  # of the steering wheel: a decision's turn, and the most that a key held can come to
_GAS, _BRAKE = 0.4, 0.5
_LIKELY = 0.5  # chance of going on below which a dream is over


class Command(StrEnum):
    """What a key does once, when it is pressed."""

    SWITCH = "switch"
    DRIVER = "driver"
    PAUSE = "pause"
    STEP = "step"
    REWIND = "rewind"
    FORWARD = "forward"
    BRANCH = "branch"
    RESTART = "restart"
    HELP = "help"
    QUIT = "quit"


HELP = {
    Command.SWITCH: "dream / real",
    Command.DRIVER: "you / the policy",
    Command.PAUSE: "pause and go on",
    Command.STEP: "one decision",
    Command.REWIND: "back; then go on: another future",
    Command.FORWARD: "forward again",
    Command.BRANCH: "to the next future's end",
    Command.RESTART: "begin anew",
    Command.HELP: "this help",
    Command.QUIT: "end",
}
"""What each command is for, in a few words."""


class Keys(NamedTuple):
    """Keys that are held down."""

    left: bool = False
    right: bool = False
    gas: bool = False
    brake: bool = False


class Input(NamedTuple):
    """What the player does in a frame: commands, then keys held for a decision, if there is to be one."""

    commands: Sequence[Command] = ()
    keys: Keys = Keys()
    ticks: bool = True


@dataclass(eq=False)
class Moment:
    """A moment of a drive.

    Attributes:
        world: DREAM or REAL: where it came about.
        latent: the world model's state, (1, ...).
        picture: (3, S, S) uint8, seen or imagined.
        said: what the world model says of it.
        before: the moment before it; None for a drive's first.
        action: that led to it; None for a drive's first.
        step: what really came of that; None in a dream and for a drive's first.
        track: of a real drive; None in a dream.
        after: the moment that `Command.FORWARD` leads to.
    """

    world: str
    latent: Latent
    picture: NDArray[np.uint8]
    said: Judgement
    before: Moment | None = None
    action: Action | None = None
    step: Step | None = None
    track: int | None = None
    after: Moment | None = field(default=None, repr=False)
    decisions: int = field(init=False)
    score: float = field(init=False)

    def __post_init__(self) -> None:
        self.decisions = self.before.decisions + 1 if self.before else 0
        self.score = self.before.score + self.reward if self.before else 0.0

    @property
    def reward(self) -> float:
        """The reward that came with it, real or predicted."""
        return self.step.reward if self.step else self.said.reward

    @property
    def over(self) -> bool:
        """Whether the drive ends with it."""
        if self.step:
            return self.step.terminated or self.step.truncated
        return self.before is not None and self.said.goes_on < _LIKELY

    def drive(self) -> list[Moment]:
        """All moments from the drive's first to this one."""
        moments: list[Moment] = [self]
        while moments[-1].before:
            moments.append(moments[-1].before)
        return moments[::-1]


class Game:
    """A player's place in a tree of moments.

    Attributes:
        world: DREAM or REAL: where the next decision is taken.
        driver: HUMAN or POLICY: who takes it.
        keyed: whether a human can, see `Adapter.keys`.
        now: the present moment.
        moments, ends: all moments, and the last one of each branch.
        track_tiles: tiles of the track, by the first moment of each real drive.
        paused, help, over: the flags; `over` is set by `Command.QUIT`.

    Args:
        mind: of the run.
        view: the real environment.
        tracks: of the real drives, one after the other.
        starts: states (N, ...) that dreams begin in; without any, a dream goes on from a real drive alone.
        world: where to begin.
        seed: of where dreams begin.
    """

    def __init__(
        self,
        mind: Mind,
        view: AgentView,
        tracks: Iterator[int],
        starts: Latent | None,
        world: str = DREAM,
        seed: int = 0,
    ) -> None:
        self.mind, self._view, self._tracks, self._starts = mind, view, tracks, starts
        self._rng = np.random.default_rng(seed)
        self._steer = 0.0
        self._single = False
        self._simulated: Moment | None = None  # where the real environment stands
        self.track_tiles: dict[Moment, int] = {}
        self.keyed = adapter_of(mind.world.interface.view.env).keys
        self.world, self.driver = world, HUMAN if self.keyed else POLICY
        self.paused = self.help = self.over = False
        self.moments: list[Moment] = []
        self.ends: list[Moment] = []
        self._begin()

    def take(self, given: Input) -> None:
        """Do what the player does in a frame."""
        for command in given.commands:
            self.press(command)
        if given.ticks and not self.over:
            self.tick(given.keys)

    def tick(self, keys: Keys = Keys()) -> None:  # noqa: B008 (a tuple)
        """Take a decision, unless the game is paused or the drive over."""
        if (self.paused and not self._single) or self.now.over:
            self._single = False
            return
        self._single = False
        action = self.mind.act(self.now.latent) if self.driver == POLICY else self._by_hand(keys)
        self._add(self._imagine(action) if self.world == DREAM else self._drive(action))

    def press(self, command: Command) -> None:
        """Do what a key does."""
        match command:
            case Command.SWITCH:
                self._switch()
            case Command.DRIVER:
                self._change_driver()
            case Command.PAUSE:
                self.paused = not self.paused
            case Command.STEP:
                self.paused = self._single = True
            case Command.REWIND | Command.FORWARD:
                self._go_to((self.now.before if command is Command.REWIND else self.now.after) or self.now)
            case Command.BRANCH:
                self.paused = True
                self._next_end()
            case Command.RESTART:
                self._begin()
            case Command.HELP:
                self.help = not self.help
            case Command.QUIT:
                self.over = True

    @property
    def branch(self) -> int:
        """Number of the branch, from 1, that the present moment lies on; of several, the latest."""
        following = self.now
        while following.after:
            following = following.after
        return self.ends.index(following) + 1

    def gauges(self) -> list[Gauge]:
        """What the latest action looks like, at most three instruments; of more, those that are not at 0."""
        if self.now.action is None:
            return []
        gauges = self._view.gauges(self.now.action, None)
        return (gauges if len(gauges) <= 3 else [gauge for gauge in gauges if gauge.value])[:3]

    def real_drives(self) -> list[list[Moment]]:
        """All real drives, each from its first moment to its last; those of one track may begin alike."""
        real = [moment for moment in self.moments if moment.world == REAL]
        went_on = {id(moment.before) for moment in real}
        return [moment.drive() for moment in real if id(moment) not in went_on and moment.before]

    def _begin(self) -> None:
        """Begin a drive in the present world."""
        self._steer = 0.0
        if self._starts is None:
            self.world = REAL
        if self.world == REAL:
            track = next(self._tracks)
            picture = self._view.reset(track)
            latent = self.mind.look(None, None, picture)
            self._simulated = Moment(REAL, latent, picture, self.mind.judge(latent), track=track)
            self.track_tiles[self._simulated] = self._view.track_tiles
            self._add(self._simulated)
        else:
            assert self._starts is not None
            index = int(self._rng.integers(len(self._starts.stoch)))
            latent = self._starts[index : index + 1]
            self._add(Moment(DREAM, latent, self.mind.picture(latent), self.mind.judge(latent)))

    def _add(self, moment: Moment) -> None:
        """Put a moment behind the present one, or at the root of another tree, and go there."""
        self.moments.append(moment)
        if moment.before in self.ends:
            self.ends.remove(moment.before)
        self.ends.append(moment)
        if moment.before:
            moment.before.after = moment
        self.now = moment

    def _imagine(self, action: Action) -> Moment:
        latent = self.mind.imagine(self.now.latent, action)
        return Moment(DREAM, latent, self.mind.picture(latent), self.mind.judge(latent), self.now, action)

    def _drive(self, action: Action) -> Moment:
        self._simulate(self.now)
        step = self._view.step(action)
        latent = self.mind.look(self.now.latent, action, step.observation)
        judged = self.mind.judge(latent)
        moment = Moment(REAL, latent, step.observation, judged, self.now, action, step, self.now.track)
        self._simulated = moment
        return moment

    def _simulate(self, moment: Moment) -> None:
        """Bring the real environment to a real moment: where it stands elsewhere, the drive is driven again."""
        if self._simulated is moment:
            return
        first, *rest = moment.drive()
        assert first.track is not None
        self._view.reset(first.track)
        for earlier in rest:
            assert earlier.action is not None
            self._view.step(earlier.action)

    def _change_driver(self) -> None:
        if self.driver == HUMAN and self.mind.actor:
            self.driver = POLICY
        elif self.keyed:
            self.driver = HUMAN

    def _switch(self) -> None:
        """To the dream, from here on; or back to where the real drive was left, or to a new one."""
        if self.world == REAL:
            self.world = DREAM
            return
        self.world = REAL
        here: Moment | None = self.now
        while here and here.world == DREAM:
            here = here.before
        if here:
            self.now = here
        else:
            self._begin()

    def _go_to(self, moment: Moment) -> None:
        self.now, self._steer = moment, 0.0
        if moment.world == DREAM:
            self.world = DREAM

    def _next_end(self) -> None:
        """To the last moment of the next branch; to its own, where the present one is not that."""
        index = self.branch - 1
        if self.now is self.ends[index]:
            index = (index + 1) % len(self.ends)
        end = self.ends[index]
        for moment in end.drive():
            if moment.before:
                moment.before.after = moment  # so that rewinding and going forward stay on it
        self._go_to(end)
        self.world = end.world

    def _by_hand(self, keys: Keys) -> Action:
        """The action that the keys ask for: a wheel that takes time to turn, or one of five."""
        if self.mind.world.interface.discrete:
            pressed = {RIGHT: keys.right, LEFT: keys.left, BRAKE: keys.brake, GAS: keys.gas}
            return next((action for action, held in pressed.items() if held), NOTHING)
        side = keys.right - keys.left
        self._steer = float(np.clip(self._steer + side * _TURN, -_MOST, _MOST)) if side else 0.0
        return np.array([self._steer, _GAS * keys.gas, _BRAKE * keys.brake], np.float32)
