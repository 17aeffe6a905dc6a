"""Pictures, videos and the page: they show what they are given, and they are made whatever ffmpeg does."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from matplotlib.figure import Figure

from oniris_core.common.artefacts.files import open_artefact
from oniris_core.common.errors import Interrupted, OnirisError
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.evaluation.measures.drift import Dreams
from oniris_core.evaluation.measures.evaluate import Evaluation, Futures
from oniris_core.evaluation.measures.told_apart import Pairs, Verdict
from oniris_core.evaluation.report import page as page_module
from oniris_core.evaluation.report.glyphs import ActionLegend, action_legend, glyph
from oniris_core.evaluation.report.page import Exhibit, page
from oniris_core.evaluation.report.pictures import (
    CONTEXT_COLOUR,
    DREAM_COLOUR,
    ENDED_COLOUR,
    Layout,
    difference,
    long_dream,
    side_by_side,
    side_by_side_layout,
    under_each_action,
    wall,
)
from oniris_core.evaluation.report.renders import write_results
from oniris_core.evaluation.report.sheets import FILM, PAPER, comparison, film_strip, telling_pairs
from oniris_core.evaluation.report.videos import write_video
from oniris_core.evaluation.rollouts.rollouts import Rollouts
from oniris_core.evaluation.scores.intervals import Estimate
from tests.conftest import Run, tree

LANDER = ActionSpec("discrete", (4,), start=(0,))
SPECS = {
    "lander": (action_legend(LANDER, "LunarLander-v3"), list(range(4))),
    "cart": (action_legend(ActionSpec("discrete", (2,), start=(0,)), "CartPole-v1"), [0, 1]),
    "from three": (action_legend(ActionSpec("discrete", (5,), start=(3,)), "Other-v0"), list(range(3, 8))),
    "thousand": (action_legend(ActionSpec("discrete", (1000,), start=(0,)), "Other-v0"), [0, 500, 999]),
    "box": (ActionLegend(ActionSpec("box", (1, 1), (-1, 0), (1, 2))), [[-1, 0], [0, 0], [0.5, 0], [0.5, 2], [9, 1]]),
    "buttons": (ActionLegend(ActionSpec("multi_binary", (1, 1, 1))), [[0, 0, 0], [1, 0, 0], [0, 0, 1]]),
    "dials": (ActionLegend(ActionSpec("multi_discrete", (3, 2), start=(0, 1))), [[0, 1], [2, 1], [2, 2]]),
}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def shrink(panel: np.ndarray, upscale: int) -> np.ndarray:
    """An enlarged picture in its own size; nothing may have been drawn over it."""
    small = panel[::upscale, ::upscale]
    assert np.array_equal(small.repeat(upscale, 0).repeat(upscale, 1), panel)
    return small


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("height", [12, 26])
def test_every_action_has_its_own_glyph(name: str, height: int) -> None:
    legend, actions = SPECS[name]
    drawn = [np.asarray(glyph(np.asarray(action), legend, height, 120)) for action in actions]
    assert all(picture.shape[0] == height and 0 < picture.shape[1] <= 120 for picture in drawn)
    assert len({picture.tobytes() for picture in drawn}) == len(actions)
    assert len({legend.text(np.asarray(action)) for action in actions}) == len(actions)


def test_a_glyph_takes_no_more_room_than_there_is() -> None:
    many = ActionLegend(ActionSpec("box", (1,) * 40, (-1,) * 40, (1,) * 40))
    assert glyph(np.zeros(40), many, 20, 50).width <= 50


def test_names_of_actions_are_used_where_they_fit() -> None:
    assert [SPECS["lander"][0].text(np.int64(i)) for i in range(4)] == ["none", "left", "main", "right"]
    continuous = action_legend(ActionSpec("box", (1, 1), (-1, -1), (1, 1)), "LunarLander-v3")
    assert (continuous.names, continuous.engines) == ((), False)
    assert continuous.text(np.array([0.25, -1])) in ("+0.2 -1.0", "+0.3 -1.0")
    assert action_legend(ActionSpec("discrete", (3,), start=(0,)), "LunarLander-v9").names == ()
    assert SPECS["from three"][0].text(np.int64(7)) == "7"


@pytest.mark.parametrize(
    ("size", "upscale"), [((64, 64), 4), ((32, 32), 4), ((32, 32), 1), ((25, 41), 3), ((50, 7), 1)]
)
def test_side_by_side_shows_truth_generated_and_difference(size: tuple[int, int], upscale: int) -> None:
    truth, generated = noise(4, *size), noise(4, *size, seed=1)
    alive = np.array([True, True, True, False])
    layout = side_by_side_layout(size, upscale)
    video = list(side_by_side(truth, generated, alive, np.arange(4), 2, SPECS["lander"][0], upscale))
    assert all(frame.shape == (*layout.size, 3) for frame in video)
    assert layout.size[0] % 2 == layout.size[1] % 2 == 0
    for t, frame in enumerate(video):
        left, middle, right = (shrink(frame[layout.area(panel)], upscale) for panel in range(3))
        assert np.array_equal(middle, generated[t])
        assert np.array_equal(left, truth[t] if alive[t] else truth[t] // 3)
        assert np.array_equal(right, difference(truth[t], generated[t]) if alive[t] else np.zeros_like(right))
        borders = [frame[layout.corner(panel)[0] - 1, layout.corner(panel)[1] - 1] for panel in range(3)]
        assert tuple(borders[1]) == (CONTEXT_COLOUR if t < 2 else DREAM_COLOUR)
        assert (tuple(borders[0]) == ENDED_COLOUR) == (not alive[t])
    without = next(side_by_side(truth, generated, alive, np.arange(4), 2, None, upscale))
    assert without.shape == video[0].shape
    assert not np.array_equal(without, video[0])  # the action is drawn


@pytest.mark.parametrize("name", SPECS)
def test_actions_of_every_kind_are_drawn_below_the_panels(name: str) -> None:
    legend, actions = SPECS[name]
    frames = noise(1, 32, 32).repeat(len(actions), 0)
    video = list(long_dream(frames, len(actions) + 1, np.asarray(actions), legend, 1))
    seen = {frame[32 + 24 :, :].tobytes() for frame in video}
    assert len(seen) == len(actions)


@pytest.mark.parametrize("count", [1, 3, 8, 16])
def test_the_wall_shows_every_sample(count: int) -> None:
    samples = noise(count, 3, 12, 20)
    frame = list(wall(samples, 2, np.array([0, 1, 2]), SPECS["lander"][0], 2))[2]
    columns = next(n for n in range(1, count + 1) if Layout(12, 20, 2, count, n).size == frame.shape[:2])
    layout = Layout(12, 20, 2, count, columns)
    for s in range(count):
        assert np.array_equal(shrink(frame[layout.area(s)], 2), samples[s, 2])


def test_one_context_under_each_action() -> None:
    by_action = {name: noise(3, 16, 16, seed=i) for i, name in enumerate(("none", "main", "a name " * 30))}
    frames = list(under_each_action(by_action, 2, SPECS["lander"][0], 4))
    layout = Layout(16, 16, 4, 3, 3)
    for i, video in enumerate(by_action.values()):
        assert np.array_equal(shrink(frames[2][layout.area(i)], 4), video[2])
    plain = list(under_each_action(by_action, 2, None, 4))
    assert not np.array_equal(plain[2], frames[2])  # engines above the panels whose names are actions


def test_a_long_dream_counts_its_frames() -> None:
    still = np.zeros((1005, 8, 8, 3), np.uint8)
    counted = set()
    for frame in long_dream(still, 5, np.zeros(1005, int), SPECS["lander"][0], 1):
        counted.add(frame.tobytes())
    assert len(counted) == 1005


def test_the_film_strip_has_three_rows_of_context_and_three_of_what_came_of_it() -> None:
    truth, generated = noise(48, 16, 20), noise(48, 16, 20, seed=1)
    sheet = film_strip(truth, generated, context=16, upscale=2)

    def found(frame: np.ndarray) -> list[int]:
        large = frame.repeat(2, 0).repeat(2, 1)
        windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (1, 40))[:, :, 0]
        tops = [row for row, column in np.argwhere((windows == large[0, :, 0]).all(-1))
                if np.array_equal(sheet[row : row + 32, column : column + 40], large)]  # fmt: skip
        return tops

    rows = [found(video[t]) for video, times in ((truth, range(1, 16)), (generated, range(17, 47, 2))) for t in times]
    assert all(len(tops) == 1 for tops in rows)
    tops = [top for (top,) in rows]
    assert tops == sorted(tops)
    assert len(set(tops)) == 6
    assert tuple(sheet[0, 0]) == PAPER
    assert tuple(sheet[22, -22]) == FILM
    assert not found(generated[3])
    assert not found(truth[20])


@pytest.mark.parametrize(("context", "length"), [(1, 2), (2, 40), (4, 5), (100, 110)])
def test_a_film_of_any_length_can_be_drawn(context: int, length: int) -> None:
    frames = noise(length, 9, 9)
    assert film_strip(frames, frames, context, 1).shape[1] < 400


def test_the_comparison_has_truth_above_generated() -> None:
    truth, generated = noise(2, 13, 16, 16), noise(2, 13, 16, 16, seed=1)
    alive = np.ones((2, 13), bool)
    sheet = comparison(truth, generated, alive, np.array([7, 123456789012]), 5, 3, every=4)
    alive[1, 8:] = False
    ended = comparison(truth, generated, alive, np.array([7, 123456789012]), 5, 3, every=4)
    left, top, pair = sheet.shape[1] - 3 * 50 - 6, 24, 2 * 50 + 8
    for k in range(2):
        for column, t in enumerate((4, 8, 12)):
            for row, video in enumerate((truth, generated)):
                y, x = top + k * pair + row * 50, left + column * 50
                same = np.array_equal(shrink(sheet[y : y + 48, x : x + 48], 3), video[k, t]) if column else True
                assert same
                crossed = k == 1 and row == 0 and column > 0
                assert np.array_equal(ended[y : y + 48, x : x + 48], sheet[y : y + 48, x : x + 48]) != crossed
    assert tuple(sheet[top, left]) == CONTEXT_COLOUR


def test_the_pairs_that_tell_most_stand_under_their_titles() -> None:
    real, made = noise(3, 20, 20), noise(3, 20, 20, seed=1)
    sheet = telling_pairs(real, made, ["7 at +4", "7 at +16", "123456 at +32"], upscale=3)
    for kind in (real, made):
        for crop in kind:
            large = crop.repeat(3, 0).repeat(3, 1)
            windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (1, 60))[:, :, 0]
            assert any(
                np.array_equal(sheet[y : y + 60, x : x + 60], large)
                for y, x in np.argwhere((windows == large[0, :, 0]).all(-1))
            )


def test_a_video_shows_its_frames_in_their_colours_and_has_the_same_bytes_again(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 102, 230)]
    frames = np.stack([np.full((34, 50, 3), colour, np.uint8) for colour in colours])
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, iter(frames), 25)
    decoded = iio.imread(tmp_path / "a.mp4")
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).max() <= 6
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


# The whole of what `render` writes


def rollouts() -> Rollouts:
    return Rollouts(
        truth=noise(2, 10, 16, 16), reconstructed=noise(2, 10, 16, 16, seed=1),
        samples=noise(2, 4, 10, 16, 16, seed=2), contexts=np.array([1]), other_actions=noise(1, 10, 16, 16, seed=3),
        actions=np.arange(20).reshape(2, 10) % 4, seeds=np.array([3, 5]),
        context=4, alive=np.arange(10) < np.array([[10], [7]]), finite=np.ones(2, bool),
    )  # fmt: skip


METRICS = {
    "episodes": 2, "rollout/psnr@4": 30.123, "copy_last/psnr@4": 20.5, "rollout/skill@4": 0.5, "rollout/skill@4_low": 0.41,
    "rollout/skill@4_high": 0.62, "floor/skill@4": 1.0, "control/action_accuracy_truth": 0.99,
    "control/action_accuracy": 0.875, "control/action_accuracy_low": 0.8, "control/action_accuracy_high": 0.9,
    "drift/finite": True,
}  # fmt: skip


def write(
    folder: Path, metrics: dict[str, object] = METRICS, env_id: str = "LunarLander-v3", tick=lambda: None
) -> None:
    futures = Futures(by_action=noise(1, 2, 10, 16, 16, seed=5), names=["none", "main"])
    dreams = Dreams([], np.zeros(1), np.ones(1, bool), noise(30, 16, 16, seed=7), np.arange(30) % 4)
    tables, figures = {"horizons": "horizon,psnr\n1,30\n"}, {"horizons": Figure()}
    verdict = Verdict(
        Estimate(np.asarray(0.8), np.asarray(0.7), np.asarray(0.9)),
        Pairs(noise(3, 20, 20), noise(3, 20, 20, seed=8), np.array([0, 0, 1]), np.array([4, 5, 4])), np.array([1.0, 3.0, 2.0]),
    )  # fmt: skip
    found = Evaluation(metrics, {}, rollouts(), futures, dreams, None, verdict, tables, figures)
    write_results(
        folder / "renders", folder / "report", found, {"env_id": env_id}, videos=2, frames_per_second=25,
        env_id=env_id, spec=LANDER, tick=tick,
    )  # fmt: skip


PICTURES = {"contact_sheet.png", "comparison.png", "told_apart.png"}
VIDEOS = {"rollout_000003.mp4", "rollout_000005.mp4", "by_action.mp4", "samples.mp4", "dream.mp4"}


class Page(HTMLParser):
    """What a page refers to, the text it shows, and whether its tags close."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_everything_is_written_and_the_page_holds_all_of_it(tmp_path: Path) -> None:
    write(tmp_path)
    open_artefact(tmp_path / "renders", "renders", made_by="render")
    open_artefact(tmp_path / "report", "report", made_by="render")
    assert set(tree(tmp_path / "renders")) == {*PICTURES, *VIDEOS, "manifest.json"}
    assert len(iio.imread(tmp_path / "renders/dream.mp4")) == 30
    html = (tmp_path / "report/index.html").read_text()
    found = Page(html)
    assert len(found.all("video")) == len(VIDEOS)
    assert len(found.all("img")) == len(PICTURES) + 1
    for file in VIDEOS | PICTURES:
        data = (tmp_path / "renders" / file).read_bytes()
        assert Exhibit(file, data, "", "").uri in [attrs["src"] for attrs in found.all("video") + found.all("img")]
    for video in found.all("video"):
        assert {"controls", "loop", "muted", "playsinline", "aria-label"} <= set(video)
    assert all(image["alt"] for image in found.all("img"))
    for attrs in (attrs for _, attrs in found.tags):
        assert all(attrs[key].startswith("data:") for key in ("src", "href", "srcset", "poster") if key in attrs)
    bare = re.sub(r"data:[\w/]+;base64,[\w+/=]+", "", html)
    assert "://" not in bare
    assert "url(" not in bare
    assert not found.all("script")
    assert len(found.all("table")) == len(found.all("caption")) == 3
    assert all(header["scope"] in ("row", "col") for header in found.all("th"))


