"""Can small networks tell generated frames from true ones? Looks cannot be bought with blur, as errors can.

They see single crops of what moves, each round its own object, from generated frames and from reconstructed ones (true frames
through the VAE, so that the VAE's own blur says nothing) of the same episodes and times. Half of the episodes train them, the
others test them: an accuracy of 0.5 is right. The simulator with its noise redrawn, through the VAE, must come to 0.5 against
itself with its noise redrawn once more: that tests the test. (Recorded frames would not quite do: whoever chose the actions
looked at them.) Axes: K episodes, T frames, N crops.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from oniris_core.common.process import StopRequest
from oniris_core.evaluation.probes.small_cnn import apply, crops, fit
from oniris_core.evaluation.probes.states.reader import StateReader
from oniris_core.evaluation.rollouts.replays import Progress
from oniris_core.evaluation.rollouts.rollouts import Rollouts
from oniris_core.evaluation.scores.intervals import Bootstrap, Estimate, add

FIRST_HORIZON, LAST_HORIZON = 4, 32
MOVING = 24
"""Difference from the episode's median frame, of any colour, in grey levels, that counts as moving without a reader."""
NO_PAIRS = (
    "in one half of the episodes there is no frame, 4 to 32 after the context, in which both videos show what moves"
)
NO_SIMULATOR = "there is no simulator to compare with"


@dataclass(frozen=True)
class Pairs:
    """Crops of the same episodes and times, uint8 [N, s, s, 3]: reconstructed and generated, or what stands for that.

    Attributes:
        real, made: the crops.
        episodes, horizons: int64 [N], of both.
    """

    real: np.ndarray
    made: np.ndarray
    episodes: np.ndarray
    horizons: np.ndarray

    def of(self, where: np.ndarray) -> "Pairs":
        """Those that are asked for, bool or int [N]."""
        return Pairs(self.real[where], self.made[where], self.episodes[where], self.horizons[where])


@dataclass(frozen=True)
class Verdict:
    """What the networks said of test pairs.

    Attributes:
        accuracy: share of the crops, of both kinds alike, that they called by their right name.
        pairs: those tested.
        surprise: float [N], how much more they hold the made crop to be made than the real one; above 0 they are right.
    """

    accuracy: Estimate
    pairs: Pairs
    surprise: np.ndarray


def find_pairs(
    real: np.ndarray, made: np.ndarray, where: np.ndarray, context: int, reader: StateReader | None
) -> Pairs:
    """Crops round what moves in real frames and in made ones, where both show it.

    A frame without the object is not looked at: what is lost is counted by `found`, and charged for by the errors.

    Args:
        real, made: uint8 [K, T, H, W, 3].
        where: bool [K, T], where there is something to compare, at least in the context.
        context: frames of context.
        reader: of the environment's frames; without one a crop is taken round the centre of all that differs from the
            median of the real frames.
    """
    first, last = context + FIRST_HORIZON - 1, context + LAST_HORIZON
    height, width = made.shape[2:4]
    screen = (width, height) if reader is None else reader.screen
    found = []
    for k, alive in enumerate(where):
        times = np.flatnonzero(alive[first:last]) + first
        both = real[k, times], made[k, times]
        if reader is None:
            background = np.median(real[k, alive], axis=0)
            centres = [_moving(frames, background) for frames in both]
        else:
            centres = [reader.locate(frames) for frames in both]
        seen = np.isfinite(centres).all((0, 2))
        horizons = times[seen] - context + 1
        one, other = (crops(f[seen], c[seen], screen) for f, c in zip(both, centres, strict=True))
        found.append(Pairs(one, other, np.full(len(horizons), k), horizons))
    return Pairs(*(np.concatenate([getattr(part, name) for part in found]) for name in vars(found[0])))


