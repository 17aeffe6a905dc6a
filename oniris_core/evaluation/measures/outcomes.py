"""Rewards and ends as a world model predicts them, beside what came: on true frames and in free rollouts.

Axes: K episodes, S samples, H frames after the context, G latent frames (groups of c frames).
"""

from dataclasses import dataclass

import numpy as np
import torch

from oniris_core.data.episodes.store import EpisodeStore
from oniris_core.data.rows.clips import TRAIN
from oniris_core.evaluation.rollouts.evaluation_set import EvaluationSet
from oniris_core.evaluation.rollouts.rollouts import Dreamer, Rollouts
from oniris_core.evaluation.scores.intervals import Bootstrap, Estimate, add
from oniris_core.world.denoiser import Frames

HORIZONS = (4, 8, 16, 32)
NEAR = 2
"""Frames by which an end may be missed and still counts as found."""
BINS = 10
NO_HEADS = "the model has learned no rewards and ends (train.outcome_weight)"


@dataclass(frozen=True)
class Told:
    """Rewards and whether the episode has ended by then, [..., H] each: true ones, or predicted ones and probabilities."""

    rewards: np.ndarray
    ends: np.ndarray

    def returns(self, horizon: int) -> np.ndarray:
        """[...]: the rewards of the first `horizon` frames, up to and including the one at which the episode has ended."""
        over = np.cumsum(self.ends > 0.5, axis=-1) - (self.ends > 0.5) > 0
        return np.where(over, 0, self.rewards)[..., :horizon].sum(-1)

    def first_end(self) -> np.ndarray:
        """int64 [...]: the first frame at which it has ended, more likely than not; H if none."""
        over = self.ends > 0.5
        return np.where(over.any(-1), over.argmax(-1), over.shape[-1])


def truth(chosen: EvaluationSet, store: EpisodeStore) -> tuple[Told, np.ndarray]:
    """What came after the context [K, H], and bool [K, H], up to where that is known.

    Nothing is earned after an end; after a limit of time nothing is known.
    """
    rows = chosen.rows[chosen.context :]
    rewards, ends, known = (np.zeros((len(chosen.episodes), len(rows)), kind) for kind in (np.float32, bool, bool))
    for k, episode in enumerate(chosen.episodes):
        start, end = store.bounds(int(episode))
        there = rows < end - start
        rewards[k, there] = store.rewards[start + rows[there]]
        ends[k] = store.terminated[episode] & (rows >= end - start - 1)
        known[k] = there | store.terminated[episode]
    return Told(rewards, ends), known


