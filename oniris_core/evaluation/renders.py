"""The report and the pictures of the stage `render`."""

from pathlib import Path
from typing import Any

import imageio.v3 as iio

from oniris_core.common.files import staged_folder, to_json
from oniris_core.evaluation.curves import save_figure
from oniris_core.evaluation.evaluate import Evaluation
from oniris_core.evaluation.pictures import film_strip, side_by_side, write_video
from oniris_core.evaluation.rollouts import Rollouts


def write_render_report(out: Path, found: Evaluation, evaluation_set: dict[str, Any]) -> None:
    """Write metrics.json, left_out.json (what was not measured, and why), evaluation_set.json, each table and figure."""
    with staged_folder(out, "report") as folder:
        for name, content in (
            ("metrics", found.metrics), ("left_out", found.left_out), ("evaluation_set", evaluation_set)
        ):  # fmt: skip
            (folder / f"{name}.json").write_text(to_json(content))
        for name, table in found.tables.items():
            (folder / f"{name}.csv").write_text(table)
        for name, figure in found.figures.items():
            save_figure(figure, folder / f"{name}.png")


def write_renders(out: Path, rollouts: Rollouts, videos: int, upscale: int, frames_per_second: float) -> None:
    """Write contact_sheet.png and one video per episode, named by its seed."""
    with staged_folder(out, "renders") as folder:
        iio.imwrite(folder / "contact_sheet.png", film_strip(rollouts, videos, every=4, upscale=max(upscale // 2, 1)))
        for index in range(min(videos, len(rollouts.truth))):
            frames = side_by_side(rollouts, index, upscale)
            write_video(folder / f"rollout_{rollouts.seeds[index]:06d}.mp4", frames, frames_per_second)