def _moving(frames: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Centres [T, 2] of what differs from the background, pixels; NaN where nothing does."""
    mask = (np.abs(frames.astype(np.float32) - background) > MOVING).any(-1)
    count = np.maximum(mask.sum((1, 2)), 1)
    y, x = (
        (mask.sum(axis) * (np.arange(size) + 0.5)).sum(1) / count
        for axis, size in zip((2, 1), mask.shape[1:], strict=True)
    )
    return np.where(mask.any((1, 2))[:, None], np.stack([x, y], axis=-1), np.nan)


def going_on(frames: np.ndarray, c: int) -> np.ndarray:
    """Bool [K, T]: the whole groups of c in which replays [K, T, ...] still go on; one that has ended repeats its last frame.

    True frames are looked at only as far as their episode has whole groups; so must be those they are compared with.
    """
    last = (frames == frames[:, -1:]).all((2, 3, 4))
    last = np.logical_and.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    repeated = np.concatenate([np.zeros_like(last[:, :1]), last[:, :-1]], axis=1)
    return ~repeated.reshape(len(frames), -1, c).any(2).repeat(c, 1)


def tell_apart(
    pairs: Pairs,
    bootstrap: Bootstrap,
    *,
    probes: int,
    steps: int,
    seed: int,
    device: torch.device,
    tick: Callable[[], None],
) -> Verdict | None:
    """Train `probes` networks on the pairs of every other episode and ask them, averaged, about the others.

    None where either half of the episodes has no pair.
    """
    trained_on = pairs.episodes % 2 == 0
    if trained_on.all() or not trained_on.any():
        return None
    training, test = pairs.of(trained_on), pairs.of(~trained_on)
    images = np.concatenate([training.real, training.made])
    is_made = torch.arange(len(images), device=device) >= len(training.real)
    target = is_made.float()[:, None]

    def loss(outputs: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(outputs, target[chosen])

    nets = [
        fit(images, 1, loss, steps=steps, seed=seed, purpose=f"told_apart/{i}", device=device, tick=tick)
        for i in range(probes)
    ]
    real, made = (
        np.mean([apply(net, kind, device)[1][:, 0] for net in nets], axis=0) for kind in (test.real, test.made)
    )
    right = ((real < 0).astype(float) + (made > 0)) / 2
    counts = [
        np.bincount(test.episodes, weights, minlength=bootstrap.episodes).astype(float)
        for weights in (right, np.ones_like(right))
    ]
    return Verdict(bootstrap.ratio(*counts), test, made - real)


def measure_told_apart(
    rollouts: Rollouts, simulated: tuple[np.ndarray, np.ndarray] | None, reader: StateReader | None, c: int,
    bootstrap: Bootstrap, *, probes: int, steps: int, seed: int, device: torch.device, progress: Progress, stop: StopRequest,
) -> tuple[dict[str, float | int], dict[str, str], Verdict | None]:  # fmt: skip
    """`told_apart/accuracy` of the first samples and `told_apart/simulator`, what is left out and why, and the first verdict.

    Args:
        rollouts: what was generated.
        simulated: two of uint8 [K, T, H, W, 3], the simulator with its noise drawn anew, through the VAE; None without one.
        reader: of the environment's frames.
        c: frames of a group.
        bootstrap: over the episodes.
        probes, steps: how many networks, and of how many training steps.
        seed: of the networks.
        device: where to compute.
        progress: makes a meter.
        stop: looked at between two steps.
    """
    metrics: dict[str, float | int] = {}
    left_out: dict[str, str] = {}
    videos = {"accuracy": (rollouts.reconstructed, rollouts.generated, rollouts.alive)}
    if simulated is None:
        left_out["told_apart/simulator"] = NO_SIMULATOR
    else:
        one, other = simulated
        videos["simulator"] = (one, other, rollouts.alive & going_on(one, c) & going_on(other, c))
    verdicts = dict[str, Verdict | None]()
    with progress("render: steps of the networks that tell apart", len(videos) * probes * steps) as meter:

        def tick() -> None:
            stop.raise_if_set()
            meter.advance()

        for name, (real, made, where) in videos.items():
            pairs = find_pairs(real, made, where, rollouts.context, reader)
            verdict = tell_apart(pairs, bootstrap, probes=probes, steps=steps, seed=seed, device=device, tick=tick)
            verdicts[name] = verdict
            if verdict is None:
                left_out[f"told_apart/{name}"] = NO_PAIRS
            else:
                add(metrics, f"told_apart/{name}", verdict.accuracy)
    return metrics, left_out, verdicts["accuracy"]
