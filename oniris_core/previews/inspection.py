"""A look at recordings before anything is made of them: what was found, what is suspicious, and a sheet of frames."""

import io
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from oniris_core.collection.recordings.conversion import Counted, Note, said_of
from oniris_core.collection.recordings.files.recording import Source
from oniris_core.collection.recordings.files.spaces import fitted
from oniris_core.collection.recordings.offsets import MAX_ROWS, small, warning
from oniris_core.common.artefacts.files import atomic_write
from oniris_core.data.playing.params import CollectParams
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.evaluation.report.glyphs import GROUND, ActionLegend
from oniris_core.evaluation.report.pictures import TEXT_COLOUR, font

STRIPS, COLUMNS, SIDE = 6, 8, 128
"""Recordings on the sheet, consecutive frames of each, and pixels of a frame's longer side."""

STILL_SHARE = 0.1
"""A note says so if more frames than this repeat the one before."""


@dataclass
class Inspection:
    """What was found.

    Attributes:
        lines: for the person, in order.
        warnings: what is suspicious.
        sheet: uint8 [H, W, 3], frames with the actions that led to them.
    """

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sheet: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))


def inspect(source: Source, spec: ActionSpec, params: CollectParams) -> Inspection:
    """Read all recordings once and say what they are. Nothing is written.

    Args:
        source: the recordings.
        spec: their action space.
        params: as they would be collected.

    Raises:
        UserError: whatever collecting them would refuse.
    """
    names = list(source.files.of)
    shown = set(np.linspace(0, len(names) - 1, min(STRIPS, len(names))).round().astype(int).tolist())
    notes, probed, strips, all_actions = list[Note](), list[tuple[np.ndarray, np.ndarray]](), list[Image.Image](), []
    still = total = kept = 0
    for number, name in enumerate(names):
        recording = source.read(name)
        counted = Counted(recording.frames)
        lagging = replace(recording, frames=counted).lagging(params.recording_action_lag)
        actions = fitted(lagging.actions, spec, name)
        tiny, strip, before, rows = list[np.ndarray](), list[np.ndarray](), b"", 0
        first = max((len(actions) - COLUMNS) // 2, 0)
        for row, frame in enumerate(lagging.frames):
            now = frame.tobytes()
            still, before, rows = still + (now == before), now, row + 1
            if kept < MAX_ROWS:
                tiny.append(small(frame))
                kept += 1
            if number in shown and first <= row < first + COLUMNS:
                strip.append(frame)
        total += rows
        notes.append(Note(1, counted.count, len(recording.actions)))
        led_to = np.concatenate([actions[:1], actions])[: len(tiny)]
        if len(led_to) == len(tiny) and len(tiny):
            probed.append((np.stack(tiny), spec.encode(led_to)))
        all_actions.append(actions.reshape(len(actions), -1))
        if number in shown:
            strips.append(_strip(strip, actions, first, name, ActionLegend(spec)))
    rate = params.recording_frame_rate or source.frame_rate or 30.0
    values = np.concatenate(all_actions)
    lengths = np.array([note.frames for note in notes])
    found = Inspection(sheet=_stacked(strips))
    found.lines += [
        f"layout: {params.source}, in {source.files.root}",
        f"recordings: {len(names)}, of {lengths.min()} to {lengths.max()} frames (median {int(np.median(lengths))}), "
        f"{lengths.sum()} in all, {lengths.sum() / rate:.0f} s",
        f"actions and frames: {said_of(notes)}",
        "frames: {} x {} pixels at {:g} a second".format(*source.size(names[0]), rate)
        + ("" if params.recording_frame_rate or source.frame_rate else " (assumed: the source does not say)")
        + "".join(f"; {note}" for note in source.notes),
    ]
    if source.cameras:
        others = ", ".join(source.cameras[1:]) or "no other"
        found.lines.append(f"camera: {source.cameras[0]} ({others})")
    how = (
        "given"
        if params.recording_action_space
        else "declared by the source"
        if source.declared == spec
        else "inferred"
    )
    found.lines.append(f"actions: {spec.kind} with {len(spec.sizes)} components, {how} (of {len(values)} actions)")
    found.lines += _ranges(values, spec)
    found.warnings += _constant(values)
    if still > STILL_SHARE * total:
        found.warnings.append(
            f"{still} of {total} frames repeat the one before: the camera may be slower than the actions"
        )
    if off := warning(probed, params.recording_action_lag, 1):
        found.warnings.append(off)
    return found


def write(found: Inspection, path: Path) -> None:
    """Write the sheet, a PNG."""
    data = io.BytesIO()
    Image.fromarray(found.sheet).save(data, "PNG")
    atomic_write(path, data.getvalue())


def _ranges(values: np.ndarray, spec: ActionSpec) -> list[str]:
    lines = []
    for i, column in enumerate(values.T[:32]):
        if spec.kind == "box":
            what = f"{column.min():g} to {column.max():g}, mean {column.mean():.3g}; space {spec.low[i]:g} to {spec.high[i]:g}"
        else:
            choices, counts = np.unique(column, return_counts=True)
            shares = zip(choices[:8], counts[:8] / len(column), strict=True)
            what = ", ".join(f"{int(choice)}: {share:.0%}" for choice, share in shares) + ", ..." * (len(choices) > 8)
        lines.append(f"  component {i}: {what}")
    return [*lines, f"  and {values.shape[1] - 32} more"] if values.shape[1] > 32 else lines


def _constant(values: np.ndarray) -> list[str]:
    constant = [i for i, column in enumerate(values.T) if (column == column[0]).all()]
    if len(constant) == values.shape[1]:
        return ["the actions never change: nothing can be learned of them"]
    return [f"components {constant} of the actions never change"] if constant else []


def _strip(frames: list[np.ndarray], actions: np.ndarray, first: int, name: str, legend: ActionLegend) -> Image.Image:
    """Consecutive frames, under each the action that led to it."""
    height, width = frames[0].shape[:2]
    scale = SIDE / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    strip = Image.new("RGB", (COLUMNS * (size[0] + 4) + 4, size[1] + 44), GROUND)
    draw = ImageDraw.Draw(strip)
    draw.text((6, 4), name, TEXT_COLOUR, font(12))
    for i, frame in enumerate(frames):
        left = 4 + i * (size[0] + 4)
        strip.paste(Image.fromarray(frame).resize(size, Image.Resampling.BOX), (left, 22))
        row = first + i
        text = legend.text(actions[row - 1]) if 0 < row <= len(actions) else "-"
        draw.text((left + 2, size[1] + 26), text[: max(size[0] // 7, 1)], TEXT_COLOUR, font(11))
    return strip


def _stacked(strips: list[Image.Image]) -> np.ndarray:
    width = max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width, sum(strip.height for strip in strips)), GROUND)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return np.asarray(sheet)
