"""Whether actions lie at the right rows: a small inverse-dynamics probe reads them off the frames, at several offsets.

The classic fault of recorded data is off by one. So the action of row i + d is predicted from what happens between the frames
before row i and frame i, for each offset d; that of the stored rows is d = 0. What happens is described by coarse brightness
and, in each cell of a grid, by the products of gradients in space and time from which motion follows (Lucas and Kanade,
1981). The prediction is linear (ridge regression); its score is the share of the actions' variance that it explains in rows it
was not fitted on. The step before is left out on purpose: with it, actions one row late would be read just as well.

Axes: N rows, H W, A features of actions.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from oniris_core.data.episodes.episode import Episode
from oniris_core.data.rows.actions import ActionSpec

OFFSETS = (-2, -1, 0, 1, 2)
SIDE, CELLS, FOLDS = 32, 4, 5
MIN_ROWS, MAX_ROWS = 120, 6000
RIDGES = (0.03, 0.3, 3.0)
MARGIN = 0.05
"""An offset is better if it explains this share of the variance more, in all folds but one."""


@dataclass(frozen=True)
class Scores:
    """What the probe found: by offset, the share of variance explained in each fold, [FOLDS]."""

    of: dict[int, np.ndarray]

    @property
    def better(self) -> int:
        """The offset at which the actions explain the frames clearly better than where they are; 0: none does."""
        best = max(self.of, key=lambda offset: float(self.of[offset].mean()))
        gain = self.of[best] - self.of[0]
        return best if gain.mean() > MARGIN and (gain > 0).sum() >= FOLDS - 1 else 0


def warning(episodes: list[tuple[np.ndarray, np.ndarray]], lag: int, frame_skip: int) -> str:
    """What to tell a person whose actions explain the frames better at another offset; empty where they do not.

    Args:
        episodes: as for `offset_scores`.
        lag: `collect.recording_action_lag` as it is set.
        frame_skip: frames of the recordings from one row to the next.
    """
    scores = offset_scores(episodes)
    if scores is None or not scores.better:
        return ""
    rows, where = abs(scores.better), "earlier" if scores.better > 0 else "later"
    why = "an effect cannot come before its cause" if scores.better > 0 else "unless the world itself answers late"
    return (
        f"the actions explain the frames better {rows} row{'s' * (rows > 1)} {where}: {scores.of[scores.better].mean():.0%} of "
        f"their variance is read off the frames there, {scores.of[0].mean():.0%} where they are; {why}, set "
        f"collect.recording_action_lag: {lag - scores.better * frame_skip}"
    )


def probed(episodes: Iterable[Episode], spec: ActionSpec) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the probe needs of as many episodes as it uses."""
    found, rows = list[tuple[np.ndarray, np.ndarray]](), 0
    for episode in episodes:
        found.append((np.stack([small(frame) for frame in episode.frames]), spec.encode(episode.actions)))
        rows += len(episode.frames)
        if rows >= MAX_ROWS:
            break
    return found


def small(frame: np.ndarray) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3], enough of a frame for the probe."""
    return np.asarray(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BOX))


def offset_scores(episodes: list[tuple[np.ndarray, np.ndarray]]) -> Scores | None:
    """The probe's scores; None where there are too few rows, or the actions never change.

    Args:
        episodes: (frames from `small` [N, SIDE, SIDE, 3], features of the actions that led to them [N, A]) of each.
    """
    reach, inputs, targets, rows = max(OFFSETS), list[np.ndarray](), list[np.ndarray](), 0
    for frames, actions in episodes:
        middle = slice(
            reach + 1,  # row 0 has a filler
            len(frames) - reach,
        )
        if len(frames) <= 2 * reach + 1 or rows >= MAX_ROWS:
            continue
        inputs.append(_happened(frames)[middle])
        targets.append(np.stack([actions[middle.start + d : middle.stop + d] for d in OFFSETS]))
        rows += len(inputs[-1])
    if rows < MIN_ROWS:
        return None
    x_NF, y_ONA = np.concatenate(inputs)[:MAX_ROWS], np.concatenate(targets, 1)[:, :MAX_ROWS]
    if not y_ONA[OFFSETS.index(0)].var(0).any():
        return None
    x_NF = (x_NF - x_NF.mean(0)) / np.maximum(x_NF.std(0), 1e-6)
    return Scores({d: _explained(x_NF, y_ONA[k]) for k, d in enumerate(OFFSETS)})


def _happened(frames: np.ndarray) -> np.ndarray:
    """float32 [N, F]: what happened from the frame before to each frame; nothing for the first."""
    grey_NHW = frames.mean(-1, dtype=np.float32) / 255
    step = np.diff(grey_NHW, axis=0, prepend=grey_NHW[:1])
    middle = (grey_NHW + np.concatenate([grey_NHW[:1], grey_NHW[:-1]])) / 2
    down, across = np.gradient(middle, axis=(1, 2))
    parts = [grey_NHW, step, step * across, step * down]
    cells = np.concatenate([_in_cells(part) for part in parts], 1)
    flow = np.concatenate(
        [
            _in_cells(step * across) / (_in_cells(across**2) + 1e-4),
            _in_cells(step * down) / (_in_cells(down**2) + 1e-4),
        ],
        1,
    )
    colour = frames.reshape(len(frames), -1, 3).mean(1, dtype=np.float32) / 255
    return np.concatenate([cells, flow, colour], 1)


def _in_cells(values_NHW: np.ndarray) -> np.ndarray:
    side = SIDE // CELLS
    return values_NHW.reshape(len(values_NHW), CELLS, side, CELLS, side).mean((2, 4)).reshape(len(values_NHW), -1)


def _explained(x_NF: np.ndarray, y_NA: np.ndarray) -> np.ndarray:
    """float64 [FOLDS]: the share of variance explained in consecutive fifths of the rows, each fitted on the others."""
    parts = np.array_split(np.arange(len(x_NF)), FOLDS)
    found = {ridge: [_of_part(x_NF, y_NA, part, ridge) for part in parts] for ridge in RIDGES}
    return np.array(max(found.values(), key=lambda shares: float(np.mean(shares))))


def _of_part(x_NF: np.ndarray, y_NA: np.ndarray, part: np.ndarray, ridge: float) -> float:
    fitted = np.ones(len(x_NF), bool)
    fitted[part] = False
    x, mean = x_NF[fitted], y_NA[fitted].mean(0)
    weights = np.linalg.solve(x.T @ x + ridge * len(x) * np.eye(x.shape[1]), x.T @ (y_NA[fitted] - mean))
    wrong = ((y_NA[part] - mean - x_NF[part] @ weights) ** 2).sum()
    return float(1 - wrong / max(((y_NA[part] - mean) ** 2).sum(), 1e-12))
