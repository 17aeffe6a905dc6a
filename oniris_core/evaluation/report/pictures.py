"""Videos and sheets that a person looks at, drawn from arrays alone.

Axes: T frames in time, H and W of a frame, S samples, K episodes; all pictures are uint8 RGB. The first `context` frames of
every video are the context. Videos are made frame by frame, so that a long one needs no more memory than a short one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from oniris_core.evaluation.report.glyphs import GROUND, ActionLegend, glyph

Colour = tuple[int, int, int]
CONTEXT_COLOUR, DREAM_COLOUR, TRUTH_COLOUR, ENDED_COLOUR = (90, 160, 250), (250, 160, 60), (120, 122, 130), (90, 60, 60)
TEXT_COLOUR, FAINT_COLOUR = (235, 235, 240), (160, 162, 170)
MARGIN, BORDER = 8, 3


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Absolute difference, doubled: uint8."""
    return np.clip(2 * np.abs(a.astype(np.int16) - b.astype(np.int16)), 0, 255).astype(np.uint8)


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Letters of this height in pixels."""
    return ImageFont.load_default(size)  # Pillow's own, so that the same text is the same pixels everywhere


@dataclass(frozen=True)
class Panel:
    """One picture of a video: what it shows, what is drawn and written above it, and the colour of its frame."""

    image: np.ndarray
    title: str
    colour: Colour
    action: np.ndarray | None = None


@dataclass(frozen=True)
class Layout:
    """Where things are in a video of panels in rows and columns.

    Attributes:
        height, width: of a frame, in its own pixels.
        upscale: each of them is shown as this many, along height and width.
        panels: how many.
        columns: panels side by side.
    """

    height: int
    width: int
    upscale: int
    panels: int
    columns: int

    @property
    def text(self) -> int:
        """Size of the letters in pixels: more in larger panels."""
        return min(max(self.width * self.upscale // 18, 12), 24)

    @property
    def title(self) -> int:
        """Height of the line above a panel."""
        return self.text + 8

    @property
    def cell(self) -> tuple[int, int]:
        """Height and width of a panel with its title and frame; a tiny panel still gets room for its words."""
        width = max(self.width * self.upscale, 9 * self.text)
        return self.title + self.height * self.upscale + 2 * BORDER, width + 2 * BORDER

    @property
    def footer(self) -> tuple[int, int]:
        """Lines below the panels (two where one is too narrow) and the height of each."""
        return (1 if self.inner_width >= 26 * self.text else 2), self.text + 14

    @property
    def inner_width(self) -> int:
        """Width without the outer margins."""
        return self.columns * (self.cell[1] + MARGIN) - MARGIN

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the video, both even, as h264 with halved colours needs them."""
        rows, (lines, line) = -(-self.panels // self.columns), self.footer
        height = rows * (self.cell[0] + MARGIN) + lines * line + MARGIN // 2
        return height + height % 2, self.inner_width + 2 * MARGIN + self.inner_width % 2

    def corner(self, panel: int) -> tuple[int, int]:
        """Top and left of a panel's picture, inside its frame."""
        row, column = divmod(panel, self.columns)
        return row * (self.cell[0] + MARGIN) + self.title + BORDER, MARGIN + column * (self.cell[1] + MARGIN) + BORDER

    def area(self, panel: int) -> tuple[slice, slice]:
        """The pixels of a panel's picture: rows and columns of a frame of the video."""
        top, left = self.corner(panel)
        return slice(top, top + self.height * self.upscale), slice(left, left + self.width * self.upscale)


def side_by_side_layout(frame: tuple[int, int], upscale: int) -> Layout:
    """Of `side_by_side`, for frames of this height and width: panel 0 is the truth, 1 generated, 2 the difference."""
    return Layout(frame[0], frame[1], upscale, panels=3, columns=3)


def side_by_side(
    truth: np.ndarray,
    generated: np.ndarray,
    alive: np.ndarray,
    actions: np.ndarray,
    context: int,
    legend: ActionLegend | None,
    upscale: int,
) -> Iterator[np.ndarray]:
    """One episode as video: truth | generated | difference, the context framed in blue, the dream in orange.

    Args:
        truth, generated: [T, H, W, 3].
        alive: bool [T], whether the episode still went on; where not there is no truth to compare with.
        actions: [T, ...], the one that led to each frame.
        context: frames of context.
        legend: how actions are drawn; None draws none.
        upscale: each pixel is shown as this many, along height and width.
    """
    layout = side_by_side_layout((truth.shape[1], truth.shape[2]), upscale)
    for t in range(len(truth)):
        word, colour = ("context", CONTEXT_COLOUR) if t < context else ("generated", DREAM_COLOUR)
        if alive[t]:
            real = Panel(truth[t], "truth", TRUTH_COLOUR)
            error = Panel(difference(truth[t], generated[t]), "difference x2", TRUTH_COLOUR)
        else:
            real = Panel(truth[t] // 3, "truth (ended)", ENDED_COLOUR)
            error = Panel(np.zeros_like(truth[t]), "no difference", ENDED_COLOUR)
        panels = (real, Panel(generated[t], word, colour), error)
        yield compose(panels, layout, _clock(t, context, len(truth)), actions[t], legend)


def wall(
    samples: np.ndarray, context: int, actions: np.ndarray | None, legend: ActionLegend | None, upscale: int
) -> Iterator[np.ndarray]:
    """Samples [S, T, H, W, 3] from one context as one video; `actions` [T, ...] are those of all of them."""
    count, length, height, width = samples.shape[:4]
    layout = Layout(height, width, upscale, count, _columns(count, height / width))
    for t in range(length):
        colour = CONTEXT_COLOUR if t < context else DREAM_COLOUR
        panels = [Panel(sample[t], f"sample {s + 1}", colour) for s, sample in enumerate(samples)]
        yield compose(panels, layout, _clock(t, context, length), None if actions is None else actions[t], legend)


def under_each_action(
    by_action: Mapping[str, np.ndarray], context: int, legend: ActionLegend | None, upscale: int
) -> Iterator[np.ndarray]:
    """One context continued under each constant action, name to [T, H, W, 3], as one video."""
    length, height, width = next(iter(by_action.values())).shape[:3]
    count = len(by_action)
    layout = Layout(height, width, upscale, count, count if count <= 4 else _columns(count, height / width))
    names = legend.names if legend is not None else ()
    choices = {name: np.asarray(legend.spec.start[0] + i) for i, name in enumerate(names) if legend is not None}
    for t in range(length):
        colour = CONTEXT_COLOUR if t < context else DREAM_COLOUR
        panels = [Panel(video[t], f"always {name}", colour, choices.get(name)) for name, video in by_action.items()]
        yield compose(panels, layout, _clock(t, context, length), None, legend)


def long_dream(
    dream: np.ndarray, context: int, actions: np.ndarray | None, legend: ActionLegend | None, upscale: int
) -> Iterator[np.ndarray]:
    """One long dream [T, H, W, 3] as video, with its actions [T, ...] and a counter."""
    layout = Layout(dream.shape[1], dream.shape[2], upscale, panels=1, columns=1)
    for t, image in enumerate(dream):
        word, colour = ("context", CONTEXT_COLOUR) if t < context else ("generated", DREAM_COLOUR)
        action = None if actions is None else actions[t]
        yield compose([Panel(image, word, colour)], layout, _clock(t, context, len(dream)), action, legend)


def _columns(count: int, aspect: float) -> int:
    """Columns that bring `count` panels of height / width `aspect` nearest to a screen of 16 : 9."""
    choices = range(1, count + 1)
    return min(choices, key=lambda n: (abs(np.log(n / (-(-count // n) * aspect) * 9 / 16)), -(-count // n) * n))


def _clock(t: int, context: int, length: int) -> str:
    return f"context {t + 1} of {context}" if t < context else f"+{t - context + 1} of {length - context}"


def compose(
    panels: Sequence[Panel], layout: Layout, clock: str, action: np.ndarray | None, legend: ActionLegend | None
) -> np.ndarray:
    """One frame of a video: panels under their titles, below them the action at the left and the time at the right."""
    canvas = np.empty((*layout.size, 3), np.uint8)
    canvas[:] = GROUND
    for index, panel in enumerate(panels):
        rows, columns = layout.area(index)
        canvas[rows.start - BORDER : rows.stop + BORDER, columns.start - BORDER : columns.stop + BORDER] = panel.colour
        canvas[rows, columns] = panel.image.repeat(layout.upscale, 0).repeat(layout.upscale, 1)
    picture = Image.fromarray(canvas)
    draw, letters = ImageDraw.Draw(picture), font(layout.text)
    for index, panel in enumerate(panels):
        top, left = layout.corner(index)
        bright = panel.colour if panel.colour in (CONTEXT_COLOUR, DREAM_COLOUR) else TEXT_COLOUR
        room, left = layout.cell[1], left - BORDER
        if panel.action is not None and legend is not None:
            drawn = glyph(panel.action, legend, layout.title - 4, room // 2)
            picture.paste(drawn, (left, top - BORDER - layout.title + 2))
            room, left = room - drawn.width - 4, left + drawn.width + 4
        draw.text((left, top - BORDER - 6), _fit(panel.title, layout.text, room), bright, letters, anchor="ls")
    height, width = layout.size
    lines, line = layout.footer
    middle = height - lines * line + line // 2 - MARGIN // 2
    if action is not None and legend is not None:
        drawn = glyph(action, legend, line - 4, (width - 2 * MARGIN) // (2 if lines == 1 else 1))
        picture.paste(drawn, (MARGIN, middle - drawn.height // 2))
        left = MARGIN + drawn.width + MARGIN
        room = (width - left - MARGIN) - (int(letters.getlength(clock)) + MARGIN if lines == 1 else 0)
        draw.text((left, middle), _fit(legend.text(action), layout.text, room), TEXT_COLOUR, letters, anchor="lm")
    x, anchor = (width - MARGIN, "rm") if lines == 1 else (MARGIN, "lm")
    draw.text((x, middle + (lines - 1) * line), clock, FAINT_COLOUR, letters, anchor=anchor)
    return np.asarray(picture)


def _fit(text: str, size: int, room: int) -> str:
    """The text, or as much of its beginning as has room."""
    letters = font(size)
    if letters.getlength(text) <= room:
        return text
    while text and letters.getlength(text + "...") > room:
        text = text[:-1]
    return text + "..." if text else ""
