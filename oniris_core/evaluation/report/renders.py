"""The report and the pictures of the stage `render`."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

from oniris_core.common.artefacts.figures import save_figure
from oniris_core.common.artefacts.files import staged_folder, to_json
from oniris_core.common.errors import OnirisError
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.evaluation.measures.evaluate import Evaluation
from oniris_core.evaluation.measures.told_apart import Verdict
from oniris_core.evaluation.report.glyphs import ActionLegend, action_legend
from oniris_core.evaluation.report.page import Exhibit, page
from oniris_core.evaluation.report.pictures import long_dream, side_by_side, under_each_action, wall
from oniris_core.evaluation.report.sheets import comparison, film_strip, telling_pairs
from oniris_core.evaluation.report.videos import write_video
from oniris_core.evaluation.rollouts.rollouts import Rollouts

CAPTIONS = {
    "horizons": "How far generated frames and the baselines are from the truth, by frames after the last one of the context; "
    "shaded: 95 % intervals over episodes",
    "confusion": "Which action a network reads off frames that show a known one: true frames, the same through the VAE, and "
    "generated ones",
    "drift": "What becomes of long dreams, by window of frames",
}

SHOWN_PIXELS = 256
"""The longer side of a frame in a video, about: pixels of smaller frames are shown as several."""


@dataclass(frozen=True)
class Renders:
    """What was put into the folder of pictures: for the page, and the trouble with ffmpeg if there was any."""

    pictures: list[Exhibit]
    videos: list[Exhibit]
    trouble: OnirisError | None


def write_results(
    out: Path,
    report: Path,
    found: Evaluation,
    evaluation_set: dict[str, Any],
    *,
    videos: int,
    frames_per_second: float,
    env_id: str | None,
    spec: ActionSpec,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Write everything that `render` makes: the pictures to `out`, measures and the page to `report`.

    Args:
        out, report: the folders to make.
        found: what was generated and measured.
        evaluation_set: what it was measured on, as JSON values.
        videos: episodes shown.
        frames_per_second: of the store.
        env_id, spec: for the names and the drawing of actions; no id where recordings were not played here.
        tick: called after each frame of a video; may raise to stop.

    Raises:
        OnirisError: ffmpeg is missing or fails. Everything else has been written by then, and the page says what is missing.
    """
    upscale = max(SHOWN_PIXELS // max(found.rollouts.truth.shape[2:4]), 1)
    made = make_renders(out, found, videos, upscale, frames_per_second, action_legend(spec, env_id or ""), tick)
    write_render_report(report, found, evaluation_set, env_id, made)
    if made.trouble:
        raise made.trouble


def write_render_report(
    out: Path, found: Evaluation, evaluation_set: dict[str, Any], env_id: str | None, made: Renders
) -> None:
    """Write metrics.json, left_out.json (what was not measured, and why), evaluation_set.json, tables, figures, index.html."""
    with staged_folder(out, "report") as folder:
        for name, content in (
            ("metrics", found.metrics), ("left_out", found.left_out), ("evaluation_set", evaluation_set)
        ):  # fmt: skip
            (folder / f"{name}.json").write_text(to_json(content))
        for name, table in found.tables.items():
            (folder / f"{name}.csv").write_text(table)
        plots = []
        for name, figure in found.figures.items():
            save_figure(figure, folder / f"{name}.png")
            data = (folder / f"{name}.png").read_bytes()
            plots.append(Exhibit(f"{name}.png", data, name.capitalize(), CAPTIONS[name], wide=True))
        notes = [f"Not measured: {name}: {reason}" for name, reason in found.left_out.items()]
        if made.trouble:
            notes.append(f"Some videos are missing: {made.trouble}")
        title = f"Oniris: what the world model makes of {env_id or 'these recordings'}"
        (folder / "index.html").write_text(page(title, found.metrics, [*plots, *made.pictures], made.videos, notes))


def make_renders(
    out: Path,
    found: Evaluation,
    videos: int,
    upscale: int,
    frames_per_second: float,
    legend: ActionLegend | None,
    tick: Callable[[], None],
) -> Renders:
    """Write contact_sheet.png, comparison.png, told_apart.png (where there is something to tell apart) and the videos.

    Those are one per episode, named by its seed, one of a context continued several times over, one of it under each action,
    and a long dream.
    After the first trouble with ffmpeg no further video is tried; the folder is completed without them.
    """
    count = min(videos, len(found.rollouts.truth))
    shown: list[Exhibit] = []
    trouble = None
    with staged_folder(out, "renders") as folder:
        pictures = _sheets(found.rollouts, count, max(upscale // 2, 1))
        if found.verdict is not None:
            pictures.append(_telling(found.verdict, found.rollouts.seeds))
        for picture in pictures:
            (folder / picture.name).write_bytes(picture.data)
        for name, frames, title, caption, wide in _videos(found, count, legend, upscale):
            try:
                write_video(folder / name, _counted(frames, tick), frames_per_second)
            except OnirisError as error:
                trouble = error
                break
            shown.append(Exhibit(name, (folder / name).read_bytes(), title, caption, wide))
    return Renders(pictures, shown, trouble)


def _sheets(rollouts: Rollouts, count: int, upscale: int) -> list[Exhibit]:
    context, truth, alive = rollouts.context, rollouts.truth[:count], rollouts.alive
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


def _telling(verdict: Verdict, seeds: np.ndarray, columns: int = 12) -> Exhibit:
    """Of each test episode the pair that gives the model away most; of these the plainest first."""
    pairs, plainest = verdict.pairs, np.argsort(-verdict.surprise, kind="stable")
    _, first = np.unique(pairs.episodes[plainest], return_index=True)
    shown = plainest[np.sort(first)][:columns]
    titles = [
        f"{seeds[k]} at +{h}" for k, h in zip(pairs.episodes[shown], pairs.horizons[shown], strict=True)
    ]  # fmt: skip
    sheet = telling_pairs(pairs.real[shown], pairs.made[shown], titles, upscale=5)
    return Exhibit(
        "told_apart.png", _png(sheet), "What gives the model away",
        "What moves, in frames of the same episode and time: above the true ones through the VAE, below the generated ones, "
        "each round its own place. Of each test episode the pair that networks tell apart most surely, with its seed and the "
        f"frames after the context. They are right about {float(verdict.accuracy.value):.2f} of all crops; 0.5 would be best",
        wide=True,
    )  # fmt: skip


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    iio.imwrite(buffer, picture, extension=".png")
    return buffer.getvalue()


def _videos(
    found: Evaluation, count: int, legend: ActionLegend | None, upscale: int
) -> Iterator[tuple[str, Iterator[np.ndarray], str, str, bool]]:
    """(file name, frames, title, caption, whether it is wide) of each video."""
    rollouts, futures, dreams = found.rollouts, found.futures, found.dreams
    context = rollouts.context
    for k in range(count):
        seed = rollouts.seeds[k]
        frames = side_by_side(
            rollouts.truth[k], rollouts.generated[k], rollouts.alive[k], rollouts.actions[k], context, legend, upscale
        )
        yield (
            f"rollout_{seed:06d}.mp4", frames, f"Episode of seed {seed}",
            "Truth, generated frames and their difference under the recorded actions; the frame turns from blue to orange "
            "where the context ends", False,
        )  # fmt: skip
    if len(rollouts.contexts):
        k = rollouts.contexts[0]
        known = legend is not None and len(legend.names) == len(futures.names)
        by_action = dict(zip(legend.names if legend and known else futures.names, futures.by_action[0], strict=True))
        yield (
            "by_action.mp4", under_each_action(by_action, context, legend, upscale), "One context under each action",
            f"The same context continued under each constant action: {', '.join(by_action)}", True,
        )  # fmt: skip
        frames = wall(rollouts.samples[k], context, rollouts.actions[k], legend, upscale)
        yield (
            "samples.mp4", frames, f"{len(rollouts.samples[k])} samples from one context",
            "The same context and actions continued with different noise", True,
        )  # fmt: skip
    if len(dreams.shown):
        yield (
            "dream.mp4", long_dream(dreams.shown, context, dreams.actions, legend, upscale), "One long dream",
            f"{len(dreams.shown) - context} frames generated one after another, each from those before it", True,
        )  # fmt: skip


def _counted(frames: Iterator[np.ndarray], tick: Callable[[], None]) -> Iterator[np.ndarray]:
    for frame in frames:
        yield frame
        tick()
