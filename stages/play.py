"""Not in the pipeline: serves the world model as a page to play, beside the true simulator."""

from pathlib import Path
from typing import Annotated

import typer

from oniris_core.common.artefacts.remote import Location
from oniris_core.config.cli import Settings, place, say, stage
from oniris_core.play.params import PlayParams

EPISODES = 16
"""Offered to start from, or as many as there are."""


@stage("play", PlayParams, in_pipeline=False)
def app(
    settings: Settings[PlayParams],
    starts: Annotated[Location, place("the episode store, or the file of starts, dreams begin from")] = Path(
        "data/episodes.zarr"
    ),
    vae: Annotated[Path, typer.Option(help="the VAE")] = Path("models/vae"),
    world: Annotated[Path, typer.Option(help="the world model")] = Path("models/world"),
    import_code: Annotated[
        bool, typer.Option("--import-code", help="allow what render.import_code allows, this time")
    ] = False,
    recordings: Annotated[Path, typer.Option(help="the folder for recordings")] = Path("played"),
) -> None:
    """Serve a page on which the world model can be played, until Ctrl-C."""
    from oniris_core.common.artefacts.files import open_artefact
    from oniris_core.common.errors import UserError
    from oniris_core.common.optional import optional
    from oniris_core.config.reader import load_section, read_yaml
    from oniris_core.sampling.params import RenderParams

    optional("aiohttp", "play", "the stage play")
    params, file = settings.own, settings.file
    allowed = {"import_code": True} if import_code else {}
    rendering = load_section(RenderParams, "render", read_yaml(file), file, allowed)
    if recordings.exists() and not recordings.is_dir():
        raise UserError(f"--recordings {recordings} is a file: name a folder")
    open_artefact(vae, "vae", made_by="train_vae")
    open_artefact(world, "world", made_by="train")
    from oniris_core.environment.starts import open_starts

    found = open_starts(starts, EPISODES, 2)
    from oniris_core.play.web.server import Server, is_loopback, listen

    listening = listen(params.host, params.port)
    with listening:
        # From here on torch is needed; all that can be refused without it has been.
        import asyncio

        from oniris_core.common.devices import pick_device
        from oniris_core.play.opening import open_house, serve
        from oniris_core.vae.codec import Codec
        from oniris_core.vae.store import load_vae
        from oniris_core.world.store import load_world

        # One rollout is too small for several threads: they would only wait for each other, and the simulator wants one.
        device = pick_device(settings.common.device, settings.common.threads or 1)
        model, codec = load_world(world, rendering.ema_width, device), Codec(*load_vae(vae, device))
        if codec.identity != model.vae_identity:
            raise UserError(
                f"{world} belongs to VAE {model.vae_identity[:12]}, but {vae} is {codec.identity[:12]}: run `dvc repro`"
            )
        house = open_house(model, codec, rendering, found, params, recordings, str(starts))
        if house.no_truth:
            say(f"note: the true simulator is not shown: {house.no_truth}")
        server = Server(house, params.host, listening)
        if not is_loopback(params.host):
            say("note: others can reach this page; whoever has its address, with the token in it, can play")
        chosen = house.qualities[house.chosen]
        say(f"Play at {server.address} ({house.chosen}: {chosen.steps} solver steps, {chosen.milliseconds:.0f} of "
            f"{1e3 * house.latent_seconds:.0f} ms a latent frame; Ctrl-C stops)")  # fmt: skip
        asyncio.run(serve(server))
        house.close()


if __name__ == "__main__":
    app()
