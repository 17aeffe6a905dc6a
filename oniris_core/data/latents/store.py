"""The latent store `data/latents.zarr`: one row per group of frames (see `groups` for the rule).

`data/latents` float16 [M, C, h, w], as the encoder gives them; `data/actions` [M, c, ...], the c actions that led to the
group's frames, in order (group 0: fillers); `data/rewards` float32 and `data/ended` bool [M, c], what each of its frames
earned and whether the episode has ended by then; the same meta as the episode store. Attributes: per-channel `mean` and `std`
over the training episodes, `change_std` (of the standardised latents from one group to the next), the identity of the
VAE, the compression, and what the episode store said of its environment.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from oniris_core.common.artefacts.remote import Location
from oniris_core.common.errors import UserError
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.data.rows.zarrs import (
    RowWriter,
    add_rows,
    add_small,
    array,
    finish,
    new_store,
    open_store,
    preload,
    read,
)

KIND = "latents"
FORMAT = 2
"""Of the store: 1 had no rewards and ends."""


@dataclass(frozen=True)
class LatentStore:
    """A checked latent store.

    Attributes:
        latents: float16 [M, C, h, w], in memory or on disk; read it by slicing.
        actions: [M, c] or [M, c, components].
        episode_ends, episode_seed: int64 [E], in latent frames.
        split: uint8 [E].
        mean, std: float32 [C], of the training latents.
        change_std: standard deviation of the change from one standardised latent frame to the next.
        vae_identity: digest of the VAE that made them.
        action_spec: what the actions mean.
        attributes: everything that was recorded.
        identity: digest of the store's bytes.
        rewards: float32 [M, c], of each frame; 0 for the reset and where an episode stands still after its end.
        ended: bool [M, c], whether the environment has ended the episode at or before each frame.
    """

    latents: Any
    actions: np.ndarray
    episode_ends: np.ndarray
    episode_seed: np.ndarray
    split: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    change_std: float
    vae_identity: str
    action_spec: ActionSpec
    attributes: dict[str, Any]
    identity: str
    rewards: np.ndarray
    ended: np.ndarray

    def bounds(self, episode: int) -> tuple[int, int]:
        """First latent frame and the one after the last of an episode."""
        return int(self.episode_ends[episode - 1]) if episode else 0, int(self.episode_ends[episode])

    def standardised(self, first: int, end: int) -> np.ndarray:
        """float32 [end-first, C, h, w]: latent frames with zero mean and unit variance per channel."""
        raw = self.latents[first:end].astype(np.float32)
        return (raw - self.mean[:, None, None]) / self.std[:, None, None]


@dataclass(frozen=True)
class LatentStatistics:
    """What is known of a store's training latents.

    Attributes:
        mean, std: float64 [C], per channel.
        change_std: standard deviation of the change from one standardised latent frame to the next.
    """

    mean: np.ndarray
    std: np.ndarray
    change_std: float

    def collapsed(self, share: float) -> list[int]:
        """The channels whose standard deviation is below `share` of the largest: they carry next to nothing."""
        return np.flatnonzero(self.std < share * self.std.max()).tolist()


class RunningStatistics:
    """Running sums of latents, in double precision, one episode at a time."""

    def __init__(self, channels: int):
        self._count = self._changes = 0
        self._sum, self._squares, self._change = np.zeros(channels), np.zeros(channels), np.zeros(channels)

    def add(self, latents: np.ndarray) -> None:
        """Count the latents [T, C, h, w] of one episode."""
        x = latents.astype(np.float64)
        self._count += x[:, 0].size
        self._sum += x.sum((0, 2, 3))
        self._squares += (x**2).sum((0, 2, 3))
        self._changes += x[1:, 0].size
        self._change += (np.diff(x, axis=0) ** 2).sum((0, 2, 3))

    def result(self) -> LatentStatistics:
        """Of all latents added so far."""
        mean = self._sum / self._count
        std = np.sqrt(np.maximum(self._squares / self._count - mean**2, 1e-12))
        change = np.sqrt((self._change / max(self._changes, 1) / std**2).mean())
        return LatentStatistics(mean, std, float(max(change, 1e-3)))


def write_latents(
    out: Location,
    episodes: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    ends: np.ndarray,
    seeds: np.ndarray,
    split: np.ndarray,
    attributes: dict[str, Any],
) -> LatentStatistics:
    """Write a latent store; statistics are taken from the training episodes as they pass.

    Args:
        out: the folder or URL; replaced at once when all is written.
        episodes: (latents float16 [T, C, h, w], actions [T, c, ...], rewards float32 and ended bool [T, c]) in order;
            consumed one by one.
        ends, seeds, split: [E], in latent frames.
        attributes: recorded as they are, JSON values; the statistics and `complete` are added.

    Returns:
        The statistics, which stand in the store's attributes too.
    """
    with new_store(out, KIND) as group:
        writer, statistics = None, None
        small: dict[str, list[np.ndarray]] = {"actions": [], "rewards": [], "ended": []}
        for is_held_out, (latents, *others) in zip(split, episodes, strict=True):
            if writer is None or statistics is None:
                writer = RowWriter(add_rows(group, "data/latents", (int(ends[-1]), *latents.shape[1:]), np.float16))
                statistics = RunningStatistics(latents.shape[1])
            writer.append(latents)
            for values, of_episode in zip(small.values(), others, strict=True):
                values.append(of_episode)
            if not is_held_out:
                statistics.add(latents)
        assert writer is not None
        assert statistics is not None
        writer.close()
        for name, values in small.items():
            add_small(group, f"data/{name}", np.concatenate(values))
        add_small(group, "meta/episode_ends", ends)
        add_small(group, "meta/episode_seed", seeds)
        add_small(group, "meta/split", split)
        found = statistics.result()
        mean, std = found.mean.tolist(), found.std.tolist()
        finish(group, {**attributes, "format": FORMAT, "mean": mean, "std": std, "change_std": found.change_std})
    return found


def refuse_other_episodes(latents: LatentStore, named: Location, identity: str, episodes: Location) -> None:
    """Raise UserError unless latents, `named` so, were made from the store `episodes`, whose bytes have this `identity`."""
    if latents.attributes["episodes_identity"] != identity:
        raise UserError(f"{named} was not made from {episodes}: run `dvc repro encode` to make it again")


def open_latents(path: Location) -> LatentStore:
    """Open and check a latent store.

    Raises:
        UserError: missing, damaged, not complete, or not a latent store.
    """
    group, identity = open_store(path, KIND, made_by="encode")
    attributes: dict[str, Any] = dict(group.attrs)
    if attributes.get("complete") is not True:
        raise UserError(f"{path} is not complete: run `dvc repro encode` to make it again")
    if (found := attributes.get("format", 1)) != FORMAT:
        raise UserError(
            f"{path} is a latent store of format {found}, this version of Oniris reads format {FORMAT}: "
            "make it again with `dvc repro encode`"
        )
    latents, ends = array(group, "data/latents"), read(group, "meta/episode_ends")
    if not len(ends) or latents.shape[0] != ends[-1]:
        raise UserError(f"{path}: {latents.shape[0]} latent frames, but episodes end at {ends[-1:]}")
    return LatentStore(
        preload(latents), read(group, "data/actions"), ends, read(group, "meta/episode_seed"), read(group, "meta/split"),
        np.asarray(attributes["mean"], np.float32), np.asarray(attributes["std"], np.float32), float(attributes["change_std"]),
        attributes["vae_identity"], ActionSpec.from_json(attributes["action_spec"]), attributes, identity,
        read(group, "data/rewards"), read(group, "data/ended"),
    )  # fmt: skip