def test_the_same_arrays_are_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_the_page_starts_with_the_headline_figures_and_gives_intervals() -> None:
    text = " ".join(" ".join(Page(page("t", METRICS, [], [])).text).split())
    assert text.index("skill at +4") < text.index("control: action accuracy 0.875") < text.index("Measures")
    assert "0.5 (0.41 to 0.62)" in text
    assert "0.875 (0.8 to 0.9)" in text
    assert "_low" not in text
    assert text.index("simulator, its noise redrawn") < text.index("psnr (dB)") < text.index("last frame repeated")
    assert "30.1" in text
    scored = {f"rollout/{name}@4": 1.0 for name in ("energy_angle_deg", "energy_px", "angle_deg", "spread_over_error")}
    text = " ".join(Page(page("t", {**scored, "reader/angle_deg@4": 2.8}, [], [])).text)
    assert "fair energy score: position (pixels of the simulator's screen)" in text
    assert "fair energy score: angle (degrees)" in text
    assert "error of the network that reads it, on true frames" in text
    assert Page(page("t", {}, [], [])).all("table") == []


def test_hostile_names_stay_words(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\" onload='x' &amp; http"
    metrics = {f"{evil}/psnr@4": 1.0, f"rollout/{evil}@4": 2.0, evil: evil, f"skill{evil}": 3}
    write(tmp_path, metrics, env_id=evil)
    found = Page((tmp_path / "report/index.html").read_text())
    assert not found.all("script")
    assert not any("onload" in attrs for _, attrs in found.tags)
    assert any(evil in text for text in found.text)
    exhibit = Exhibit("a.png", b"", evil, evil)
    found = Page(page(evil, {}, [exhibit], [Exhibit("a.mp4", b"", evil, evil)], [evil]))
    assert [image["alt"] for image in found.all("img")] == [f"{evil}: {evil}"]
    assert [video["aria-label"] for video in found.all("video")] == [f"{evil}: {evil}"]


def test_a_page_that_would_grow_too_large_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "PAGE_BYTES", 3000)
    videos = [Exhibit(f"{i}.mp4", bytes(size), "a", "b") for i, size in enumerate((1500, 1500, 300))]
    found = Page(page("t", {}, [], videos))
    assert [video["src"] for video in found.all("video")] == [videos[0].uri, videos[2].uri]
    assert "Not on this page, which would grow too large: 1.mp4." in " ".join(found.text)


