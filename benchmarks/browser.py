"""Time of a latent frame of one rollout on one thread: in torch, in onnxruntime, and on the exported page in a real browser.

    python -m stages.export --half --html play.html
    python -m benchmarks.browser --html play.html

Needs what `stages.export` has written, a Chromium and Playwright (the extra `browser`). The page is opened from the disk and
played: a key every half second. It is timed as it shows itself: ready when it waits for the first key, frames a second as
drawn, and key to picture from the key's event to the frame on the canvas.
"""

import shutil
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.harness import PARAMS_FILE, medians, print_table
from benchmarks.rollout_cost import whole_window
from oniris_core.config.reader import load_section, read_yaml
from oniris_core.environment.starts import Starts, open_starts
from oniris_core.export.driver import Dream
from oniris_core.sampling.autoregressive import Sampler
from oniris_core.sampling.params import RenderParams
from oniris_core.sampling.stepper import Stepper
from oniris_core.vae.codec import Codec
from oniris_core.vae.store import load_vae
from oniris_core.world.generation_form import GenerationForm
from oniris_core.world.store import World, load_world

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Stepping:
    """A rollout whose window is full, of a stepper or of the driver, a latent frame a call."""

    def __init__(self, stepper: Stepper, starts: Starts, latents: int, window: int) -> None:
        start, rows = starts.starts[0], 1 + latents * stepper.group
        self.stepper, self.actions = stepper, start.actions[None, rows - stepper.group : rows]
        self.moment, _ = stepper.begin(start.frames[None, :rows], start.actions[None, :rows])
        for _ in range(window):
            self()

    def __call__(self) -> None:
        self.moment, _ = self.stepper.step(self.moment, self.actions, [0])


def driven(folder: Path, starts: Starts, latents: int) -> Any:
    """The driver's latent frames; its states have room for the whole window from the start."""
    driver, start = Dream(folder), starts.starts[0]
    rows = 1 + latents * driver.group
    driver.begin(start.frames[None, :rows], start.actions[None, :rows])
    actions = start.actions[None, rows - driver.group : rows]
    return lambda: driver.step(actions, [0])


def played(html: Path, seconds: float, arguments: list[str]) -> dict[str, Any]:
    """What a page says of itself after so many seconds."""
    from playwright.sync_api import sync_playwright

    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit("no Chromium here (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", *arguments])
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        began = time.perf_counter()
        page.goto(html.absolute().as_uri())
        while not page.evaluate("window.oniris?.state.at === 0 && oniris.film !== null"):  # the page forbids eval
            time.sleep(0.02)
        ready = time.perf_counter() - began
        page.click("[data-quality='fine']")
        keys, end, rates = ["ArrowLeft", "ArrowUp", "ArrowRight"], time.perf_counter() + seconds, list[float]()
        number, model = 0, list[float]()
        while time.perf_counter() < end:
            key = keys[number % 3]
            number += 1
            page.keyboard.down(key)
            page.wait_for_timeout(250)
            page.keyboard.up(key)
            page.wait_for_timeout(250)
            rates.append(page.evaluate("oniris.film.rate"))
            model += page.evaluate("oniris.milliseconds.splice(0)")
        told = page.evaluate(
            "({ latencies: oniris.latencies, runs: oniris.hello.runs, frames: oniris.at * oniris.hello.group })"
        )
        version = browser.version
        browser.close()
    return {**told, "ready": ready, "rate": statistics.median(rates[4:] or rates), "model": model, "version": version}


def torch_cases(
    world: World, codec: Codec, sampler: Sampler, starts: Starts, latents: int, compiled: bool
) -> dict[str, Any]:
    """The ways in torch, by name."""
    window = world.denoiser.config.unet.window
    cases: dict[str, Any] = {
        "torch, the form that trains": whole_window(world.denoiser, sampler.steps, 1, torch.device("cpu")),
        "torch, folded": Stepping(Stepper(world, codec, sampler), starts, latents, window),
    }
    if compiled:
        form = GenerationForm(world.denoiser)
        form.compile_parts()
        graphs = World(world.denoiser, form, world.mean, world.std, world.action_spec, world.vae_identity)
        cases["torch, folded and compiled"] = Stepping(Stepper(graphs, codec, sampler), starts, latents, window)
    return cases


def main(
    html: Annotated[Path | None, typer.Option(help="the page")] = None,
    export: Annotated[Path, typer.Option(help="the folder of graphs")] = Path("models/export"),
    vae: Annotated[Path, typer.Option(help="the VAE")] = Path("models/vae"),
    world: Annotated[Path, typer.Option(help="the world model")] = Path("models/world"),
    params: Annotated[Path, typer.Option(help="the parameter file, for the sampler")] = PARAMS_FILE,
    compiled: Annotated[bool, typer.Option(help="compile too: takes a minute or two")] = False,
    seconds: Annotated[float, typer.Option(help="how long the page is played")] = 20.0,
    repetitions: Annotated[int, typer.Option(help="latent frames that are timed; the median is printed")] = 15,
    browser: Annotated[
        list[str], typer.Option(help="an argument for the browser, such as --enable-unsafe-webgpu")
    ] = [],  # noqa: B006
) -> None:
    """Time of a latent frame, from torch to the browser."""
    torch.set_num_threads(1)
    rendering = load_section(RenderParams, "render", read_yaml(params), params, {})
    model, codec = load_world(world, rendering.ema_width), Codec(*load_vae(vae))
    starts = open_starts(export / "starts.npz", 1, 2)
    cases = torch_cases(model, codec, Sampler.of(rendering), starts, rendering.context_latents, compiled)
    cases["onnxruntime"] = driven(export, starts, rendering.context_latents)
    times = {name: 1e3 * value for name, value in medians(cases, repetitions).items()}
    told = played(html, seconds, browser) if html else None
    if told:
        times[f"page, Chromium {told['version']}"] = float(np.median(told["model"]))
    group = codec.vae.config.group
    print(f"\nA latent frame of {group} frames, {1e3 * group / starts.frame_rate:.0f} ms of the environment's time\n")
    print_table(["way", "ms"], [[name, f"{value:.1f}"] for name, value in times.items()])
    if told and html:
        keys = [f"{np.quantile(told['latencies'], share):.0f}" for share in (0.5, 0.95)]
        print(f"\n{told['runs']}\n")
        print_table(
            ["page, MB", "ready, s", "frames/s", "frames", "key to picture, ms", "95 %"],
            [[f"{html.stat().st_size / 1e6:.1f}", f"{told['ready']:.1f}", f"{told['rate']:.1f}", str(told["frames"]), *keys]],
        )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
