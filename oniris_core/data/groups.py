"""How the rows of an episode form groups, the frames that one latent frame stands for.

The rule: group 0 is the reset row, repeated c times; group g >= 1 holds rows (g-1)c+1 .. gc, so that it starts just
after the reset and stays in step with actions that are held for c rows; rows after the last whole group are dropped.
"""

import numpy as np


def group_count(rows: int, c: int) -> int:
    """Number of groups of an episode of `rows` rows at time compression `c`."""
    return 1 + (rows - 1) // c


def group_rows(first: int, count: int, c: int) -> np.ndarray:
    """int64 [count * c]: the rows, within the episode, of groups first .. first+count-1."""
    return np.maximum(np.arange(first * c, (first + count) * c) - (c - 1), 0)
