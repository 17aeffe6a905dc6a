"""Stage 5, render: lets the world model dream on from held-out episodes; renders, reports/render."""

from pathlib import Path
from typing import Annotated

import typer

from oniris_core.common.artefacts.remote import Location
from oniris_core.config.cli import Settings, place, say, stage
from oniris_core.sampling.params import RenderParams

VIDEOS = 6
"""Episodes shown as videos and in the contact sheet."""


@stage("render", RenderParams)
def app(
    settings: Settings[RenderParams],
    episode_store: Annotated[Location, place("the episode store")] = Path("data/episodes.zarr"),
    latent_store: Annotated[Location, place("the latent store")] = Path("data/latents.zarr"),
    vae: Annotated[Path, typer.Option(help="the VAE")] = Path("models/vae"),
    world: Annotated[Path, typer.Option(help="the world model")] = Path("models/world"),
    out: Annotated[Path, typer.Option(help="the videos to make")] = Path("renders"),
    report: Annotated[Path, typer.Option(help="the report to make")] = Path("reports/render"),
) -> None:
    """Generate what happens next in held-out episodes, and measure it against what did happen."""
    from oniris_core.common.artefacts.files import open_artefact, refuse_unwritable
    from oniris_core.common.errors import UserError

    refuse_unwritable(out)
    refuse_unwritable(report)
    open_artefact(vae, "vae", made_by="train_vae")
    open_artefact(world, "world", made_by="train")
    from oniris_core.data.episodes.store import open_episodes
    from oniris_core.data.latents.store import open_latents, refuse_other_episodes

    frames, latents = open_episodes(episode_store), open_latents(latent_store)
    refuse_other_episodes(latents, latent_store, frames.identity, episode_store)

    # From here on torch is needed; all that can be refused without it has been.
    from dataclasses import replace

    from oniris_core.common.artefacts.runs import workspace
    from oniris_core.common.devices import pick_device
    from oniris_core.common.process import stop_requests
    from oniris_core.common.progress import Meter, meter
    from oniris_core.evaluation.measures.evaluate import evaluate, headline
    from oniris_core.evaluation.probes.states.registry import reader_for
    from oniris_core.evaluation.report.renders import write_results
    from oniris_core.evaluation.rollouts.evaluation_set import evaluation_set
    from oniris_core.evaluation.rollouts.rollouts import Dreamer, side_by_side
    from oniris_core.sampling.autoregressive import Sampler
    from oniris_core.sampling.stepper import Stepper
    from oniris_core.vae.codec import Codec
    from oniris_core.vae.store import load_vae
    from oniris_core.world.store import load_world

    params = settings.own
    device = pick_device(settings.common.device, settings.common.threads)
    vae_model, vae_identity = load_vae(vae, device)
    model = load_world(world, params.ema_width, device)
    for path, identity in ((latent_store, latents.vae_identity), (world, model.vae_identity)):
        if identity != vae_identity:
            raise UserError(f"{path} belongs to VAE {identity[:12]}, but {vae} is {vae_identity[:12]}: run `dvc repro`")
    latents = replace(latents, mean=model.mean, std=model.std)  # also where the store is not the one it was trained on
    c = vae_model.config.group
    if params.horizon % c:
        raise UserError(f"render.horizon = {params.horizon} must be a multiple of the time compression {c}")
    chosen = evaluation_set(frames, params.episodes, params.context_latents, params.horizon // c, c)
    if len(chosen.episodes) < params.episodes:
        say(
            f"note: render.episodes asks for {params.episodes} held-out episodes; the {len(chosen.episodes)} that are longer "
            f"than the context of {chosen.context} frames are continued"
        )

    with workspace("render", out), stop_requests() as stop, stop.at_once():
        seed, shown = settings.common.seed, list[Meter]()

        def tick(count: int) -> None:
            stop.raise_if_set()
            shown[-1].advance(count)

        if params.compile:
            model.form.compile_parts()
        stepper = Stepper(model, Codec(vae_model, vae_identity), Sampler.of(params))
        dreamer = Dreamer(stepper, latents, side_by_side(device, *frames.frame_size), seed, tick)
        found = evaluate(
            params, chosen, frames, frames.states, dreamer, reader_for(frames.attributes.get("env_id")),
            seed=seed, progress=meter, stop=stop, bind=shown.append,
        )  # fmt: skip
        write_results(
            out, report, found, chosen.to_json(frames.attributes), videos=VIDEOS,
            frames_per_second=frames.attributes["frame_rate"], env_id=frames.attributes.get("env_id"),
            spec=frames.action_spec, tick=stop.raise_if_set,
        )  # fmt: skip
    for name, reason in found.left_out.items():
        say(f"left out: {name}: {reason}")
    say(headline(found.metrics))
    say(f"Done: open {report / 'index.html'}; pictures and videos are in {out}/, measures in {report / 'metrics.json'}")


if __name__ == "__main__":
    app()
