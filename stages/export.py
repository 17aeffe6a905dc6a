"""Not in the pipeline: writes a world model as files that run without this project."""

from pathlib import Path
from typing import Annotated

import typer

from oniris_core.common.artefacts.remote import Location
from oniris_core.config.cli import Settings, place, say, stage
from oniris_core.sampling.params import RenderParams

STARTS = 8
"""Episodes that dreams can begin from, or as many as there are."""

PAGE = b"<!doctype html>"
"""What a page begins with."""


@stage("render", RenderParams, in_pipeline=False)
def app(
    settings: Settings[RenderParams],
    starts: Annotated[Location, place("the episode store, or the file of starts, dreams begin from")] = Path(
        "data/episodes.zarr"
    ),
    vae: Annotated[Path, typer.Option(help="the VAE")] = Path("models/vae"),
    world: Annotated[Path, typer.Option(help="the world model")] = Path("models/world"),
    out: Annotated[Path, typer.Option(help="the folder to make, with ONNX graphs, a driver and starts")] = Path(
        "models/export"
    ),
    half: Annotated[bool, typer.Option("--half", help="store weights in half precision: half the size")] = False,
    html: Annotated[
        Path | None, typer.Option(help="a page to make too, one file that dreams without a network")
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(help="onnxruntime-web for the page, as npm packs or unpacks it (none: npm fetches it)"),
    ] = None,
) -> None:
    """Write a world model as ONNX graphs that need only onnxruntime, and as a page that needs only a browser.

    Frames are generated as `render` does: its parameters that decide how are options.
    """
    from oniris_core.common.artefacts.files import open_artefact, refuse_unwritable
    from oniris_core.common.errors import UserError
    from oniris_core.common.optional import optional

    for module in ("onnx", "onnxscript", "onnxruntime"):
        optional(module, "export", "the stage export")
    rendering = settings.own
    # What a killed run may have left is compared when it is known what is wanted.
    left = {html} if html is not None and html.is_file() and html.open("rb").read(len(PAGE)) == PAGE else set()
    left |= {out} if (out / "model.json").is_file() else set()
    for option, path in (("--out", out), ("--html", html)):
        if path in left:
            continue
        if path is not None and path.exists():
            raise UserError(f"{option} {path} exists: remove it or choose another path")
        if path is not None:
            refuse_unwritable(path)
    if runtime is not None and not html:
        raise UserError("--runtime is of the page: say --html too")
    open_artefact(vae, "vae", made_by="train_vae")
    artefact = open_artefact(world, "world", made_by="train")
    from oniris_core.environment.starts import open_starts

    found = open_starts(starts, STARTS, 2)
    from oniris_core.export.runtime import read_runtime

    web = read_runtime(runtime) if html else None
    # From here on torch is needed; all that can be refused without it has been.
    from oniris_core.common.devices import pick_device
    from oniris_core.export.description import Description
    from oniris_core.export.page import write_page
    from oniris_core.export.store import write_export
    from oniris_core.sampling.autoregressive import Sampler
    from oniris_core.vae.codec import Codec
    from oniris_core.vae.store import load_vae
    from oniris_core.world.store import load_world

    pick_device("cpu", settings.common.threads)
    model, codec = load_world(world, rendering.ema_width), Codec(*load_vae(vae))

    def beside(folder: Path, about: Description) -> None:
        if html and web:
            write_page(html, folder, about, codec, model, web)

    about = write_export(
        out, model, codec, Sampler.of(rendering), found, rendering.context_latents, identity=artefact.identity, half=half,
        named_starts=str(starts), tell=lambda part: say(f"{part}.onnx ..."), beside=beside,
    )  # fmt: skip
    size = sum(file.stat().st_size for file in out.iterdir())
    say(f"{out}: {len(about.parts)} graphs, {size / 1e6:.1f} MB; python {out / 'driver.py'} dreams with them")
    if html:
        say(f"{html}: {html.stat().st_size / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    app()
