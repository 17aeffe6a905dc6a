"""Acting without a policy: sequences of actions are tried out in branches of one past, and the best are drawn around again.

The cross-entropy method (Rubinstein 1999, "The cross-entropy method for combinatorial and continuous optimization"), as it is
used with learned models (PETS, arXiv 1805.12114, section 5.1). Axes: n candidates, T decisions, K components of an action, c
frames of a latent frame.
"""

from collections.abc import Callable

import numpy as np

from oniris_core.common.seeds import numpy_rng
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.environment.dreams import refuse_unlearned, told
from oniris_core.sampling.stepper import Moment, Stepper

ELITE_SHARE = 0.125
"""Of the candidates: those that the next ones are drawn around."""

Returns = Callable[[np.ndarray], np.ndarray]
"""What sequences of actions [n, T, ...] bring, [n]."""


def plan(
    stepper: Stepper, past: Moment, horizon: int, candidates: int = 64, rounds: int = 3, seed: int = 0
) -> np.ndarray:
    """The action to take next, after looking `horizon` frames ahead.

    Args:
        stepper: a world model that has learned rewards, from `oniris_core.load`.
        past: of one rollout; see `Stepper.recall` and `Stepper.observe`.
        horizon: frames to look ahead, a multiple of c.
        candidates: sequences of actions tried in each round, side by side.
        rounds: how often new ones are drawn around the best.
        seed: of candidates and dreams. Within a round all dreams have the same noise, so that they differ by their actions.

    Returns:
        An action of the model's space, to be held for the c frames of the next latent frame.

    Raises:
        UserError: the model has not learned rewards.
        ValueError: a past of several rollouts, a horizon that is no multiple of c, or no candidates or rounds.
    """
    c = stepper.group
    if len(past) != 1 or horizon < c or horizon % c or candidates < 1 or rounds < 1:
        raise ValueError(
            f"planning needs one rollout, a horizon that is a multiple of {c}, candidates and rounds; not {len(past)} "
            f"rollouts, horizon {horizon}, {candidates} candidates, {rounds} rounds"
        )
    refuse_unlearned(stepper.world)
    branches, number = past.unseen().repeat(candidates), 0

    def returns(actions: np.ndarray) -> np.ndarray:
        nonlocal number
        noise = [int(numpy_rng(seed, "dream of a plan", number).integers(2**31))] * candidates
        number += 1
        return dreamt_returns(stepper, branches, actions, noise)

    return cross_entropy(stepper.world.action_spec, returns, horizon // c, candidates, rounds, seed)


def dreamt_returns(stepper: Stepper, moment: Moment, actions: np.ndarray, seeds: list[int]) -> np.ndarray:
    """float64 [n]: the rewards that actions [n, T, ...], each held for a latent frame, are expected to bring."""
    total, alive = np.zeros(len(moment)), np.ones(len(moment))
    for decision in range(actions.shape[1]):
        held = np.repeat(actions[:, decision, None], stepper.group, axis=1)
        moment = stepper.imagine(moment, held, seeds)
        found = told(stepper, moment)
        total += alive * found.rewards
        alive *= 1 - found.ended
        if not alive.any():
            break
    return total


def cross_entropy(
    spec: ActionSpec, returns: Returns, decisions: int, candidates: int, rounds: int, seed: int = 0
) -> np.ndarray:
    """The first action of the sequence that the method ends with; arguments as those of `plan`."""
    rng = numpy_rng(seed, "plan")
    law = _Gaussian(spec, decisions) if spec.kind == "box" else _Choices(spec, decisions)
    elites = max(1, round(ELITE_SHARE * candidates))
    for _ in range(rounds):
        actions = law.draw(rng, candidates)
        best = np.argsort(-returns(actions), kind="stable")[:elites]
        law.fit(actions[best])
    return law.first()


class _Gaussian:
    """Independent normal distributions of each number of each decision, cut at the bounds."""

    def __init__(self, spec: ActionSpec, decisions: int):
        self.low, self.high = np.array(spec.low), np.array(spec.high)
        self.mean = np.tile((self.low + self.high) / 2, (decisions, 1))
        self.std = np.tile((self.high - self.low) / 2, (decisions, 1))

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """float32 [n, T, K]."""
        drawn = self.mean + self.std * rng.standard_normal((n, *self.mean.shape))
        return drawn.clip(self.low, self.high).astype(np.float32)

    def fit(self, elites: np.ndarray) -> None:
        """Draw around these from now on."""
        self.mean, self.std = elites.mean(0), elites.std(0)

    def first(self) -> np.ndarray:
        """float32 [K]: the middle of the first decision."""
        return self.mean[0].astype(np.float32)


class _Choices:
    """Independent choices of each component of each decision."""

    def __init__(self, spec: ActionSpec, decisions: int):
        self.single = spec.kind == "discrete"
        self.start = np.array(spec.start or (0,) * len(spec.sizes))
        sizes = spec.sizes if spec.kind != "multi_binary" else (2,) * len(spec.sizes)
        self.shares = [np.full((decisions, size), 1 / size) for size in sizes]

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """int64 [n, T] of a discrete space, else [n, T, K]."""
        parts = []
        for shares in self.shares:
            below = shares.cumsum(1)[None, :, :-1]
            parts.append((rng.random((n, len(shares), 1)) >= below).sum(-1))
        return self._outward(np.stack(parts, axis=-1))

    def fit(self, elites: np.ndarray) -> None:
        """Draw as these chose from now on; what none of them chose keeps a small share."""
        chosen = (elites[..., None] if self.single else elites) - self.start
        for component, shares in enumerate(self.shares):
            size = shares.shape[1]
            count = np.eye(size)[chosen[..., component]].sum(0)
            self.shares[component] = (count + 1 / size) / (len(elites) + 1)

    def first(self) -> np.ndarray:
        """The most likely choices of the first decision."""
        return self._outward(np.array([shares[0].argmax() for shares in self.shares]))

    def _outward(self, choices: np.ndarray) -> np.ndarray:
        actions = choices + self.start
        return actions[..., 0] if self.single else actions
