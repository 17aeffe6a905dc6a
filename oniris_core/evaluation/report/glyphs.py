"""Actions as small drawings: the lander's engines, the choice among cells, a bar per number, a box per switch."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from oniris_core.data.rows.actions import ActionSpec

ACTION_NAMES = {"LunarLander": ("none", "left", "main", "right"), "CartPole": ("left", "right")}
"""Names of the choices of a Discrete space, by environment without its version. Add a line to name others."""

GROUND, TRACK, LIT, FLAME, HULL = (18, 18, 22), (70, 72, 80), (235, 235, 240), (255, 150, 50), (150, 140, 235)
IDLE = (100, 93, 157)
_FINE = 4  # drawn this many times as large, then reduced: smooth edges


@dataclass(frozen=True)
class ActionLegend:
    """How the actions of one environment are drawn.

    Attributes:
        spec: the action space.
        names: of its choices, where they are known; else empty.
        engines: the choices are those of LunarLander and are drawn as its engines.
    """

    spec: ActionSpec
    names: tuple[str, ...] = ()
    engines: bool = False

    def text(self, action: np.ndarray) -> str:
        """The action in a few characters: the name of a choice, else its numbers."""
        action = np.asarray(action)
        if self.spec.kind == "discrete":
            choice = int(action) - self.spec.start[0]
            return self.names[choice] if 0 <= choice < len(self.names) else str(int(action))
        return " ".join(f"{value:+.1f}" if self.spec.kind == "box" else str(int(value)) for value in action)


def action_legend(spec: ActionSpec, env_id: str) -> ActionLegend:
    """The legend of an environment, whatever its version; names are used where they fit its space."""
    game = env_id.rpartition("-v")[0]
    names = ACTION_NAMES.get(game, ())
    if spec.kind != "discrete" or len(names) != spec.sizes[0]:
        names = ()
    return ActionLegend(spec, names, engines=bool(names) and game == "LunarLander")


def glyph(action: np.ndarray, legend: ActionLegend, height: int, width: int) -> Image.Image:
    """Draw one action.

    Args:
        action: a number (discrete spaces) or one number per component.
        legend: what it means.
        height: of the drawing, in pixels.
        width: that it may take at most; components that find no room are left out.

    Returns:
        RGB, `height` high and as wide as it needs to be.
    """
    spec, h = legend.spec, height * _FINE
    if legend.engines:
        picture = Image.new("RGB", (h, h), GROUND)
        _lander(ImageDraw.Draw(picture), h, legend.text(action))
    elif spec.kind == "discrete":
        choices, choice = spec.sizes[0], int(action) - spec.start[0]
        room = min(choices * h * 5 // 8, width * _FINE)
        picture = Image.new("RGB", (room, h), GROUND)
        draw = ImageDraw.Draw(picture)
        if room // choices >= 3 * _FINE:
            for i in range(choices):
                _cell(draw, (room * i // choices, h // 5, room * (i + 1) // choices, h - h // 5), lit=i == choice)
        else:  # too many to tell apart: a mark on a scale
            mark = (room - h // 5) * choice // (choices - 1)
            draw.rectangle((0, h // 5, room - 1, h - h // 5 - 1), fill=TRACK)
            draw.rectangle((mark, 0, mark + h // 5, h - 1), fill=LIT)
    else:
        bar = h if spec.kind == "multi_binary" else h * 5 // 8
        shown = max(min(len(spec.sizes), width * _FINE // bar), 1)
        picture = Image.new("RGB", (bar * shown, h), GROUND)
        draw = ImageDraw.Draw(picture)
        for i, value in enumerate(np.asarray(action)[:shown]):
            _component(draw, spec, i, float(value), i * bar, bar, h)
    return picture.resize((max(picture.width // _FINE, 1), height), Image.Resampling.BOX)


def _cell(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], lit: bool) -> None:
    left, top, right, bottom = box
    gap = min(_FINE, (right - left) // 4)
    draw.rectangle((left + gap, top, right - gap - 1, bottom - 1), fill=LIT if lit else TRACK)


def _component(draw: ImageDraw.ImageDraw, spec: ActionSpec, i: int, value: float, x: int, bar: int, h: int) -> None:
    left, right = x + bar // 6, x + bar - bar // 6 - 1
    if spec.kind == "multi_binary":
        _cell(draw, (left, bar // 6, right, h - bar // 6), lit=value == 1)
    elif spec.kind == "multi_discrete":
        draw.rectangle((left, 0, right, h - 1), fill=TRACK)
        n, choice = spec.sizes[i], value - spec.start[i]
        draw.rectangle((left, round(h * (n - 1 - choice) / n), right, round(h * (n - choice) / n) - 1), fill=LIT)
    else:
        draw.rectangle((left, 0, right, h - 1), fill=TRACK)
        low, high = spec.low[i], spec.high[i]

        def level(number: float) -> int:
            return round((h - 1) * (1 - (min(max(number, low), high) - low) / (high - low)))

        zero, end = level(0.0), level(value)
        draw.rectangle((left, min(zero, end), right, max(zero, end)), fill=FLAME if value < 0 else LIT)
        draw.rectangle((x, zero - _FINE // 2, x + bar - 1, zero + _FINE // 2 - 1), fill=HULL)


def _lander(draw: ImageDraw.ImageDraw, h: int, engine: str) -> None:
    def shape(*points: tuple[float, float], fill: tuple[int, int, int]) -> None:
        draw.polygon([(x * h, y * h) for x, y in points], fill=fill)

    hull = HULL if engine != "none" else IDLE
    for side in (-1, 1):
        draw.line([((0.5 + side * x) * h, y * h) for x, y in ((0.14, 0.52), (0.3, 0.8))], fill=TRACK, width=h // 14)
        draw.line([((0.5 + side * x) * h, 0.8 * h) for x in (0.22, 0.38)], fill=TRACK, width=h // 14)
    shape((0.36, 0.12), (0.64, 0.12), (0.72, 0.3), (0.72, 0.56), (0.28, 0.56), (0.28, 0.3), fill=hull)
    if engine == "main":
        shape((0.38, 0.6), (0.62, 0.6), (0.5, 1.0), fill=FLAME)
    elif engine in ("left", "right"):
        points = [(0.24, 0.26), (0.24, 0.48), (0.0, 0.37)]
        shape(*(points if engine == "left" else [(1 - x, y) for x, y in points]), fill=FLAME)
