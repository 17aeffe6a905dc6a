"""The report and the pictures of the stage `render`."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from matplotlib.figure import Figure

from oniris_core.common.errors import Interrupted, OnirisError
from oniris_core.common.files import staged_folder, to_json
from oniris_core.data.actions import ActionSpec
from oniris_core.evaluation.curves import save_figure
from oniris_core.evaluation.glyphs import ActionLegend, action_legend
from oniris_core.evaluation.horizons import Curves, horizon_figure, table
from oniris_core.evaluation.page import Exhibit, page
from oniris_core.evaluation.pictures import long_dream, side_by_side, under_each_action, wall
from oniris_core.evaluation.rollouts import Rollouts
from oniris_core.evaluation.sheets import comparison, film_strip
from oniris_core.evaluation.videos import write_video


@dataclass(frozen=True)
class Extras:
    """What is shown beside the rollouts; every video begins with `Rollouts.context` frames of context.

    Attributes:
        alive: bool [K, T], whether each episode still went on; None: all did.
        samples: uint8 [S, T, H, W, 3], several continuations of one context, and `sample_actions` [T, ...], theirs.
        by_action: a continuation uint8 [T, H, W, 3] of one context under each constant action, by its name.
        dream: uint8 [T, H, W, 3], a long one, and `dream_actions` [T, ...], its actions.
    """

    alive: np.ndarray | None = None
    samples: np.ndarray | None = None
    sample_actions: np.ndarray | None = None
    by_action: Mapping[str, np.ndarray] = field(default_factory=dict)
    dream: np.ndarray | None = None
    dream_actions: np.ndarray | None = None


@dataclass(frozen=True)
class Renders:
    """What was put into the folder of pictures: for the page, and the trouble with ffmpeg if there was any."""

    pictures: list[Exhibit]
    videos: list[Exhibit]
    trouble: OnirisError | None


def write_results(
    out: Path,
    report: Path,
    metrics: dict[str, Any],
    curves: Curves,
    rollouts: Rollouts,
    *,
    videos: int,
    upscale: int,
    frames_per_second: float,
    env_id: str,
    spec: ActionSpec,
    extras: Extras | None = None,
    figures: Mapping[str, tuple[Figure, str]] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Write everything that `render` makes: the pictures to `out`, measures and the page to `report`.

    Args:
        out, report: the folders to make.
        metrics, curves: what was measured.
        rollouts: what was generated.
        videos: episodes shown.
        upscale: each pixel of a video is shown as this many, along height and width.
        frames_per_second: of the store.
        env_id, spec: for the names and the drawing of actions.
        extras: what else to show.
        figures: more plots by file name, each with the sentence below it on the page.
        tick: called after each frame of a video; may raise to stop.

    Raises:
        OnirisError: ffmpeg is missing or fails. Everything else has been written by then, and the page says what is missing.
    """
    made = make_renders(
        out, rollouts, videos, upscale, frames_per_second, action_legend(spec, env_id), extras or Extras(), tick
    )
    write_render_report(report, metrics, curves, env_id, made, figures)
    if made.trouble:
        raise made.trouble


def write_render_report(
    out: Path,
    metrics: dict[str, Any],
    curves: Curves,
    env_id: str = "",
    made: Renders | None = None,
    figures: Mapping[str, tuple[Figure, str]] | None = None,
) -> None:
    """Write metrics.json, horizons.csv, horizons.png, a PNG for each of `figures`, and all of it on index.html."""
    made = made or Renders([], [], None)
    caption = (
        "How far generated frames and the baselines are from the truth, by frames after the last one of the context"
    )
    drawn = {"horizons": (horizon_figure(curves), caption), **(figures or {})}
    with staged_folder(out, "report") as folder:
        (folder / "metrics.json").write_text(to_json(metrics))
        (folder / "horizons.csv").write_text(table(curves))
        plots = []
        for name, (figure, says) in drawn.items():
            save_figure(figure, folder / f"{name}.png")
            data = (folder / f"{name}.png").read_bytes()
            plots.append(Exhibit(f"{name}.png", data, name.replace("_", " ").capitalize(), says, wide=True))
        notes = [f"Some videos are missing: {made.trouble}"] if made.trouble else []
        title = f"Oniris: what the world model makes of {env_id or 'its environment'}"
        (folder / "index.html").write_text(page(title, metrics, [*plots, *made.pictures], made.videos, notes))


def write_renders(out: Path, rollouts: Rollouts, videos: int, upscale: int, frames_per_second: float) -> None:
    """`make_renders` without a legend and extras; trouble with ffmpeg is raised when all else has been written."""
    made = make_renders(out, rollouts, videos, upscale, frames_per_second, None, Extras(), lambda: None)
    if made.trouble:
        raise made.trouble


