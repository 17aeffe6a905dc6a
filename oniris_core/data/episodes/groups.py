"""How the rows of an episode form groups, the frames that one latent frame stands for.

The rule: group 0 is the reset row, repeated c times; group g >= 1 holds rows (g-1)c+1 .. gc, so that it starts just
after the reset and stays in step with actions that are held for c rows; rows after the last whole group are dropped.

An episode may be told to stand still for some groups after its end: its last row fills up the group it is in, and the
groups after that.
"""

from typing import Any

import numpy as np


def group_count(rows: int, c: int, still: int = 0) -> int:
    """Number of groups of an episode of `rows` rows at time compression `c`, which stands still for `still` more."""
    return 1 + (rows - 1) // c if not still else 1 - (1 - rows) // c + still


def group_rows(first: int, count: int, c: int) -> np.ndarray:
    """int64 [count * c]: the rows, within the episode, of groups first .. first+count-1."""
    return np.maximum(np.arange(first * c, (first + count) * c) - (c - 1), 0)


def read_groups(frames: Any, start: int, first: int, count: int, c: int, rows_in_all: int | None = None) -> np.ndarray:
    """[count * c, ...]: groups first .. first+count-1 of the episode whose row 0 is row `start` of `frames`.

    `frames` is in memory or on disk; no other rows are read. With `rows_in_all` the last of so many rows stands still.
    """
    rows = group_rows(first, count, c)
    if rows_in_all is not None:
        rows = rows.clip(max=rows_in_all - 1)
    # Rows are increasing and dense (the reset may repeat): one slice, then a gather in memory.
    return frames[start + rows[0] : start + rows[-1] + 1][rows - rows[0]]


def group_outcomes(rewards: np.ndarray, terminated: bool, count: int, c: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the c frames of each of `count` groups of an episode: float32 and bool [count, c].

    Args:
        rewards: [T], of its rows; row 0 is the reset and earned nothing.
        terminated: whether the environment itself ended it, at its last row.
        count: from `group_count`.
        c: frames of a group.

    Returns:
        The rewards, 0 where it stands still; and whether it has ended at or before each frame.
    """
    rows = group_rows(0, count, c)
    won = np.where((rows > 0) & (rows < len(rewards)), rewards[rows.clip(max=len(rewards) - 1)], 0)
    ended = terminated & (rows >= len(rewards) - 1)
    return won.reshape(count, c).astype(np.float32), ended.reshape(count, c)


def group_actions(actions: np.ndarray, count: int, c: int, rng: np.random.Generator) -> np.ndarray:
    """[count, c, ...]: the actions that led to the rows of `count` groups of an episode.

    Where it stands still after its end nothing that is done matters: actions of the episode itself, drawn at random.

    Args:
        actions: [T, ...], of its rows.
        count: from `group_count`.
        c: frames of a group.
        rng: for the drawing.
    """
    rows = group_rows(0, count, c)
    after = rows >= len(actions)
    rows[after] = rng.integers(min(1, len(actions) - 1), len(actions), size=int(after.sum()))
    return actions[rows].reshape(count, c, *actions.shape[1:])
