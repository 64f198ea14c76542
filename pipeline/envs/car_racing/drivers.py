"""Random drivers. Nobody here has learned anything, knows the simulator, or was chosen by how well he drives.

A driver at random leaves the road at the first or second bend and then sees grass. What teaches a world model is
therefore not one long drive but many short and different ones: the process is drawn anew for every episode, from
crawling to full gas and from straight on to full lock, and the episode is stopped some decisions after the car has left
the road. Who looks at nothing hardly gets round a bend; `Glance` looks, but does not know what at: at times, it does.

Where actions are discrete, other drivers go by the same names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError, did_you_mean
from ..random_policies import RandomPolicy
from ..view import Picture
from .actions import ACTION_HIGH, ACTION_LOW, ACTION_NAMES, BRAKE, GAS, LEFT, NOTHING, RIGHT


class Uniform(RandomPolicy):
    """An action drawn uniformly at each decision. Gas and brake cancel: the car crawls along the road."""

    name = "uniform"

    def __call__(self, _: Picture) -> NDArray[np.float32]:
        """Draw an action."""
        return self._rng.uniform(ACTION_LOW, ACTION_HIGH).astype(np.float32)


class Brownian(RandomPolicy):
    """A random walk, `a' = clip(a + sqrt(1/50) N(0, 1))`, from a uniform start: that of ctallec/world-models."""

    name = "brownian"
    _STEP = math.sqrt(1 / 50)

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self._action = rng.uniform(ACTION_LOW, ACTION_HIGH)

    def __call__(self, _: Picture) -> NDArray[np.float32]:
        """Return the present action and walk on."""
        action = self._action
        self._action = np.clip(action + self._STEP * self._rng.normal(size=3), ACTION_LOW, ACTION_HIGH)
        return action.astype(np.float32)


class Smooth(RandomPolicy):
    """Steering and gas that wander (Ornstein-Uhlenbeck processes) and some braking, anew for every episode.

    Six episodes of ten are sprints, which steer gently and give more gas: what a driver who looks at nothing has to do
    to be fast while still on the road, where a good driver will be. The others skid, stop and come back.
    Drawn for an episode, with rates and probabilities a decision:

    - steering: rate U(.05, .5) back to straight on, standard deviation .01 to .12 in a sprint, else .05 to .9,
      log-uniform.
    - gas: rate .1 to a target u^.4 in a sprint, else u^.7, with u from U(0, 1), standard deviation U(.05, .3); the
      target is drawn again with probability .02, so that a car speeds up, coasts and speeds up.
    - brake: begins with probability U(0, .08), at a strength U(.05, 1) (above .9 the wheels lock), ends with
      probability 1/2, or for one in five 1/20, long enough to stand. With probability 1/2 the foot stays on the gas.

    A car held by its brake, at a bend, askew, the wheel at full lock: where that is rare in the data, a standing car is
    in a dream much as at the start of an episode, about to drive off, and a policy rests there, foot on the brake.
    """

    name = "smooth"
    _SPRINTS, _GAS_RATE, _NEW_GAS = 0.6, 0.1, 0.02
    _LONG, _LONG_ENDS, _SHORT_ENDS, _BOTH = 0.2, 0.05, 0.5, 0.5

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        sprint = rng.random() < self._SPRINTS
        least, most = (0.01, 0.12) if sprint else (0.05, 0.9)
        self._steer_rate = rng.uniform(0.05, 0.5)
        self._steer_deviation = math.exp(rng.uniform(math.log(least), math.log(most)))
        self._gas_power = 0.4 if sprint else 0.7
        self._gas_deviation = rng.uniform(0.05, 0.3)
        self._brake_begins = rng.uniform(0.0, 0.08)
        self._steer, self._brake, self._brake_ends, self._both = 0.0, 0.0, 1.0, False
        self._gas = self._gas_target = self._draw_gas()

    def __call__(self, _: Picture) -> NDArray[np.float32]:
        """Wander on for one decision."""
        rng = self._rng
        self._steer = self._wander(self._steer, 0.0, self._steer_rate, self._steer_deviation)
        if rng.random() < self._NEW_GAS:
            self._gas_target = self._draw_gas()
        self._gas = self._wander(self._gas, self._gas_target, self._GAS_RATE, self._gas_deviation)
        if self._brake > 0.0 and rng.random() < self._brake_ends:
            self._brake = 0.0
        elif self._brake == 0.0 and rng.random() < self._brake_begins:
            self._brake = rng.uniform(0.05, 1.0)
            self._brake_ends = self._LONG_ENDS if rng.random() < self._LONG else self._SHORT_ENDS
            self._both = rng.random() < self._BOTH
        # What would leave the bounds stays on them: held inside, a process is not lost far outside.
        self._steer, self._gas = float(np.clip(self._steer, -1.0, 1.0)), float(np.clip(self._gas, 0.0, 1.0))
        gas = self._gas if self._both or not self._brake else 0.0
        return np.array([self._steer, gas, self._brake], dtype=np.float32)

    def _draw_gas(self) -> float:
        return float(self._rng.uniform() ** self._gas_power)

    def _wander(self, value: float, mean: float, rate: float, deviation: float) -> float:
        """One step of the process whose stationary standard deviation is `deviation`, whatever the rate."""
        noise = deviation * math.sqrt(1.0 - (1.0 - rate) ** 2)
        return value + rate * (mean - value) + noise * float(self._rng.normal())


class Glance(Smooth):
    """`Smooth`, with a wheel that is turned by what is seen, too: by how much more of a colour there is on one side.

    Drawn for an episode:

    - a linear function of the picture: each of 8 x 8 areas at (x, y), from -1 to 1, has weights x (a + b y), with a and
      b from N(0, 1) for each of three colours. A mirrored picture turns the wheel the other way. The weights' norm
      is .2 to 2, log-uniform; the picture is on a scale of -1 to 1.
    - how much the foot comes off the gas when the wheel is turned: by U(0, 1) of it at half lock and more.
    - with probability U(0, .01) a decision the driver looks away and holds the wheel anywhere, U(-1, 1); he looks
      again with probability 1/8.

    Half of these drivers steer away from the road, most others make too little or too much of it, and one in nine
    follows it for fifty tiles and more: round bends, at speed, back from where he was when he looked again, and, where
    he has turned round, back over road that is paid for no more.
    """

    name = "glance"
    looks = True
    _AREAS, _LEAST, _MOST = 8, 0.2, 2.0
    _AWAY, _BACK = 0.01, 0.125

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        place = (np.arange(self._AREAS) + 0.5) * 2 / self._AREAS - 1
        everywhere, above = rng.normal(size=(2, 3))
        weights = place[:, None] * (everywhere + above * place[:, None, None])  # (y, x, colour)
        norm = math.exp(rng.uniform(math.log(self._LEAST), math.log(self._MOST)))
        self._weights = norm * weights / np.linalg.norm(weights)
        self._eases = rng.uniform()
        self._looks_away = rng.uniform(0.0, self._AWAY)
        self._held: float | None = None

    def __call__(self, observation: Picture) -> NDArray[np.float32]:
        """Wander on for one decision, and turn the wheel by what is seen, (3, S, S) uint8, too."""
        action = super().__call__(observation)
        if self._held is None and self._rng.random() < self._looks_away:
            self._held = self._rng.uniform(-1.0, 1.0)
        elif self._held is not None and self._rng.random() < self._BACK:
            self._held = None
        areas = cv2.resize(observation.transpose(1, 2, 0), (self._AREAS, self._AREAS), interpolation=cv2.INTER_AREA)
        seen = float(np.sum(self._weights * (areas / 127.5 - 1.0)))
        action[0] = np.clip(action[0] + seen, -1.0, 1.0) if self._held is None else self._held
        action[1] *= 1.0 - self._eases * min(1.0, 2.0 * abs(float(action[0])))
        return action


class Launch(RandomPolicy):
    """Off at full gas, straight on; at speed the brake, a turn of the wheel, and again.

    Other random drivers hardly ever brake from above 55 units/s and then turn while they are on the road still: they
    have left it before they are so fast, or never are, for they brake. To a model of their drives, a car that has
    braked hard turns a quarter too little: in front of a hairpin, it thinks, a brake is of no use.

    Drawn for an episode: gas U(.8, 1). Then over and over:

    - run-up: 12 to 20 decisions, straight on but for N(0, .02) a decision. The first ends at 40 to 75 units/s.
    - brake: at a strength U(.05, 1), for 2.5 decisions on average (geometric); before one turn in four, none. With
      probability 1/4 the foot stays on the gas.
    - turn: the wheel at 1 - .7 u^2, with u from U(0, 1), to either side, for 7 decisions on average (geometric). As
      likely as not it is there from the beginning of the brake on. Gas of U(0, .5), or as likely none.
    """

    name = "launch"
    _LEAST, _MOST, _SHAKE = 12, 20, 0.02
    _BRAKE_ENDS, _TURN_ENDS = 0.4, 0.15
    _NO_BRAKE, _BOTH, _EARLY, _DRIVES = 0.25, 0.25, 0.5, 0.5

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self._gas = rng.uniform(0.8, 1.0)
        self._decisions = self._manoeuvres()

    def __call__(self, _: Picture) -> NDArray[np.float32]:
        """Go on with the manoeuvre for one decision."""
        return np.array(next(self._decisions), dtype=np.float32)

    def _manoeuvres(self) -> Iterator[tuple[float, float, float]]:
        """Steering, gas and brake of one decision after the other."""
        rng = self._rng
        while True:
            for _ in range(int(rng.integers(self._LEAST, self._MOST + 1))):
                yield self._SHAKE * rng.normal(), self._gas, 0.0
            brake = 0.0 if rng.random() < self._NO_BRAKE else rng.uniform(0.05, 1.0)
            kept = self._gas if rng.random() < self._BOTH else 0.0
            turn = (1.0 - 0.7 * rng.uniform() ** 2) * rng.choice([-1.0, 1.0])
            gas = rng.uniform(0.0, 0.5) if rng.random() < self._DRIVES else 0.0
            early = turn if rng.random() < self._EARLY else 0.0
            for _ in range(int(rng.geometric(self._BRAKE_ENDS)) if brake else 0):
                yield early, kept, brake
            for _ in range(int(rng.geometric(self._TURN_ENDS))):
                yield turn, gas, 0.0


class UniformChoice(RandomPolicy):
    """One of the five actions drawn at each decision, each as likely. It brakes as often as it speeds up: it crawls."""

    name = "uniform"

    def __call__(self, _: Picture) -> int:
        """Draw an action."""
        return int(self._rng.integers(len(ACTION_NAMES)))


class Sticky(RandomPolicy):
    """An action drawn and held for some decisions, then another, with likelihoods drawn anew for every episode.

    Drawn for an episode:

    - how many decisions lie between two draws: 1 to 5 on average, log-uniform, and geometric around that.
    - steering, as likely right as left: .02 to .6 of the draws, log-uniform. Steering that is held reaches full lock.
    - brake: U(0, .08) of the other draws; of those left, gas: 1 - .9 u^3 with u from U(0, 1). Gas being a fifth of full
      gas, only a car that gives little else gets fast: many do, and some crawl.
    """

    name = "smooth"

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self._draw_again = math.exp(-rng.uniform(0.0, math.log(5.0)))
        steer = math.exp(rng.uniform(math.log(0.02), math.log(0.6)))
        brake = (1 - steer) * rng.uniform(0.0, 0.08)
        gas = (1 - steer - brake) * (1 - 0.9 * rng.uniform() ** 3)
        self._likelihoods = np.zeros(len(ACTION_NAMES))
        self._likelihoods[[RIGHT, LEFT]] = steer / 2
        self._likelihoods[[NOTHING, GAS, BRAKE]] = 1 - steer - brake - gas, gas, brake
        self._action = self._draw()

    def __call__(self, _: Picture) -> int:
        """Return the present action and hold it, or draw another."""
        action = self._action
        if self._rng.random() < self._draw_again:
            self._action = self._draw()
        return action

    def _draw(self) -> int:
        return int(self._rng.choice(len(ACTION_NAMES), p=self._likelihoods))


_Shares = Sequence[tuple[type[RandomPolicy], float]]

_SHARES: _Shares = ((Glance, 0.62), (Launch, 0.25), (Smooth, 0.09), (Brownian, 0.03), (Uniform, 0.01))
_DISCRETE_SHARES: _Shares = ((Sticky, 0.97), (UniformChoice, 0.03))
"""Of the episodes of `mixture`. Drives that crawl stay on the road and last: of the decisions it is more."""


def mixture(rng: np.random.Generator, shares: _Shares = _SHARES) -> RandomPolicy:
    """Draw one of the other policies for an episode, by these shares."""
    kinds, likelihoods = zip(*shares, strict=True)
    return kinds[rng.choice(len(kinds), p=likelihoods)](rng)  # type: ignore[no-any-return]


_Policies = Mapping[str, Callable[[np.random.Generator], RandomPolicy]]

POLICIES: _Policies = {
    Uniform.name: Uniform,
    Brownian.name: Brownian,
    Smooth.name: Smooth,
    Glance.name: Glance,
    Launch.name: Launch,
    "mixture": mixture,
}
"""By name, where actions are continuous."""

DISCRETE_POLICIES: _Policies = {
    UniformChoice.name: UniformChoice,
    Sticky.name: Sticky,
    "mixture": partial(mixture, shares=_DISCRETE_SHARES),
}
"""By name, where actions are discrete; there is nothing in between them to walk through, and no `brownian`."""


def make_policy(name: str, rng: np.random.Generator, *, continuous: bool = True) -> RandomPolicy:
    """Make the random driver of one episode.

    Args:
        name: one of `POLICIES`, or of `DISCRETE_POLICIES`.
        rng: source of the policy's own parameters and of its actions.
        continuous: which of the two.

    Returns:
        A policy; its `name` is that of the process drawn, for `mixture` too.

    Raises:
        UsageError: there is no policy of that name for such actions.
    """
    policies = POLICIES if continuous else DISCRETE_POLICIES
    if name not in policies:
        kind = "" if continuous else " of discrete actions"
        raise UsageError(f"There is no random policy '{name}'{kind}{did_you_mean(name, policies)}")
    return policies[name](rng)
