"""Stage 5, render: lets the world model dream on from held-out episodes; renders, reports/render."""

from pathlib import Path
from typing import Annotated

import typer

from oniris_core.common.remote import Location
from oniris_core.config.render import RenderParams
from stages.cli import Settings, place, say, stage


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
    from oniris_core.common.errors import UserError
    from oniris_core.common.files import open_artefact, refuse_unwritable

    refuse_unwritable(out)
    refuse_unwritable(report)
    open_artefact(vae, "vae", made_by="train_vae")
    open_artefact(world, "world", made_by="train")
    from oniris_core.data.episodes import open_episodes
    from oniris_core.data.latents import open_latents

    frames, latents = open_episodes(episode_store), open_latents(latent_store)
    if latents.attributes["episodes_identity"] != frames.identity:
        raise UserError(f"{latent_store} was not made from {episode_store}: run `dvc repro encode` to make it again")

    # From here on torch is needed; all that can be refused without it has been.
    import numpy as np

    from oniris_core.common.devices import pick_device
    from oniris_core.common.process import stop_requests
    from oniris_core.common.progress import meter
    from oniris_core.common.runs import workspace
    from oniris_core.evaluation.horizons import flat_metrics, measure
    from oniris_core.evaluation.probes import probe_for
    from oniris_core.evaluation.renders import write_render_report, write_renders
    from oniris_core.evaluation.rollouts import choose_episodes, join, roll_out
    from oniris_core.sampling.autoregressive import Sampler
    from oniris_core.vae.store import load_vae
    from oniris_core.world.store import load_world

    params = settings.own
    device = pick_device(settings.common.device, settings.common.threads)
    vae_model, vae_identity = load_vae(vae, device)
    model = load_world(world, params.ema_width, device)
    for path, identity in ((latent_store, latents.vae_identity), (world, model.vae_identity)):
        if identity != vae_identity:
            raise UserError(f"{path} belongs to VAE {identity[:12]}, but {vae} is {vae_identity[:12]}: run `dvc repro`")
    c = vae_model.config.group
    if params.horizon % c:
        raise UserError(f"render.horizon = {params.horizon} must be a multiple of the time compression {c}")
    horizon = params.horizon // c
    what = f"render.context_latents = {params.context_latents} and render.horizon = {params.horizon}"
    chosen = choose_episodes(latents, params.episodes, params.context_latents + horizon, what)

    with workspace("render", out), stop_requests() as stop:
        parts, seed = [], settings.common.seed + params.seed_offset
        batches = np.array_split(np.stack([chosen, np.roll(chosen, 1)]), -(-len(chosen) // params.batch), axis=1)
        with meter("render: latent frames", 2 * len(chosen) * horizon) as progress:
            for batch, strangers in batches:

                def tick(count: int = len(batch)) -> None:
                    stop.raise_if_set()
                    progress.advance(count)

                parts.append(
                    roll_out(
                        model.denoiser, vae_model, frames, latents, batch, strangers, context=params.context_latents,
                        horizon=horizon, sampler=Sampler.of(params), seed=seed, device=device, tick=tick,
                    )
                )  # fmt: skip
        rollouts = join(parts)
        curves = measure(rollouts, probe_for(frames.attributes["env_id"]))
        metrics = flat_metrics(curves, len(chosen))
        write_render_report(report, metrics, curves)
        write_renders(out, rollouts, params.videos, params.upscale, frames.attributes["frame_rate"])
    say(", ".join(f"{name} {value:g}" for name, value in metrics.items() if name.endswith(("@8", "@16"))))
    say(
        f"Done: open {out / 'contact_sheet.png'} and the videos in {out}/; the measures are in {report / 'metrics.json'}"
    )


if __name__ == "__main__":
    app()
