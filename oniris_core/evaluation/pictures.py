"""Videos and contact sheets that a person looks at."""

from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw

from oniris_core.common.errors import OnirisError
from oniris_core.evaluation.rollouts import Rollouts

CONTEXT_COLOUR, DREAM_COLOUR, GAP = (90, 160, 250), (250, 160, 60), 4
LABEL_HEIGHT = 16


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Absolute difference, doubled: uint8."""
    return np.clip(2 * np.abs(a.astype(np.int16) - b.astype(np.int16)), 0, 255).astype(np.uint8)


def side_by_side(rollouts: Rollouts, index: int, upscale: int) -> np.ndarray:
    """One episode as video: truth | generated | difference, the context framed in blue, the dream in orange.

    Returns:
        uint8 [T, H', W', 3], both sizes multiples of 16 as the codec wants them.
    """
    truth, generated = rollouts.truth[index], rollouts.generated[index]
    panels = [x.repeat(upscale, 1).repeat(upscale, 2) for x in (truth, generated, difference(truth, generated))]
    video = []
    for t, images in enumerate(zip(*panels, strict=True)):
        is_context = t < rollouts.context
        colour = CONTEXT_COLOUR if is_context else DREAM_COLOUR
        framed = [np.pad(image, ((GAP, GAP), (GAP, GAP), (0, 0))) for image in images]
        framed[1][:GAP], framed[1][-GAP:], framed[1][:, :GAP], framed[1][:, -GAP:] = colour, colour, colour, colour
        picture = Image.fromarray(np.pad(np.concatenate(framed, axis=1), ((LABEL_HEIGHT, 0), (0, 0), (0, 0))))
        draw, width = ImageDraw.Draw(picture), framed[0].shape[1]
        names = (
            f"truth  action {_action_text(rollouts.actions[index, t])}",
            "context" if is_context else "generated",
            "difference x2",
        )
        for panel, name in enumerate(names):
            draw.text((panel * width + GAP, 2), name, fill=colour if panel == 1 else (255, 255, 255))
        video.append(np.asarray(picture))
    frames = np.stack(video)
    return np.pad(frames, ((0, 0), *((0, -size % 16) for size in frames.shape[1:3]), (0, 0)))


def _action_text(action: np.ndarray) -> str:
    if action.ndim == 0:
        return str(action)
    return " ".join(f"{value:+.1f}" if action.dtype.kind == "f" else str(value) for value in action)


def write_video(path: Path, frames: np.ndarray, frames_per_second: float) -> None:
    """Write h264. The quality is high (crf 12): small moving things are what this is about.

    Raises:
        OnirisError: ffmpeg is missing or fails.
    """
    try:
        with imageio.get_writer(
            path, format="FFMPEG", fps=frames_per_second, codec="libx264", quality=None, macro_block_size=16,
            output_params=["-crf", "12", "-pix_fmt", "yuv420p"], ffmpeg_log_level="error",
        ) as writer:  # fmt: skip
            for frame in frames:
                writer.append_data(frame)  # type: ignore[attr-defined]
    except (OSError, RuntimeError) as error:
        raise OnirisError(f"ffmpeg could not write {path.name}: {' '.join(str(error).split())[:300]}") from error


def film_strip(rollouts: Rollouts, count: int, every: int, upscale: int) -> np.ndarray:
    """For `count` episodes a row of truth above a row of generated frames, from the last of the context on.

    The first picture of each row, framed in blue, is the last frame of the context.
    """
    times = np.arange(rollouts.context - 1, rollouts.truth.shape[1], every)
    rows = []
    for index in range(min(count, len(rollouts.truth))):
        for video in (rollouts.truth[index], rollouts.generated[index]):
            images = video[times].repeat(upscale, 1).repeat(upscale, 2)
            images = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=40)
            colour = np.array(CONTEXT_COLOUR, np.uint8)
            images[0, :2], images[0, -2:], images[0, :, :2], images[0, :, -2:] = colour, colour, colour, colour
            rows.append(np.concatenate(list(images), axis=1))
        rows.append(np.zeros((6, rows[-1].shape[1], 3), np.uint8))
    return np.concatenate(rows[:-1])