def make_renders(
    out: Path,
    rollouts: Rollouts,
    videos: int,
    upscale: int,
    frames_per_second: float,
    legend: ActionLegend | None,
    extras: Extras,
    tick: Callable[[], None],
) -> Renders:
    """Write contact_sheet.png, comparison.png and the videos: one per episode, named by its seed, and the extras'.

    After the first trouble with ffmpeg no further video is tried; the folder is completed without them.
    """
    count = min(videos, len(rollouts.truth))
    alive = np.ones(rollouts.truth.shape[:2], bool) if extras.alive is None else extras.alive
    shown: list[Exhibit] = []
    trouble = None
    with staged_folder(out, "renders") as folder:
        pictures = _sheets(rollouts, alive, count, max(upscale // 2, 1))
        for picture in pictures:
            (folder / picture.name).write_bytes(picture.data)
        for name, frames, title, caption, wide in _videos(rollouts, alive, count, extras, legend, upscale):
            try:
                write_video(folder / name, _counted(frames, tick), frames_per_second)
            except Interrupted:
                raise
            except OnirisError as error:
                trouble = error
                break
            shown.append(Exhibit(name, (folder / name).read_bytes(), title, caption, wide))
    return Renders(pictures, shown, trouble)


def _sheets(rollouts: Rollouts, alive: np.ndarray, count: int, upscale: int) -> list[Exhibit]:
    context, truth = rollouts.context, rollouts.truth[:count]
    change = np.abs(np.diff(truth[:, context - 1 :].astype(np.int16), axis=1)).mean((2, 3, 4)) * alive[:count, context:]
    liveliest = int(change.sum(1).argmax())
    strip = film_strip(truth[liveliest], rollouts.generated[liveliest], context, upscale)
    every = max(4, -(-(truth.shape[1] - context) // 12))  # a dozen columns at most
    sheet = comparison(
        truth, rollouts.generated[:count], alive[:count], rollouts.seeds[:count], context, upscale, every
    )
    return [
        Exhibit(
            "contact_sheet.png", _png(strip), "Contact sheet",
            f"Three strips of film of the context, true frames of the held-out episode of seed {rollouts.seeds[liveliest]}, "
            "and three of what the model generated after it. Of the episodes shown it is the one in which most moves",
            wide=True,
        ),
        Exhibit(
            "comparison.png", _png(sheet), "Truth and generated",
            f"For each episode the truth above and generated frames below, one of every {every}; framed in blue the last "
            "frame of the context. Where an episode has ended its truth is crossed out", wide=True,
        ),
    ]  # fmt: skip


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    iio.imwrite(buffer, picture, extension=".png")
    return buffer.getvalue()


def _videos(
    rollouts: Rollouts, alive: np.ndarray, count: int, extras: Extras, legend: ActionLegend | None, upscale: int
) -> Iterator[tuple[str, Iterator[np.ndarray], str, str, bool]]:
    """(file name, frames, title, caption, whether it is wide) of each video."""
    context = rollouts.context
    for k in range(count):
        seed = rollouts.seeds[k]
        frames = side_by_side(
            rollouts.truth[k], rollouts.generated[k], alive[k], rollouts.actions[k], context, legend, upscale
        )
        yield (
            f"rollout_{seed:06d}.mp4", frames, f"Episode of seed {seed}",
            "Truth, generated frames and their difference under the recorded actions; the frame turns from blue to orange "
            "where the context ends", False,
        )  # fmt: skip
    if extras.by_action:
        frames = under_each_action(extras.by_action, context, legend, upscale)
        yield (
            "by_action.mp4", frames, "One context under each action",
            f"The same context continued under each constant action: {', '.join(extras.by_action)}", True,
        )  # fmt: skip
    if extras.samples is not None:
        frames = wall(extras.samples, context, extras.sample_actions, legend, upscale)
        yield (
            "samples.mp4", frames, f"{len(extras.samples)} samples from one context",
            "The same context and actions continued with different noise", True,
        )  # fmt: skip
    if extras.dream is not None:
        actions = extras.dream_actions
        yield (
            "dream.mp4", long_dream(extras.dream, context, actions, legend, upscale), "One long dream",
            f"{len(extras.dream) - context} frames generated one after another, each from those before it", True,
        )  # fmt: skip


def _counted(frames: Iterator[np.ndarray], tick: Callable[[], None]) -> Iterator[np.ndarray]:
    for frame in frames:
        yield frame
        tick()
