"""The exported page in a real browser, opened from the disk: it dreams torch's frames, obeys keys and asks for nothing."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oniris_core.common.errors import OnirisError
from oniris_core.environment.starts import open_starts
from oniris_core.play.session import NOISE
from tests.exports import TorchDream, sampler_of
from tests.test_play_browser import MISSING, Tab, browser

pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of Playwright's own pipes
]
__all__ = ["browser"]  # a fixture


@pytest.fixture(scope="module")
def write(small_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Writes the page of the small model."""
    from oniris_core.export.description import Description
    from oniris_core.export.page import write_page
    from oniris_core.export.runtime import fetch, read_runtime
    from oniris_core.vae.codec import Codec
    from oniris_core.vae.store import load_vae
    from oniris_core.world.store import load_world

    try:
        web = read_runtime(fetch(tmp_path_factory.mktemp("runtime")))
    except OnirisError as error:
        pytest.skip(f"no onnxruntime-web: {error}")
    about = Description.model_validate_json((small_export / "out/model.json").read_text())
    codec, world = Codec(*load_vae(small_export / "vae")), load_world(small_export / "world")

    def written(out: Path) -> Path:
        write_page(out, small_export / "out", about, codec, world, web)
        return out

    return written


@pytest.fixture(scope="module")
def html(write: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page."""
    return write(tmp_path_factory.mktemp("page") / "play.html")


@pytest.fixture
def tab(browser: Any, html: Path) -> Iterator[Callable[..., Tab]]:
    """Opens tabs: no error may have been said in any of them, and nothing asked for but the page itself."""
    contexts, tabs, asked = [], list[Tab](), list[str]()

    def opened(width: int = 1280, height: int = 800, **options: Any) -> Tab:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        contexts[-1].on("request", lambda request: asked.append(request.url))
        tabs.append(Tab(contexts[-1].new_page(), html.as_uri()))
        return tabs[-1]

    yield opened
    for context in contexts:
        context.close()
    assert [error for one in tabs for error in one.errors] == []
    assert {url for url in asked if not url.startswith(("blob:", "data:"))} == {html.as_uri()}


def dreamt(one: Tab, first: int, end: int) -> np.ndarray:
    """uint8 [rows, T, H, W, 3]: what the page has dreamt from latent frame `first` on."""
    read = f"oniris.engine.dreamt.slice({first}, {end}).map(({{ frames }}) => Array.from(frames))"
    frames = np.array(one.page.evaluate(read), np.uint8).reshape(end - first, -1, 4, 32, 32, 3)
    return np.concatenate(list(frames), axis=1)


def test_it_dreams_three_hundred_frames_as_torch_does(tab: Callable[..., Tab], small_export: Path) -> None:
    one = tab()
    one.page.click("[data-quality='fine']")
    one.restart(1)
    one.page.evaluate("oniris.engine.speed(4)")
    one.page.keyboard.down("ArrowLeft")
    one.until("oniris.at >= 20")
    one.page.keyboard.up("ArrowLeft")
    one.page.keyboard.down("ArrowUp")
    one.until("oniris.at >= 75")
    one.page.keyboard.up("ArrowUp")
    one.page.keyboard.press("Space")
    one.until("!oniris.state.running")
    actions = one.page.evaluate("oniris.engine.dreamt.slice(0, 75).map(({ action }) => action)")
    assert {1, 2} <= set(actions)
    ours = TorchDream(small_export, sampler_of(small_export))
    ours.begin(open_starts(small_export / "starts.npz", 9, 2).starts[1:2], 4)
    frames = np.concatenate([ours.step(np.full((1, 4), action), [NOISE]) for action in actions], axis=1)
    found = dreamt(one, 0, 75)
    assert found.shape == (1, 300, 32, 32, 3)
    assert frames.std() > 10
    assert np.abs(frames.astype(int) - found).max() <= 1


def test_the_keys_decide_what_is_dreamt(tab: Callable[..., Tab]) -> None:
    one = tab()
    made = dict[str, str]()
    for key, words in (("ArrowLeft", "left"), ("ArrowRight", "right")):
        one.restart()
        one.page.keyboard.down(key)
        one.until("oniris.shown >= 4")
        assert one.page.inner_text("#applied") == words
        one.page.keyboard.press("Space")
        one.until("!oniris.state.running")
        one.page.keyboard.up(key)
        one.page.wait_for_timeout(300)
        assert not one.page.evaluate("oniris.state.running")  # a key that is let go of begins nothing
        made[key] = dreamt(one, 0, 4).tobytes().hex()
    assert made["ArrowLeft"] != made["ArrowRight"]


def test_rewinding_and_futures(tab: Callable[..., Tab]) -> None:
    """As on the page of a server: the same bytes again, also when the model must work its way back."""
    one = tab()
    one.restart()
    seen = [one.seen()]
    for _ in range(6):
        one.step()
        seen.append(one.seen())
    one.page.evaluate("(s => { s.value = 2; s.dispatchEvent(new Event('input')) })(document.querySelector('#scrub'))")
    one.until("oniris.looking && oniris.shown === 2")
    assert one.seen() == seen[2]
    before = dreamt(one, 0, 4)
    one.page.evaluate("oniris.engine.rewind(3, false, false)")
    one.page.evaluate("oniris.looking = false")
    one.until("oniris.state.at === 3")
    one.step()
    assert (dreamt(one, 0, 4) == before).all()
    one.page.keyboard.press("f")
    one.until("oniris.state.rows === 4")
    one.step()
    futures = [one.seen(f"#views button:nth-child({row}) canvas") for row in (1, 2, 3, 4)]
    assert len(set(futures)) == 4
    one.page.keyboard.press("3")
    one.until("oniris.state.rows === 1 && document.querySelectorAll('#views canvas').length === 1")
    assert one.seen() == futures[2]
    one.step()
    assert one.page.evaluate("oniris.at") == 6


def test_a_video_is_recorded(tab: Callable[..., Tab]) -> None:
    one = tab()
    one.restart()
    one.step(3)
    one.page.keyboard.press("v")
    one.until("document.querySelector('#saved').open")
    one.until("document.querySelector('#video').currentTime > 0.05")
    assert one.page.evaluate("document.querySelector('#video').error") is None
    assert not one.page.is_visible("#saved-command")
    with one.page.expect_download() as download:
        one.page.click("#saved-links a")
    assert download.value.suggested_filename.startswith("dream-1.")


def test_a_phones_width_and_touch(tab: Callable[..., Tab]) -> None:
    one = tab(390, 844, has_touch=True, is_mobile=True)
    assert one.page.evaluate("document.documentElement.scrollWidth") <= 390
    for element in ("#dream", "#keys button", "#run"):
        box = one.page.locator(element).first.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert box["y"] + box["height"] <= 844
    left = one.page.locator("#keys button[data-value='1']")
    left.dispatch_event("pointerdown", {"pointerId": 1, "isPrimary": True, "pointerType": "touch"})
    one.until("oniris.shown >= 1")
    assert one.page.inner_text("#applied") == "left"
    left.dispatch_event("pointerup", {"pointerId": 1})


def said(browser: Any, file: Path, script: str = "") -> str:
    """What a page says that cannot dream."""
    with browser.new_context() as context:
        page = context.new_page()
        if script:
            page.add_init_script(script)
        page.goto(file.as_uri())
        deadline = time.monotonic() + 60
        while not page.evaluate("!window.oniris || document.querySelector('#message').textContent.includes('cannot')"):
            assert time.monotonic() < deadline, "it says nothing"
            time.sleep(0.05)
        return str(page.inner_text("#message"))


def test_damage_and_old_browsers_are_told(browser: Any, html: Path, tmp_path: Path) -> None:
    text = html.read_text()
    place = text.index('id="part-decode.onnx"')
    place = text.index(">", place) + 1000
    other = "A" if text[place] != "A" else "B"
    damaged = tmp_path / "damaged.html"
    damaged.write_text(text[:place] + other + text[place + 1 :])
    assert "this file is damaged" in said(browser, damaged)
    assert "decode.onnx" in said(browser, damaged)
    # Without the checksum's function, as on a page from a plain http address, there is gzip's own.
    assert "this file is damaged" in said(
        browser, damaged, "Object.defineProperty(crypto, 'subtle', { value: undefined })"
    )
    damaged.write_text(text.replace("const SPEEDS", "const SPEEDZ"))
    assert "the file is damaged or the browser too old" in said(browser, damaged)
    damaged.write_text(text[: len(text) // 2])
    assert "the file is damaged or the browser too old" in said(browser, damaged)
    assert "WebAssembly with SIMD" in said(browser, html, "WebAssembly.validate = () => false")


def test_a_page_with_webgpu_dreams_where_there_is_none(
    browser: Any, write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime of large models computes by WebAssembly as well."""
    from oniris_core.export import page

    monkeypatch.setattr(page, "GPU_FROM", 0)
    out = write(tmp_path / "play.html")
    with browser.new_context() as context:
        one = Tab(context.new_page(), out.as_uri())
        one.step(2)
        assert "Computed by WebAssembly" in one.page.inner_text("#lasts")
        assert one.errors == []


def test_it_says_what_it_holds(html: Path, write: Callable[[Path], Path], tmp_path: Path) -> None:
    text = html.read_text()
    assert write(tmp_path / "again.html").read_text() == text  # equal models are equal bytes
    assert "Permission is hereby granted, free of charge" in text
    assert "Copyright (c) Microsoft Corporation" in text
    assert "sourceMappingURL" not in text
    assert "default-src 'none'" in text
    assert "connect-src" not in text
