"""The frozen evaluation set: which held-out episodes are continued, and all it takes to make them again by replay.

Axes: K episodes, T frames of context and horizon, in groups of c (see `oniris_core.data.episodes.groups`), R rows.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.data.episodes.groups import group_count, group_rows
from oniris_core.data.episodes.store import EpisodeStore
from oniris_core.data.rows.clips import HELD_OUT, TRAIN


@dataclass(frozen=True)
class EvaluationSet:
    """Held-out episodes, cut to context and horizon; an episode that ends before stands still at its last frame.

    Attributes:
        episodes: int64 [K], their numbers in the store.
        seeds: int64 [K], their reset seeds.
        groups: int64 [K], whole groups an episode has of the context and horizon.
        truth: uint8 [K, T, H, W, 3].
        actions: [K, T, ...], what led to each frame.
        alive: bool [K, T], false where the episode has ended.
        context: frames of context.
        c: frames of a group.
        row_actions: [R, ...] of each episode, the actions of its rows up to the horizon: also of those after its last whole
            group, which is where it may have ended.
    """

    episodes: np.ndarray
    seeds: np.ndarray
    groups: np.ndarray
    truth: np.ndarray
    actions: np.ndarray
    alive: np.ndarray
    context: int
    c: int
    row_actions: tuple[np.ndarray, ...]

    @property
    def rows(self) -> np.ndarray:
        """int64 [T]: the row, within its episode, of each frame."""
        return group_rows(0, self.truth.shape[1] // self.c, self.c)

    @property
    def last_context_row(self) -> int:
        """The row at which the context ends."""
        return int(self.rows[self.context - 1])

    def frames_of(self, played: np.ndarray) -> np.ndarray:
        """uint8 [T, H, W, 3]: the rows of a replay, laid out as `truth` is."""
        return played[np.minimum(self.rows, len(played) - 1)]

    def digest(self, k: int, frames: np.ndarray) -> str:
        """SHA-256 of the frames [T, H, W, 3] of episode k, as far as it goes on."""
        return hashlib.sha256(np.ascontiguousarray(frames[self.alive[k]]).tobytes()).hexdigest()

    def to_json(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """What the set is and how it was recorded; `attributes` are those of the episode store."""
        params = attributes.get("params") or {}
        cadence = {name: params.get(name) for name in ("frame_skip", "frames_per_action", "resize")}
        return {
            "env_id": attributes.get("env_id"),
            "env_kwargs": attributes.get("env_kwargs"),
            "wrappers": params.get("wrappers"),
            "versions": attributes.get("versions"),
            "cadence": {**cadence, "size": list(self.truth.shape[2:4])},
            "context_rows": self.last_context_row + 1,
            "seeds": self.seeds.tolist(),
            "actions": [self.row_actions[k].tolist() for k in range(len(self.seeds))],
            "truth_sha256": [self.digest(k, frames) for k, frames in enumerate(self.truth)],
        }


def choose_episodes(store: EpisodeStore, count: int, context: int, horizon: int, c: int) -> np.ndarray:
    """The first `count` held-out episodes of at least the context and one more group; all of them if there are fewer.

    Args:
        store: the episodes.
        count: how many at most.
        context, horizon: groups.
        c: frames of a group.

    Raises:
        UserError: there are none, or every one ends before the horizon.
    """
    held_out = store.episodes(HELD_OUT)
    if not len(held_out):
        raise UserError("there are no held-out episodes to continue: is collect.held_out_share 0?")
    lengths = np.array([group_count(end - start, c) for start, end in map(store.bounds, held_out)])
    usable = held_out[lengths > context]
    if not len(usable):
        raise UserError(
            f"render.context_latents = {context} leaves nothing to generate: the longest held-out episode has "
            f"{lengths.max()} latent frames; lower it"
        )
    if lengths.max() < context + horizon:
        raise UserError(
            f"render.horizon = {horizon * c} is longer than every held-out episode: after the context of {context * c} "
            f"frames the longest goes on for {(lengths.max() - context) * c}; lower it"
        )
    return usable[:count]


def evaluation_set(store: EpisodeStore, count: int, context: int, horizon: int, c: int) -> EvaluationSet:
    """Read the evaluation set; arguments and errors as for `choose_episodes`.

    Raises:
        UserError: also if an episode of it was trained on.
    """
    chosen = choose_episodes(store, count, context, horizon, c)
    seeds = store.episode_seed[chosen]
    if store.attributes.get("env_id") is not None:
        trained_on = np.intersect1d(seeds, store.episode_seed[store.split == TRAIN])
        if len(trained_on):
            raise UserError(
                f"the held-out episode of seed {trained_on[0]} is in the training data too: collect it again"
            )
    rows = group_rows(0, context + horizon, c)
    groups, truth, actions, row_actions = [], [], [], []
    for start, end in map(store.bounds, chosen):
        groups.append(min(group_count(end - start, c), context + horizon))
        taken = start + np.minimum(rows, rows[groups[-1] * c - 1])
        truth.append(store.frames[taken[0] : taken[-1] + 1][taken - start])
        actions.append(store.actions[taken])
        row_actions.append(store.actions[start : min(end, start + int(rows[-1]) + 1)])
    alive = np.arange((context + horizon) * c) < np.array(groups)[:, None] * c
    return EvaluationSet(
        chosen, seeds, np.array(groups), np.stack(truth), np.stack(actions), alive, context * c, c,
        tuple(row_actions),
    )  # fmt: skip