BAD_FFMPEG = {
    "missing": None,
    "fails": "#!/bin/sh\necho it is broken >&2; exit 3\n",
    "fails at the end": "#!/bin/sh\ncat > /dev/null; echo it is broken >&2; exit 3\n",
    "breaks off": "#!/bin/sh\nfor last; do :; done; echo half a video > $last; cat > /dev/null; exit 3\n",
    "does nothing": "#!/bin/sh\ncat > /dev/null\n",
    "may not be run": "",
}


@pytest.fixture(params=BAD_FFMPEG)
def bad_ffmpeg(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    program = tmp_path / "bad_ffmpeg"
    if (text := BAD_FFMPEG[request.param]) is not None:
        program.write_text(text)
        program.chmod(0o755 if text else 0o644)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    return request.param


def test_without_ffmpeg_all_but_the_videos_is_written(bad_ffmpeg: str, tmp_path: Path) -> None:
    with pytest.raises(OnirisError, match=r"^ffmpeg could not write rollout_000003\.mp4: \S") as trouble:
        write(tmp_path / "made")
    assert "\n" not in str(trouble.value)
    assert ("it is broken" in str(trouble.value)) == bad_ffmpeg.startswith("fails")
    open_artefact(tmp_path / "made/renders", "renders", made_by="render")
    open_artefact(tmp_path / "made/report", "report", made_by="render")
    assert set(tree(tmp_path / "made/renders")) == {*PICTURES, "manifest.json"}
    assert json.loads((tmp_path / "made/report/metrics.json").read_text()) == METRICS
    found = Page((tmp_path / "made/report/index.html").read_text())
    assert found.all("video") == []
    assert len(found.all("img")) == len(PICTURES) + 1
    assert f"Some videos are missing: {trouble.value}" in found.text


def test_the_stage_says_in_one_line_that_ffmpeg_failed(
    pipeline: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(pipeline / "renders")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(pipeline / "no_such_program"))
    result = run(pipeline, "render")
    assert result.exit_code == 1
    errors = [line for line in result.output.splitlines() if "error" in line]
    assert len(errors) == 1
    assert errors[0].startswith("oniris: error: ffmpeg could not write rollout_")
    assert "Traceback" not in result.output
    assert set(tree(pipeline / "renders")) >= {
        "contact_sheet.png",
        "comparison.png",
    }  # one episode: nothing to tell apart
    assert (pipeline / "reports/render/index.html").is_file()


def test_a_stop_during_a_video_leaves_nothing_half_written(tmp_path: Path) -> None:
    ticks = []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 13:
            raise Interrupted(2)

    with pytest.raises(Interrupted):
        write(tmp_path, tick=tick)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not shutil.which("chromium"), reason="Chromium is not installed")
def test_a_browser_shows_the_page_without_sideways_scrolling(tmp_path: Path) -> None:
    write(tmp_path)
    html = (tmp_path / "report/index.html").read_text()
    report = "[...document.images].every(i => i.naturalWidth > 0) + ' ' + (document.documentElement.scrollWidth <= innerWidth)"
    script = f"<script>addEventListener('load', () => document.title = {report})</script>"
    (tmp_path / "page.html").write_text(html.replace("</body>", script + "</body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,800",
               f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "page.html").as_uri()]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "<title>true true</title>" in shown
