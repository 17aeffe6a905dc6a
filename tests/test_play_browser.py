"""The page in a real browser, with the weights in demo/: what is pressed is dreamt, and what was dreamt comes back."""

import asyncio
import contextlib
import importlib.util
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oniris_core.data.rows.actions import ActionSpec
from oniris_core.play.house import House
from tests.players import house, served
from tests.project import ROOT

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
MISSING = (
    "" if BROWSER and importlib.util.find_spec("playwright")
    else "no Chromium here (apt-get install chromium)" if not BROWSER
    else "the package playwright is missing (pip install '.[browser]')"
)  # fmt: skip
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of Playwright's own pipes
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own with the demo's weights and a single solver step."""
    folder = tmp_path_factory.mktemp("play")
    command = [
        sys.executable, "-m", "stages.play", "--params", "demo/params.yaml", "--vae", "demo/vae", "--world", "demo/world",
        "--starts", "demo/starts.npz", "--recordings", str(folder), "--port", "0", "--quality", "fast",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as server:
        assert server.stderr is not None
        said = ""
        while "Play at" not in said:
            said = server.stderr.readline()
            assert said, "the server has ended"
        yield said.split()[2]
        server.terminate()
        assert server.wait(20) == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


# Red, green, blue and opacity of every pixel.
PIXELS = "(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data)(document.querySelector('{}'))"


class Tab:
    """One page in the browser."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.errors = page, list[str]()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.goto(address)
        self.until("oniris.state.at === 0 && !oniris.state.busy")

    def until(self, condition: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, (
                f"never came: {condition}; {self.page.evaluate('JSON.stringify(oniris.state)')}"
            )
            time.sleep(0.02)

    def seen(self, canvas: str = "#dream") -> str:
        """The canvas, read back: the red, green and blue of its pixels, in hexadecimal."""
        pixels = self.page.evaluate(f"Array.from({PIXELS.format(canvas)})")
        return np.array(pixels, np.uint8).reshape(-1, 4)[:, :3].tobytes().hex()

    def lander(self) -> float | None:
        """How far to the right the violet lander of the dream is, pixels; None: not in sight."""
        rgb = np.frombuffer(bytes.fromhex(self.seen()), np.uint8).reshape(64, 64, 3).astype(int)
        violet = np.clip(np.minimum(rgb[..., 0], rgb[..., 2]) - rgb[..., 1] - 12, 0, None).sum(0)
        return float((violet * np.arange(64)).sum() / violet.sum()) if violet.sum() > 40 else None

    def restart(self, start: int = 0) -> None:
        self.page.select_option("#start", value=str(start))
        self.page.evaluate("document.activeElement.blur()")
        self.page.keyboard.press("r")
        self.until("oniris.at === 0 && oniris.state.at === 0 && !oniris.state.running && oniris.shown === 0")

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            at = self.page.evaluate("oniris.shown")
            self.page.keyboard.press("n")
            self.until(f"oniris.shown === {at + 1} && oniris.film.waiting.length === 0")


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Callable[..., Tab]]:
    """Opens tabs: `tab(width=..., ...)`; no error may have been said in any of them."""
    contexts, tabs = [], list[Tab]()

    def opened(width: int = 1280, height: int = 800, **options: Any) -> Tab:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        tabs.append(Tab(contexts[-1].new_page(), address))
        return tabs[-1]

    yield opened
    for context in contexts:
        context.close()
    assert [error for one in tabs for error in one.errors] == []


def test_the_dream_obeys_the_keys(tab: Callable[..., Tab]) -> None:
    """Held for a while from several starts, left leads further to the left than right does."""
    one = tab()
    ends = dict[str, list[float]]()
    for key in ("ArrowLeft", "ArrowRight"):
        for start in range(3):
            one.restart(start)
            one.page.keyboard.down(key)
            one.until("oniris.shown >= 5")
            one.page.keyboard.press("Space")
            one.page.keyboard.up(key)
            one.until("!oniris.state.running")
            at = one.lander()
            ends.setdefault(key, []).append(float("nan") if at is None else at)
    further = [right - left for left, right in zip(ends["ArrowLeft"], ends["ArrowRight"], strict=True)]
    assert sum(difference > 0 for difference in further) >= 2, ends
    assert not any(difference < -1 for difference in further), ends


def test_rewinding_shows_the_same_bytes_and_the_same_actions_give_them_again(tab: Callable[..., Tab]) -> None:
    one = tab()
    one.page.keyboard.press("ArrowUp")  # begins, and rests
    one.until("oniris.shown >= 1")
    one.page.keyboard.press("Space")
    one.until("!oniris.state.running")
    one.restart()
    seen = [one.seen()]
    for _ in range(5):
        one.step()
        seen.append(one.seen())
    assert len(set(seen)) == 6
    for at in (2, 4, 1):
        one.page.evaluate(
            f"(s => {{ s.value = {at}; s.dispatchEvent(new Event('input')) }})(document.querySelector('#scrub'))"
        )
        one.until(f"oniris.looking && oniris.shown === {at}")
        assert one.seen() == seen[at]
    one.page.keyboard.press("g")  # go on from here
    one.until("!oniris.looking && oniris.state.running")
    one.page.keyboard.press("Space")
    one.until("!oniris.state.running && oniris.film.waiting.length === 0")
    one.page.evaluate("(s => { s.value = 2; s.dispatchEvent(new Event('input')) })(document.querySelector('#scrub'))")
    one.until("oniris.shown === 2 && (oniris.looking || oniris.at === 2)")
    assert one.seen() == seen[2]


def test_four_futures_beside_each_other_and_the_truth(tab: Callable[..., Tab]) -> None:
    one = tab()
    known = list[float]()
    for start in range(4):  # whether the lander is seen in a dream is a matter of its noise
        one.restart(start)
        one.step(2)
        one.until("oniris.errors.length === 2")
        known += [error for error in one.page.evaluate("oniris.errors") if error is not None]
    assert known
    assert max(known) < 60
    assert one.seen("#true") != "000000" * 64 * 64
    one.page.keyboard.press("f")
    one.until("oniris.state.rows === 4")
    one.page.keyboard.press("n")
    one.until(
        "oniris.shown === 3 && document.querySelectorAll('#views canvas').length === 4 && oniris.film.waiting.length === 0"
    )
    futures = [one.seen(f"#views button:nth-child({row}) canvas") for row in (1, 2, 3, 4)]
    assert len(set(futures)) == 4
    one.page.keyboard.press("3")
    one.until("oniris.state.rows === 1 && document.querySelectorAll('#views canvas').length === 1")
    assert one.seen() == futures[2]
    one.page.keyboard.press("t")
    one.until("!oniris.state.truth && document.querySelector('#screens.alone')")


def test_a_recording_is_played_back(tab: Callable[..., Tab]) -> None:
    one = tab()
    one.restart()
    one.step(3)
    one.page.keyboard.press("v")
    one.until("document.querySelector('#saved').open")
    one.until("document.querySelector('#video').currentTime > 0.1")
    rows = 17 + 3 * 4
    assert abs(one.page.evaluate("document.querySelector('#video').duration") - rows / 25) < 0.1
    assert one.page.evaluate("document.querySelector('#video').error") is None
    assert "--source npz" in one.page.inner_text("#saved-command")
    with one.page.expect_download() as download:
        one.page.click("#saved-links a:nth-child(2)")
    assert download.value.suggested_filename == "dream-0001.npz"
    with np.load(Path(download.value.path())) as file:
        assert file["image"].shape == (rows, 64, 64, 3)
        assert file["image"][-1].tobytes().hex() == one.seen()


def test_two_tabs_play_at_once(tab: Callable[..., Tab]) -> None:
    one, two = tab(), tab()
    assert one.page.evaluate("sessionStorage['oniris-session']") != two.page.evaluate(
        "sessionStorage['oniris-session']"
    )
    one.restart(0)
    two.restart(2)
    one.page.keyboard.down("ArrowLeft")
    two.page.keyboard.down("ArrowRight")
    one.until("oniris.shown >= 3")
    two.until("oniris.shown >= 3")
    assert one.page.inner_text("#applied") == "left"
    assert two.page.inner_text("#applied") == "right"
    one.page.keyboard.up("ArrowLeft")
    one.page.keyboard.press("Space")
    two.page.keyboard.press("Space")
    for each in (one, two):
        each.until("!oniris.state.running")
        assert each.page.evaluate("oniris.latencies.length") >= 1


def test_it_is_played_by_touch_at_a_phones_width(tab: Callable[..., Tab]) -> None:
    one = tab(390, 844, has_touch=True, is_mobile=True)
    assert one.page.evaluate("document.documentElement.scrollWidth") <= 390
    for element in ("#dream", "#true", "#keys button", "#run"):
        box = one.page.locator(element).first.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert box["y"] + box["height"] <= 844  # on one screen
    left = one.page.locator("#keys button[data-value='1']")
    assert left.bounding_box()["height"] >= 44  # for a finger
    left.dispatch_event("pointerdown", {"pointerId": 1, "isPrimary": True, "pointerType": "touch"})
    one.until("oniris.shown >= 1")
    assert one.page.inner_text("#applied") == "left"
    left.dispatch_event("pointerup", {"pointerId": 1})
    one.until("document.querySelector('#applied').textContent === 'nothing'")
    one.page.tap("#run")
    one.until("!oniris.state.running")


def test_it_is_played_without_a_mouse(tab: Callable[..., Tab]) -> None:
    one = tab()
    reached = list[str]()
    for _ in range(25):
        one.page.keyboard.press("Tab")
        reached.append(one.page.evaluate("document.activeElement.id || document.activeElement.dataset.value || ''"))
    for element in ("scrub", "run", "step", "restart", "futures", "save", "start", "latents", "truth", "help"):
        assert element in reached, reached
    one.page.focus("#step")
    one.page.keyboard.press("Enter")
    one.until("oniris.shown === 1")
    one.page.focus("#help")
    one.page.keyboard.press("Enter")
    one.until("document.querySelector('#keys-help').open")
    one.page.keyboard.press("Escape")
    one.until("!document.querySelector('#keys-help').open")
    one.page.focus("#run")
    one.page.keyboard.press("Space")
    one.until("oniris.state.running")
    one.page.keyboard.press("Space")
    one.until("!oniris.state.running")


def test_a_page_that_was_cut_off_goes_on(tab: Callable[..., Tab]) -> None:
    one = tab()
    one.restart(1)
    one.step(3)
    seen = one.seen()
    one.page.context.set_offline(True)
    one.page.evaluate("oniris.engine.cut()")
    one.until("!document.querySelector('#message').hidden")
    assert "Trying again" in one.page.inner_text("#message")
    one.page.wait_for_timeout(1500)
    one.page.context.set_offline(False)
    one.until("oniris.state.at === 3 && document.querySelector('#message').hidden")
    assert one.seen() == seen
    one.step(1)
    one.page.reload()
    one.until("window.oniris?.state.at === 4 && oniris.shown === 4")
    assert one.page.evaluate("document.querySelector('#start').value") == "1"
    one.errors[:] = [
        error for error in one.errors if "ERR_INTERNET_DISCONNECTED" not in error and "WebSocket" not in error
    ]


@contextlib.contextmanager
def serving(of: House) -> Iterator[str]:
    """The address of a server in a thread of its own."""
    ready, stop = queue.Queue[str](), queue.Queue[None]()

    async def serve() -> None:
        async with served(of) as server:
            ready.put(server.address)
            await asyncio.to_thread(stop.get)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield ready.get(timeout=20)
    finally:
        stop.put(None)
        thread.join(20)


CASES = {
    "box": (
        ActionSpec("box", (1, 1, 1), (-1.0, 0.0, -2.0), (1.0, 1.0, 2.0)),
        "1 0.00, 2 0.00, 3 0.00",
        "1 1.00, 2 0.00, 3 0.00",
    ),
    "discrete": (ActionSpec("discrete", (12,), start=(3,)), "3", "4"),
    "multi_discrete": (ActionSpec("multi_discrete", (3, 2), start=(0, 0)), "0, 0", "1, 0"),
    "multi_binary": (ActionSpec("multi_binary", (1, 1, 1)), "1 off, 2 off, 3 off", "1 off, 2 on, 3 off"),
}


@pytest.mark.parametrize("kind", CASES)
def test_every_kind_of_action_has_its_controls(kind: str, browser: Any, tmp_path: Path) -> None:
    """Shown, pressed and applied; released where that means something."""
    spec, rest, pressed = CASES[kind]
    with serving(house(tmp_path, spec=spec)) as address, browser.new_context() as context:
        one = Tab(context.new_page(), address)
        assert one.page.inner_text("#applied") == rest
        one.page.keyboard.down("ArrowRight" if kind == "box" else "Digit2")
        one.until(f"document.querySelector('#applied').textContent === '{pressed}'")
        if kind == "box":
            one.page.keyboard.up("ArrowRight")
            one.until(f"document.querySelector('#applied').textContent === '{rest}'")
            one.page.locator("#keys input").nth(1).fill("0.25")
            one.until("document.querySelector('#applied').textContent === '1 0.00, 2 0.25, 3 0.00'")
        if kind == "multi_discrete":
            one.page.keyboard.press("Digit5")
            one.until("document.querySelector('#applied').textContent === '1, 1'")
        assert "no truth" in one.page.inner_text("#curve-label")
        assert one.errors == []


def test_a_gamepad_plays(tab: Callable[..., Tab]) -> None:
    one = tab()
    one.page.evaluate("navigator.getGamepads = () => [{ axes: [-1, 0], buttons: [] }]")
    one.until("document.querySelector('#applied').textContent === 'left'")
    one.page.evaluate("navigator.getGamepads = () => [{ axes: [0, 0], buttons: [{ pressed: true }] }]")
    one.until("document.querySelector('#applied').textContent === 'main engine'")
    one.page.evaluate("navigator.getGamepads = () => [null]")