@torch.inference_mode()
def on_true_frames(dreamer: Dreamer, chosen: EvaluationSet) -> Told:
    """What the heads say of the true frames after the context [K, H], as the VAE shows them."""
    world, sampler = dreamer.stepper.world, dreamer.stepper.sampler
    assert world.denoiser.outcomes is not None
    groups, rewards, ends = chosen.truth.shape[1] // chosen.c, [], []
    for part in np.array_split(np.arange(len(chosen.episodes)), -(-len(chosen.episodes) // dreamer.batch)):
        x, told = dreamer.context(chosen.episodes[part], groups), dreamer.features(chosen.actions[part])
        has_action = (torch.arange(groups, device=x.device) > 0).expand(len(x), -1)
        clean = Frames(x, torch.full((len(x), groups), sampler.context_sigma, device=x.device), told, has_action)
        count = groups - chosen.context // chosen.c
        found = world.denoiser.outcomes.outcomes(world.denoiser.find_outcomes(clean, count))
        rewards.append(found.rewards.flatten(1).cpu().numpy())
        ends.append(found.ends.flatten(1).cpu().numpy())
    return Told(np.concatenate(rewards), np.concatenate(ends))


def measure_outcomes(
    dreamer: Dreamer,
    chosen: EvaluationSet,
    store: EpisodeStore,
    rollouts: Rollouts,
    redrawn: Told | None,
    bootstrap: Bootstrap,
) -> tuple[dict[str, float | int], dict[str, str]]:
    """Measures by name, and what was left out.

    `CANDIDATE/return_correlation@H` and `CANDIDATE/return_error@H` (root mean square) of the return over H frames, each
    counted up to its own end; `CANDIDATE/end_precision` and `end_recall`, of the ends found within NEAR frames;
    `CANDIDATE/end_calibration_error`, by how much the probability of having ended is off on average in BINS bins of it.
    Candidates: `vae`, the true frames; `rollout`, all samples; `floor`, the simulator with its noise redrawn [K, S, H], if that
    is given; `mean_reward`, the training episodes' mean at every frame.
    """
    if rollouts.outcomes is None:
        return {}, {"outcomes": NO_HEADS}
    came, known = truth(chosen, store)
    found = {"vae": on_true_frames(dreamer, chosen), "rollout": Told(*rollouts.outcomes)}
    if not np.isfinite(rollouts.outcomes.rewards).all():
        found["rollout"] = Told(*map(np.nan_to_num, rollouts.outcomes))
    if redrawn is not None:
        found["floor"] = redrawn
    training = np.repeat(store.split == TRAIN, np.diff(store.episode_ends, prepend=0))
    # Where it has ended nothing is earned by anybody: the mean is told when.
    mean = np.where(came.ends.cumsum(1) > 1, 0, store.rewards[training].mean())
    found["mean_reward"] = Told(mean, came.ends)
    metrics: dict[str, float | int] = {}
    for name, told in found.items():
        samples = Told(*(part[:, None] if part.ndim == 2 else part for part in (told.rewards, told.ends)))
        for horizon in HORIZONS:
            if horizon > known.shape[1]:
                continue
            valid = known[:, horizon - 1]
            ours, theirs = samples.returns(horizon), came.returns(horizon)[:, None]
            _returns(metrics, name, horizon, ours, np.broadcast_to(theirs, ours.shape), valid, bootstrap)
        if name != "mean_reward":
            _ends(metrics, name, samples, came, known, bootstrap)
    return metrics, {}


def _returns(
    metrics: dict[str, float | int], name: str, horizon: int, ours_KS: np.ndarray, theirs_KS: np.ndarray,
    valid_K: np.ndarray, bootstrap: Bootstrap,
) -> None:  # fmt: skip
    there = np.broadcast_to(valid_K[:, None], ours_KS.shape)

    def total(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return bootstrap.sums(np.where(there, values, 0.0).sum(1))

    n, x, y, xx, yy, xy = map(
        total, (np.ones_like(ours_KS), ours_KS, theirs_KS, ours_KS**2, theirs_KS**2, ours_KS * theirs_KS)
    )
    error = total((ours_KS - theirs_KS) ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        rms = [np.sqrt(e / count) for e, count in zip(error, n, strict=True)]
        add(metrics, f"{name}/return_error@{horizon}", bootstrap.estimate(rms[0], rms[1]))
        if name == "mean_reward":
            return
        correlations = []
        for k in range(2):
            spread = (n[k] * xx[k] - x[k] ** 2) * (n[k] * yy[k] - y[k] ** 2)
            correlations.append((n[k] * xy[k] - x[k] * y[k]) / np.sqrt(np.where(spread > 0, spread, np.nan)))
    add(metrics, f"{name}/return_correlation@{horizon}", bootstrap.estimate(*map(np.asarray, correlations)))


def _ends(
    metrics: dict[str, float | int], name: str, told: Told, came: Told, known_KH: np.ndarray, bootstrap: Bootstrap
) -> None:
    H = known_KH.shape[1]
    ours, theirs = told.first_end(), came.first_end()[:, None]
    # What is said to end where nobody knows any more is not judged.
    ours = np.where(ours < known_KH.sum(1)[:, None], ours, H)
    hits = ((np.abs(ours - theirs) <= NEAR) & (ours < H) & (theirs < H)).sum(1).astype(float)
    add(metrics, f"{name}/end_precision", bootstrap.ratio(hits, (ours < H).sum(1).astype(float)))
    there = np.broadcast_to(theirs < H, ours.shape)
    add(metrics, f"{name}/end_recall", bootstrap.ratio(hits, there.sum(1).astype(float)))
    add(metrics, f"{name}/end_calibration_error", calibration_error(told.ends, came.ends, known_KH, bootstrap))


def calibration_error(
    chance_KSH: np.ndarray, ended_KH: np.ndarray, known_KH: np.ndarray, bootstrap: Bootstrap
) -> Estimate:
    """Mean over frames of the difference between the mean probability in a bin and the share that had ended."""
    bins = (chance_KSH * BINS).astype(int).clip(0, BINS - 1)
    known, ended = (np.broadcast_to(part[:, None], bins.shape) for part in (known_KH, ended_KH))
    sums = list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]()
    for number in range(BINS):
        here = known & (bins == number)
        off, off_R = bootstrap.sums(np.where(here, chance_KSH - ended, 0.0).sum((1, 2)))
        sums.append((np.abs(off), np.abs(off_R), *bootstrap.sums(here.sum((1, 2)).astype(float))))
    missed, missed_R, count, count_R = (np.sum(part, axis=0) for part in zip(*sums, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        return bootstrap.estimate(np.asarray(missed / count), np.asarray(missed_R / count_R))
