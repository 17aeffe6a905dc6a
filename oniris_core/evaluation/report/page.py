"""The page of a report: one html file that needs nothing else, neither a network nor a file beside it."""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, StrictUndefined

PAGE_BYTES = 25_000_000
"""More than this, and a page is no longer opened on a phone or sent in a letter."""

HEADLINES = (
    "rollout/skill", "rollout/spread_over_error", "rollout/found", "rollout/position_px", "rollout/psnr", "told_apart/accuracy",
    "control/action_accuracy", "control/action_r2", "diversity/ratio", "rollout/return_correlation", "rollout/end_recall",
    "drift/one_object", "drift/still_iou", "drift/finite",
)  # fmt: skip
"""What is shown before all else, of what was measured; by horizon where there is a horizon."""
FIRST = ("skill", "energy", "spread", "found", "position", "angle", "told_apart", "control", "return", "end", "drift")
"""Words of the measures whose tables and lines come first."""
CANDIDATES = {
    "rollout": "generated",
    "floor": "simulator, its noise redrawn",
    "vae": "true frames through the VAE",
    "constant_velocity": "constant velocity",
    "copy_last": "last frame repeated",
    "mean_reward": "mean reward of the training episodes, up to the true end",
    "reader": "error of the network that reads it, on true frames",
    "other_actions": "generated under another episode's actions",
    "other_episode": "another episode",
}
"""What a metric's first part says, in the order of the rows; others follow as they are spelt."""
TITLES = {
    "skill": "skill by the energy score of the position (1: the simulator, 0: constant velocity)",
    "energy_px": "fair energy score: position",
    "energy_grey": "fair energy score: frames averaged down",
    "return_correlation": "correlation of the predicted return with the true one",
    "return_error": "error of the predicted return",
    "spread_over_error": "spread of the samples over the error of their mean (1 is right, below it the model is too sure)",
}
"""Of tables whose measures' names do not say enough."""
UNITS = {"return_error": "root mean square", "psnr": "dB", "crop_psnr": "dB"}
SUFFIXES = {"_px": "pixels of the simulator's screen", "_deg": "degrees", "_grey": "grey levels"}
"""Units by the name of a measure and by its last letters."""


@dataclass(frozen=True)
class Exhibit:
    """A picture or a video of the page.

    Attributes:
        name: of its file.
        data: the file's bytes.
        title: a few words.
        caption: what is shown, in a sentence; also read to those who cannot see it.
        wide: it needs the whole width of the page.
    """

    name: str
    data: bytes
    title: str
    caption: str
    wide: bool = False

    @property
    def uri(self) -> str:
        """The file as a data URI."""
        kind = "video/mp4" if self.name.endswith(".mp4") else "image/png"
        return f"data:{kind};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Table:
    """Figures of one measure: `rows` maps a candidate to its cells, one per column."""

    title: str
    columns: list[str]
    rows: dict[str, list[str]]


def page(
    title: str,
    metrics: Mapping[str, Any],
    pictures: Sequence[Exhibit],
    videos: Sequence[Exhibit],
    notes: Sequence[str] = (),
) -> str:
    """The page of a report as html.

    Args:
        title: its heading.
        metrics: by name; `candidate/measure@horizon` becomes a cell of the measure's table, `NAME_low` and `NAME_high` the
            95 % interval beside NAME.
        pictures: PNGs.
        videos: mp4s. Those that would make the page larger than PAGE_BYTES are left out, and a note says so.
        notes: sentences to put above all else, such as what is missing.
    """
    room = PAGE_BYTES - sum(len(picture.uri) for picture in pictures)
    shown: list[Exhibit] = []
    left_out: list[Exhibit] = []
    for video in videos:
        fits = len(video.uri) <= room
        (shown if fits else left_out).append(video)
        room -= len(video.uri) if fits else 0
    if left_out:
        names = ", ".join(video.name for video in left_out)
        notes = [*notes, f"Not on this page, which would grow too large: {names}. They are files beside the others."]
    return _TEMPLATE.render(
        title=title, cards=headlines(metrics), tables=tables(metrics), others=others(metrics),
        pictures=pictures, videos=shown, notes=notes,
    )  # fmt: skip


def headlines(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, interval) of each of HEADLINES that was measured, at the middle one of its horizons."""
    cards = []
    for measure in HEADLINES:
        names = [name for name in _figures(metrics) if name.partition("@")[0] == measure]
        if names:
            name = names[(len(names) - 1) // 2]
            cards.append((_words(name.removeprefix("rollout/")), _number(metrics[name]), _interval(metrics, name)))
    return cards


def tables(metrics: Mapping[str, Any]) -> list[Table]:
    """One table per measure, headline measures first: candidates as rows, horizons as columns."""
    cells: dict[str, dict[str, dict[int, str]]] = {}
    for name in _figures(metrics):
        if parts := _parts(name):
            candidate, measure, horizon = parts
            text = " ".join(filter(None, (_number(metrics[name]), _interval(metrics, name))))
            cells.setdefault(measure, {}).setdefault(candidate, {})[horizon] = text
    found = []
    for measure in sorted(cells, key=_rank):
        horizons = sorted({horizon for row in cells[measure].values() for horizon in row})
        order = [*(c for c in CANDIDATES if c in cells[measure]), *(c for c in cells[measure] if c not in CANDIDATES)]
        rows = {
            CANDIDATES.get(c, _words(c)): [cells[measure][c].get(horizon, "") for horizon in horizons] for c in order
        }
        suffix = next((end for end in SUFFIXES if measure.endswith(end)), "")
        unit = UNITS.get(measure) or SUFFIXES.get(suffix)
        words = TITLES.get(measure) or _words(measure.removesuffix(suffix)).replace("energy ", "fair energy score: ")
        title = words + (f" ({unit})" if unit else "")
        found.append(Table(title, [f"+{horizon}" for horizon in horizons], rows))
    return found


def others(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, interval) of everything that has no horizon, headline figures first."""
    names = [name for name in metrics if not _parts(name) and not _is_bound(metrics, name)]
    return [(_words(name), _number(metrics[name]), _interval(metrics, name)) for name in sorted(names, key=_rank)]


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    return [name for name, value in metrics.items() if isinstance(value, int | float) and not _is_bound(metrics, name)]


