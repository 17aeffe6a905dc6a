"""What was played, as files: a video to look at, and episodes that `collect` reads (docs/recordings.md, source npz).

played/
  videos/0001.mp4        what was seen: the dream, and the truth to its right
  dream/0001.npz         the episode as it was dreamt
  simulator/0001.npz     the episode as it truly went, up to its end
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oniris_core.common.artefacts.files import atomic_write
from oniris_core.common.errors import OnirisError
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.evaluation.report.videos import write_video

_SIDE = 384  # least height of a video, pixels
_NAMES = 10_000


@dataclass(frozen=True)
class Played:
    """An episode that was played, T frames from its reset on. Row i: a frame and the action that led to it; row 0: a filler.

    Attributes:
        frames: uint8 [T, H, W, 3].
        actions: [T] or [T, components].
        rewards: float32 [T]; None where nobody knows them.
        terminated: whether the environment ended it.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray | None = None
    terminated: bool = False


@dataclass(frozen=True)
class Saved:
    """The files of a recording, by kind (`videos`, `dream`, `simulator`), and their number."""

    number: str
    files: dict[str, Path]


def save(folder: Path, dream: Played, truth: Played | None, frames_per_second: float) -> Saved:
    """Write a recording under the next free number, all of it or nothing.

    Args:
        folder: for recordings; made if need be.
        dream: what was dreamt.
        truth: what truly happened, as long or shorter; None where it was not played.
        frames_per_second: of the video.

    Raises:
        OnirisError: the folder cannot be written, or is full.
    """
    kinds = {"videos": ".mp4", "dream": ".npz", "simulator": ".npz"}
    try:
        for kind in kinds:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        taken = {path.stem for kind in kinds for path in (folder / kind).iterdir()}
        number = next(
            (name for n in range(1, _NAMES) if (name := f"{n:04d}") not in taken and _is_free(folder, name)), None
        )
        if number is None:
            raise OnirisError(f"{folder} holds {_NAMES - 1} recordings: move some elsewhere")
        files = {kind: folder / kind / f"{number}{ending}" for kind, ending in kinds.items()}
        try:
            _write_episode(files["dream"], dream)
            if truth is not None:
                _write_episode(files["simulator"], truth)
            write_video(files["videos"], _seen(dream, truth), frames_per_second)
        except BaseException:
            for file in files.values():
                file.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OnirisError(f"a recording cannot be written to {folder}: {error.strerror or error}") from None
    return Saved(number, {kind: file for kind, file in files.items() if truth is not None or kind != "simulator"})


def _is_free(folder: Path, number: str) -> bool:
    """Take a number, unless another server that records here has just taken it."""
    file = folder / "dream" / f"{number}.npz"
    partial = file.with_name(file.name + ".partial")  # `atomic_write` begins with it
    try:
        partial.open("xb").close()
    except FileExistsError:
        return False
    if file.exists():
        partial.unlink()
        return False
    return True


def collect_command(
    folder: Path, kind: str, spec: ActionSpec, frame_size: tuple[int, int], frames_per_second: float
) -> str:
    """The command by which `collect` reads the recordings of a kind."""
    space = {key: value for key, value in spec.to_json().items() if value and (key != "sizes" or spec.kind != "box")}
    flow = str(space).replace("'", "").replace("{kind:", "{kind:")
    return (
        f"python -m stages.collect --source npz --recordings {folder / kind} --recording-action-space '{flow}' "
        f"--recording-frame-rate {frames_per_second:g} --size {frame_size[0]},{frame_size[1]} --frame-skip 1"
    )


def _write_episode(path: Path, played: Played) -> None:
    rows = len(played.frames)
    first, terminal = np.zeros(rows, bool), np.zeros(rows, bool)
    first[0], terminal[-1] = True, played.terminated
    rewards = np.zeros(rows, np.float32) if played.rewards is None else played.rewards
    file = io.BytesIO()
    np.savez_compressed(
        file, image=played.frames, action=played.actions, reward=rewards, is_first=first, is_terminal=terminal
    )
    atomic_write(path, file.getvalue())


def _seen(dream: Played, truth: Played | None) -> Iterator[np.ndarray]:
    height, width = dream.frames.shape[1:3]
    scale = max(1, -(-_SIDE // height))
    scale += scale * height % 2 or scale * width % 2  # h264 wants even sizes
    for row, frame in enumerate(dream.frames):
        shown = [frame]
        if truth is not None:
            shown.append(truth.frames[min(row, len(truth.frames) - 1)])
        yield np.concatenate(shown, axis=1).repeat(scale, 0).repeat(scale, 1)
