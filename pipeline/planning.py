"""Planning at decision time: the best actions are searched for in the dream, with the critic at its end.

Model-predictive path integral control (MPPI; Williams et al. 2017, arXiv 1707.02342), with the actor among those who
propose and the critic behind the horizon, as in TD-MPC (Hansen et al. 2022, arXiv 2203.04955). Of K sequences
a^k = (a^k_0 .. a^k_{H-1}), each imagined once from the present state, the E best are the elite:

score      S_k = sum_{t=1..H} g_t (u(r_t) - penalty disagreement_t) + g_{H+1} v(s_H),  g_t = d_1 .. d_{t-1}
           (where v(s_H) includes r_H, the sum ends before, and g_H v(s_H) is added)
weight     w_k = exp(S_k / temperature) / sum_{j in elite} exp(S_j / temperature)
plan       mean_t = sum_k w_k a^k_t,  deviation_t = max(sqrt(sum_k w_k (a^k_t - mean_t)^2), min_noise)

The next iteration proposes anew around that plan; of the last one's, the first action is executed. `learning.returns`
says what r, d and v are, `policy_loss.assign_credit` what cost does to r and d; the score is the return with lambda 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .artifacts import StageFolder
from .config import PlannerSettings
from .errors import StageError, UsageError
from .learning.imagination import Dream, Trajectory
from .learning.policy_loss import assign_credit
from .models.actor_critic import Actor
from .models.checkpoints import LoadedCritic, LoadedWorld, load_critic
from .models.dynamics import Latent, stack
from .randomness import Stream, stream_seed


class Plan(NamedTuple):
    """Actions to come, and how sure they are.

    Attributes:
        mean, deviation: (H, A), in the model's scale.
    """

    mean: Tensor
    deviation: Tensor


def weights(score: Tensor, temperature: float) -> Tensor:
    """Weights of sequences (E,) by their scores (E,): exp(S_k / temperature), which sum to 1."""
    return F.softmax(score / temperature, 0)


def updated(actions: Tensor, score: Tensor, settings: PlannerSettings) -> Plan:
    """The plan that the elite makes.

    Args:
        actions: (H, K, A), within -1 .. 1.
        score: (K,).
        settings: `elites`, `temperature`, `min_noise`.
    """
    best = score.topk(settings.elites)
    elite = actions[:, best.indices]  # (H, E, A)
    weight = weights(best.values, settings.temperature)[:, None]  # (E, 1)
    mean = (weight * elite).sum(1)
    variance = (weight * (elite - mean[:, None]).square()).sum(1)
    return Plan(mean, variance.sqrt().clamp_min(settings.min_noise))


class Planner:
    """Chooses actions by looking ahead. It keeps its last plan, with which it begins the next search.

    Args:
        world: world model to dream in.
        actor: proposes a share of the sequences.
        critic: values what follows a sequence.
        settings: of the search.

    Raises:
        UsageError: actions are discrete, of which there is no mean.
    """

    def __init__(self, world: LoadedWorld, actor: Actor, critic: LoadedCritic, settings: PlannerSettings) -> None:
        if world.interface.discrete:
            raise UsageError(
                "A planner searches actions that are numbers, and this policy's are discrete; leave --planner out"
            )
        self.model, self.actor, self.critic, self.settings = world.model, actor, critic.critic, settings
        self.meaning = critic.settings.model_copy(update={"lam": 1.0})
        self.soft = world.settings.goes_on == "soft"
        self.reset()

    def reset(self, seed: int = 0) -> None:
        """Forget the last plan, and draw from this seed's stream from now on."""
        self._random = torch.Generator(self.model.device).manual_seed(stream_seed(seed, Stream.PLAN))
        self._dream = Dream(self.model, generator=self._random)
        self._last: Tensor | None = None

    @torch.no_grad()
    def plan(self, latent: Latent) -> Tensor:
        """Actions to come (H, A), within -1 .. 1, from a state (1, ...); the first is to be executed."""
        settings = self.settings
        start = latent[[0] * settings.sequences]
        # The plan of the decision before, less its first action; what it lacks at the end is the actor's.
        centre = self._last[1:] if self._last is not None else None
        deviation = None
        for _ in range(settings.iterations):
            trajectory = self._propose(start, centre, deviation)
            centre, deviation = updated(trajectory.actions, self.score(trajectory), settings)
        assert centre is not None
        self._last = centre
        return centre

    def _propose(self, start: Latent, centre: Tensor | None, deviation: Tensor | None) -> Trajectory:
        """Imagine sequences from `start` (K, ...): some by the actor, of which the first by its mean; the others vary.

        They vary around the centre (up to H, A) with the deviation (H, A) or, where there is none, the actor's mean in
        the first one's state, with the settings' noise.
        """
        settings, count = self.settings, self.settings.sequences
        by_actor = max(1, round(settings.actor_share * count))
        latent, latents, actions = self._dream.reset(start), [start], []
        for t in range(settings.horizon):
            policy = self.actor(latent.feature[:by_actor])
            usual, drawn = policy.executed_mean[:1], policy.sample(self._random)[1:]
            middle = centre[t] if centre is not None and t < len(centre) else usual[0]
            spread = deviation[t] if deviation is not None else torch.full_like(middle, settings.noise)
            noise = torch.empty(count - by_actor, len(middle), device=middle.device).normal_(generator=self._random)
            action = torch.cat([usual, drawn, middle + spread * noise]).clamp(-1, 1)
            latent = self._dream.step(action)
            latents.append(latent)
            actions.append(action)
        return Trajectory(stack(latents, 0), torch.stack(actions))

    def score(self, trajectory: Trajectory) -> Tensor:
        """What each of K imagined sequences is worth, (K,): see the head of this module."""
        first = 1 if self.meaning.value == "next" else 0
        outcomes = self._dream.outcomes(trajectory.latents[first:])
        end = self.critic(trajectory.latents[-1].feature).mean
        value = torch.zeros(len(trajectory.actions) + 1, len(end), device=end.device)
        value[-1] = end  # with lambda 1 no other counts
        return assign_credit(outcomes, value, self.meaning, self.soft).credit[0]


def load_planner(folder: StageFolder, world: LoadedWorld, actor: Actor, settings: PlannerSettings) -> Planner:
    """The planner of a fitted policy.

    Args:
        folder: of the policy, with its critic.
        world, actor: what it acts with.
        settings: of the search.

    Raises:
        StageError: there is no critic, or it does not fit the world model.
        UsageError: actions are discrete.
    """
    manifest = folder.read_manifest()
    if manifest is None or folder.critic.name not in manifest.outputs:
        again = folder.command if folder.state.exists() else f"{folder.command} --fresh"
        raise StageError(f"{folder.path} was fitted before critics were kept, which a planner needs; run `{again}`")
    return Planner(world, actor, load_critic(folder.critic, world), settings)