def _is_bound(metrics: Mapping[str, Any], name: str) -> bool:
    return name.endswith(("_low", "_high")) and name.rpartition("_")[0] in metrics


def _parts(name: str) -> tuple[str, str, int] | None:
    found = re.fullmatch(r"([^/@]+)/([^@]+)@(\d{1,9})", name)
    return (found[1], found[2], int(found[3])) if found else None


def _rank(name: str) -> int:
    return next((i for i, word in enumerate(FIRST) if word in name), len(FIRST))


def _words(name: str) -> str:
    return name.replace("_", " ").replace("/", ": ").replace("@", " at +")


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return str(value)
    return f"{value:.3g}" if not math.isfinite(value) or abs(value) < 100 else f"{value:.0f}"


def _interval(metrics: Mapping[str, Any], name: str) -> str:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return "" if low is None or high is None else f"({_number(low)} to {_number(high)})"


# Autoescape: names come from environments and parameters, and must stay words.
_TEMPLATE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined).from_string("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<link rel="icon" href="data:,">
<style>
:root { --paper: #faf9f7; --card: #fff; --ink: #1c1c20; --faint: #62626c; --line: #dfdcd6; --accent: #b4560a; --own: #fdf1e4 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #121216; --card: #1c1c22; --ink: #ececf0; --faint: #a2a2ae; --line: #34343e; --accent: #faa03c; --own: #2b2219 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 1rem }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem }
.note { border-left: 4px solid var(--accent); background: var(--card); padding: .6rem 1rem; margin: .5rem 0 }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 0 }
.cards div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem }
.cards dt { color: var(--faint); font-size: .85rem }
.cards dd { margin: 0; font-size: 1.7rem; font-weight: 600; line-height: 1.25 }
.cards small { display: block; font-size: .8rem; font-weight: 400; color: var(--faint) }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; margin: 0 0 1rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums }
caption { text-align: left; font-weight: 600; padding: .6rem .8rem }
th, td { padding: .35rem .8rem; text-align: right; border-top: 1px solid var(--line); overflow-wrap: normal }
th[scope=row], th:first-child { text-align: left; font-weight: 400; min-width: 9rem }
thead th { color: var(--faint); font-weight: 400 }
tr.own, tr.own th { background: var(--own); font-weight: 600 }
td small { display: block; white-space: nowrap; color: var(--faint); font-weight: 400 }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem }
figure img, figure video { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: .25rem; background: #121216 }
figcaption { margin-top: .6rem; font-size: .9rem; color: var(--faint) }
figcaption b { color: var(--ink) }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; align-items: start }
.row { grid-column: 1 / -1 }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
{% for note in notes %}
<p class="note" role="note">{{ note }}</p>
{% endfor %}
{% if cards %}
<dl class="cards">
{% for name, value, interval in cards %}
<div><dt>{{ name }}</dt><dd>{{ value }}{% if interval %}<small>{{ interval }}</small>{% endif %}</dd></div>
{% endfor %}
</dl>
{% endif %}
{% if videos %}
<h2>Videos</h2>
<div class="grid">
{% for video in videos %}
<figure{% if video.wide %} class="row"{% endif %}>
<video controls loop muted playsinline preload="metadata" aria-label="{{ video.title }}: {{ video.caption }}" src="{{ video.uri }}"></video>
<figcaption><b>{{ video.title }}.</b> {{ video.caption }}</figcaption>
</figure>
{% endfor %}
</div>
{% endif %}
<h2>Measures</h2>
<p>By frames after the last one of the context; in brackets the 95 % interval, where one was computed.</p>
{% for table in tables %}
<div class="wide" role="region" tabindex="0" aria-label="{{ table.title }}">
<table>
<caption>{{ table.title }}</caption>
<thead><tr><th scope="col">frames ahead</th>{% for column in table.columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for name, row in table.rows.items() %}
<tr{% if name == "generated" %} class="own"{% endif %}><th scope="row">{{ name }}</th>
{%- for cell in row %}{% set value, _, interval = cell.partition(" ") %}<td>{{ value }}{% if interval %}<small>{{ interval }}</small>{% endif %}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endfor %}
{% if others %}
<div class="wide" role="region" tabindex="0" aria-label="other figures">
<table>
<caption>other figures</caption>
<thead><tr><th scope="col">figure</th><th scope="col">value</th><th scope="col">95 % interval</th></tr></thead>
<tbody>
{% for name, value, interval in others %}
<tr><th scope="row">{{ name }}</th><td>{{ value }}</td><td>{{ interval }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
{% if pictures %}
<h2>Pictures</h2>
<div class="grid">
{% for picture in pictures %}
<figure{% if picture.wide %} class="row"{% endif %}>
<img src="{{ picture.uri }}" alt="{{ picture.title }}: {{ picture.caption }}">
<figcaption><b>{{ picture.title }}.</b> {{ picture.caption }}</figcaption>
</figure>
{% endfor %}
</div>
{% endif %}
</main>
</body>
</html>
""")  # noqa: E501
