"""What every reader of recorded data makes of its files: recordings of frames and of the steps between them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from oniris_core.data.rows.actions import ActionSpec

MAX_BYTES = 4 * 2**30
"""No array of a recording may declare more than this: whoever wrote the file does not decide over our memory."""

MAX_TEXT = 2**27
"""Bytes of a file of text, which takes far more room once it is read: an hour of sixty actions a second, fifty numbers each."""

MAX_LINE = 2**20
"""Characters of a line of text."""

MAX_PIXELS = 2**26
"""Of one frame; twice an 8K picture."""


@dataclass(frozen=True)
class Recording:
    """One recording of T frames. Step k leads from frame k to frame k+1.

    Attributes:
        frames: uint8 [H, W, 3] each, T of them, all of one size; raises UserError where the files hold fewer or more.
        actions: [T-1] or [T-1, components], as the files have them; or T of them, where the last one leads to no frame.
        rewards: float32, as many as actions.
        terminated: bool, as many as actions.
        states: float32 [T, S].
    """

    frames: Iterable[np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    states: np.ndarray

    @staticmethod
    def plain(frames: Iterable[np.ndarray], actions: np.ndarray) -> "Recording":
        """A recording of which only frames and actions are known."""
        steps = len(actions)
        zeros = np.zeros(steps, np.float32)
        return Recording(frames, actions, zeros, zeros.astype(bool), np.zeros((steps + 1, 0), np.float32))

    def lagging(self, lag: int) -> "Recording":
        """The recording if every action takes effect `lag` frames later than it seems, or earlier where that is negative.

        Frames that no recorded action leads to are left out: the first `lag` ones, or the last ones.
        """
        if lag <= 0:
            steps = len(self.actions) + lag
            rewards, terminated = self.rewards[: max(steps, 0)], self.terminated[: max(steps, 0)]
            return replace(self, actions=self.actions[-lag:], rewards=rewards, terminated=terminated)
        count = max(len(self.actions) - lag, 0)
        return Recording(
            islice(self.frames, lag, None),
            self.actions[:count],
            self.rewards[lag:],
            self.terminated[lag:],
            self.states[lag:],
        )


@dataclass(frozen=True)
class Files:
    """The files of a source.

    Attributes:
        root: the folder they are in.
        of: by name of the recording, in order.
        shared: files that describe all of them.
    """

    root: Path
    of: Mapping[str, tuple[Path, ...]]
    shared: tuple[Path, ...] = field(default=())

    @property
    def all(self) -> list[Path]:
        """Every file, each once."""
        return list(dict.fromkeys([*self.shared, *(file for files in self.of.values() for file in files)]))


class Source(Protocol):
    """A set of recordings in one layout.

    Attributes:
        files: what it reads.
        frame_rate: frames per second, or None where the source does not say.
        declared: the action space, where the source has a fixed one or says so itself.
        cameras: what `collect.recording_camera` may name, the chosen one first; empty where there is nothing to choose.
        notes: what was done to the frames that a person may not expect, one clause each.
    """

    files: Files
    frame_rate: float | None
    declared: ActionSpec | None
    cameras: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def flattened_from(self) -> dict[str, Any] | None:
        """The space whose actions are laid out as rows of numbers, as `flat_actions.describe_space` says it; mostly None."""

    def size(self, name: str) -> tuple[int, int]:
        """Height and width of a recording's frames, pixels, without reading them all."""

    def actions(self, name: str) -> np.ndarray:
        """All actions in a recording's files, also one that leads to no frame of it."""

    def read(self, name: str) -> Recording:
        """A recording; its frames are read as they are asked for."""
