"""Sheets of many frames at once: the film strip and the comparison. All pictures are uint8 RGB [H, W, 3]."""

import numpy as np
from PIL import Image, ImageDraw

from oniris_core.evaluation.report.glyphs import GROUND
from oniris_core.evaluation.report.pictures import CONTEXT_COLOUR, DREAM_COLOUR, FAINT_COLOUR, TEXT_COLOUR, font

PAPER, FILM, SLOT = (214, 208, 198), (24, 21, 20), (10, 9, 9)
ROWS, COLUMNS = 3, 8


def film_strip(truth: np.ndarray, generated: np.ndarray, context: int, upscale: int) -> np.ndarray:
    """A contact sheet of one episode: three strips of film of its context, three of what was generated after it.

    The strips are as long as the context allows (COLUMNS at most); frames that do not fit are left out evenly. Every
    frame carries its number, counted from the last of the context: -1, 0, +1. Too short a dream leaves film unexposed.

    Args:
        truth, generated: [T, H, W, 3].
        context: frames of context.
        upscale: each pixel is shown as this many, along height and width.
    """
    columns = min(max(context // ROWS, 1), COLUMNS)
    pieces = ROWS * columns

    def evenly(count: int) -> np.ndarray:
        return np.arange(0, count, max(count // pieces, 1))[:pieces]

    before = context - 1 - evenly(context)[::-1]
    step = max((len(truth) - context) // pieces, 1)
    after = context + evenly(len(truth) - context) + step - 1
    strips = []
    for name, colour, video, times in (
        ("CONTEXT", CONTEXT_COLOUR, truth, before),
        ("GENERATED", DREAM_COLOUR, generated, after),
    ):
        for row in range(ROWS):
            mine = times[row * columns : (row + 1) * columns]
            frames = list(video[mine].repeat(upscale, 1).repeat(upscale, 2))
            frames += [np.full_like(truth[0], SLOT).repeat(upscale, 0).repeat(upscale, 1)] * (columns - len(frames))
            numbers = [f"{t - context + 1:+d}" if t != context - 1 else "0" for t in mine]
            strips.append(_strip(frames, numbers, name, colour))
    margin = 20
    gaps = [margin, 10, 10, 2 * margin, 10, 10]
    height = sum(len(strip) for strip in strips) + sum(gaps) + margin
    sheet = np.full((height, strips[0].shape[1] + 2 * margin, 3), PAPER, np.uint8)
    top = 0
    for strip, gap in zip(strips, gaps, strict=True):
        top += gap
        sheet[top : top + len(strip), margin:-margin] = strip
        top += len(strip)
    return sheet


def _strip(frames: list[np.ndarray], numbers: list[str], name: str, colour: tuple[int, int, int]) -> np.ndarray:
    """One strip of film: frames between two rows of holes, their numbers on its lower edge, its name on the upper."""
    height, width = frames[0].shape[:2]
    unit = max(width // 10, 6)  # of the holes; film has them in proportion to its frames
    gap, letters = max(unit // 2, 3), max(unit, 10)
    pitch = width + gap
    edge = letters + 6
    top = edge + 2 * unit
    size = len(frames) * pitch + gap, height + 2 * top
    fine = 2
    film = Image.new("RGB", (size[0] * fine, size[1] * fine), FILM)
    draw = ImageDraw.Draw(film)
    holes = size[0] // (2 * unit)
    first = (size[0] - (2 * holes - 1) * unit) // 2
    for x in range(first, first + 2 * unit * holes, 2 * unit):
        for y in (edge, size[1] - edge - unit * 4 // 3):
            box = (x * fine, y * fine, (x + unit) * fine, (y + unit * 4 // 3) * fine)
            draw.rounded_rectangle(box, unit * fine // 3, fill=PAPER)
    film = film.resize(size, Image.Resampling.BOX)
    draw = ImageDraw.Draw(film)
    for i, frame in enumerate(frames):
        film.paste(Image.fromarray(frame), (gap + i * pitch, top))
    shade = tuple(c * 4 // 5 for c in colour)
    draw.text((gap, edge // 2), name, shade, font(letters), anchor="lm")
    for i, number in enumerate(numbers):
        draw.text((gap + i * pitch + width // 2, size[1] - edge // 2), number, shade, font(letters), anchor="mm")
    return np.asarray(film)


def telling_pairs(real: np.ndarray, made: np.ndarray, titles: list[str], upscale: int) -> np.ndarray:
    """Pairs of crops [N, s, s, 3], the real ones above, the made ones below, each pair under its title.

    Args:
        real, made: of the same episodes and times.
        titles: [N], a word or two.
        upscale: each pixel is shown as this many, along height and width.
    """
    side, letters = real.shape[1] * upscale, 12
    names = "true, through the VAE", "generated"
    left = int(max(font(letters).getlength(name) for name in names)) + 16
    pitch = max(side, int(max(font(letters).getlength(title) for title in titles))) + 4
    top = letters + 12
    picture = Image.new("RGB", (left + len(real) * pitch + 4, top + 2 * (side + 4) + 2), GROUND)
    draw = ImageDraw.Draw(picture)
    for row, (name, kind, colour) in enumerate(zip(names, (real, made), (TEXT_COLOUR, DREAM_COLOUR), strict=True)):
        y = top + row * (side + 4)
        draw.text((8, y + side // 2), name, colour, font(letters), anchor="lm")
        for column, image in enumerate(kind):
            picture.paste(Image.fromarray(image.repeat(upscale, 0).repeat(upscale, 1)), (left + column * pitch, y))
    for column, title in enumerate(titles):
        draw.text((left + column * pitch + side // 2, top // 2), title, FAINT_COLOUR, font(letters), anchor="mm")
    return np.asarray(picture)


def comparison(
    truth: np.ndarray,
    generated: np.ndarray,
    alive: np.ndarray,
    seeds: np.ndarray,
    context: int,
    upscale: int,
    every: int,
) -> np.ndarray:
    """For each episode a row of truth above a row of generated frames, from the last of the context on.

    The first picture of each row, framed in blue, is the last frame of the context. Where an episode has ended, its truth
    is darkened and crossed out.

    Args:
        truth, generated: [K, T, H, W, 3].
        alive: bool [K, T], whether the episode still went on.
        seeds: int [K], its name.
        context: frames of context.
        upscale: each pixel is shown as this many, along height and width.
        every: frames from one picture to the next.
    """
    times = np.arange(context - 1, truth.shape[1], every)
    height, width = (size * upscale for size in truth.shape[2:4])
    letters = 12
    left = int(max(font(letters).getlength(word) for word in ("generated", f"seed {seeds.max()}"))) + 16
    top, pair = letters + 12, 2 * (height + 2) + 8
    picture = Image.new("RGB", (left + len(times) * (width + 2) + 6, top + len(truth) * pair), GROUND)
    draw = ImageDraw.Draw(picture)

    def write(x: int, y: int, text: str, colour: tuple[int, int, int], anchor: str) -> None:
        draw.text((x, y), text, colour, font(letters), anchor=anchor)

    for column, t in enumerate(times):
        x = left + column * (width + 2)
        if column == 0 or width >= 2 * letters or column % 2 == 0:  # as many numbers as there is room for
            write(x + width // 2, top // 2, f"+{t - context + 1}" if column else "0", FAINT_COLOUR, "mm")
        for k in range(len(truth)):
            for row, video in enumerate((truth[k], generated[k])):
                y = top + k * pair + row * (height + 2)
                ended = row == 0 and not alive[k, t]
                image = (video[t] // 3 if ended else video[t]).repeat(upscale, 0).repeat(upscale, 1)
                picture.paste(Image.fromarray(image), (x, y))
                if ended:
                    draw.line((x, y, x + width - 1, y + height - 1), fill=(110, 70, 70))
                    draw.line((x, y + height - 1, x + width - 1, y), fill=(110, 70, 70))
                if column == 0:
                    draw.rectangle((x, y, x + width - 1, y + height - 1), outline=CONTEXT_COLOUR, width=2)
    for k, seed in enumerate(seeds):
        y = top + k * pair
        if height >= 3 * letters:
            write(8, y + height // 2 - letters, f"seed {seed}", FAINT_COLOUR, "lm")
        write(8, y + height // 2 + (letters // 2 if height >= 3 * letters else 0), "truth", TEXT_COLOUR, "lm")
        write(8, y + height + 2 + height // 2, "generated", DREAM_COLOUR, "lm")
    return np.asarray(picture)
