"""How the rows of an episode form groups, the frames that one latent frame stands for.

The rule: group 0 is the reset row, repeated c times; group g >= 1 holds rows (g-1)c+1 .. gc, so that it starts just
after the reset and stays in step with actions that are held for c rows; rows after the last whole group are dropped.
"""

from typing import Any

import numpy as np


def group_count(rows: int, c: int) -> int:
    """Number of groups of an episode of `rows` rows at time compression `c`."""
    return 1 + (rows - 1) // c


def group_rows(first: int, count: int, c: int) -> np.ndarray:
    """int64 [count * c]: the rows, within the episode, of groups first .. first+count-1."""
    return np.maximum(np.arange(first * c, (first + count) * c) - (c - 1), 0)


def read_groups(frames: Any, start: int, first: int, count: int, c: int) -> np.ndarray:
    """[count * c, ...]: groups first .. first+count-1 of the episode whose row 0 is row `start` of `frames`.

    `frames` is in memory or on disk; no other rows are read.
    """
    rows = group_rows(first, count, c)
    # Rows are increasing and dense (the reset may repeat): one slice, then a gather in memory.
    return frames[start + rows[0] : start + rows[-1] + 1][rows - rows[0]]
