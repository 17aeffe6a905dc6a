"""Stage 4, train: trains the world model on latent clips; models/world, reports/train."""

from pathlib import Path
from typing import Annotated

import typer

from oniris_core.common.artefacts.remote import Location
from oniris_core.config.cli import Settings, place, say, stage
from oniris_core.training.world.params import TrainParams


@stage("train", TrainParams)
def app(
    settings: Settings[TrainParams],
    latent_store: Annotated[Location, place("the latent store")] = Path("data/latents.zarr"),
    vae: Annotated[Path, typer.Option(help="the VAE of the latents, for pictures while it trains")] = Path(
        "models/vae"
    ),
    out: Annotated[Path, typer.Option(help="the model to make")] = Path("models/world"),
    report: Annotated[Path, typer.Option(help="the report to make")] = Path("reports/train"),
) -> None:
    """Train the diffusion model that generates the next latent frame from all earlier ones and the actions."""
    from oniris_core.common.artefacts.files import refuse_unwritable

    refuse_unwritable(out)
    refuse_unwritable(report)
    from oniris_core.data.latents.clips import LatentClips
    from oniris_core.data.latents.store import open_latents
    from oniris_core.data.rows.clips import HELD_OUT, TRAIN

    params, seed = settings.own, settings.common.seed
    store = open_latents(latent_store)
    what = f"train.clip_latents = {params.clip_latents}"
    # A forecast sees frames before a clip too. One that lacked them would learn that things come from nowhere.
    before = params.forecast_ages[-1]
    clips = LatentClips(store, TRAIN, params.clip_latents, what, before)
    clips.refuse_older(before)
    held_out = LatentClips(store, HELD_OUT, params.clip_latents, what, before)

    # From here on torch is needed; all that can be refused without it has been.
    from oniris_core.training.fit.machine.needs import refuse_large_batch

    channels, height, width = (int(size) for size in store.latents.shape[1:])
    clip = params.clip_bytes((channels, height, width), before)
    refuse_large_batch("train", params, clip, settings.common.device)
    import importlib

    from matplotlib.figure import Figure

    from oniris_core.common.devices import pick_device
    from oniris_core.training.fit.loop import fit
    from oniris_core.training.fit.machine.launch import is_rank, launch
    from oniris_core.training.fit.session import onlookers, session
    from oniris_core.training.fit.state import TrainState
    from oniris_core.training.fit.trainer import Run
    from oniris_core.training.fit.watch.report import write_training_report
    from oniris_core.training.fit.watch.stopwatch import spent
    from oniris_core.training.world.loss_profile import loss_by_position, loss_by_sigma, loss_figure
    from oniris_core.training.world.teacher_forced import teacher_forced_errors
    from oniris_core.training.world.trainer import WorldTrainer, denoiser_config
    from oniris_core.world.denoiser import Denoiser
    from oniris_core.world.store import save_world

    if params.processes > 1 and not is_rank():
        raise SystemExit(launch("stages.train", settings.arguments, params.processes))
    config = denoiser_config(params, store)
    if clips.index.too_short:
        say(
            f"note: {clips.index.too_short} training episodes are shorter than a clip of {params.clip_latents} latent frames"
        )
    if config.outcomes is None and params.outcome_weight:
        say(
            f"note: {latent_store} has no rewards: the model learns none, and no ends of episodes (train.outcome_weight)"
        )
    device = pick_device(settings.common.device, settings.common.threads)
    record = {"params": settings.as_json("train"), "latents": store.identity}
    # The dashboard draws on the sampler and the VAE. It is loaded by name and is no dependency in dvc.yaml: editing
    # those must not train the model anew for the sake of a picture.
    dashboard = importlib.import_module("oniris_core.previews.dashboard")

    with session("train", out, device, record=record) as around:
        ranks, folder = around.ranks, around.folder
        ranks.check("train", params.batch, params.accumulate, len(clips.index))
        trainer = WorldTrainer(params, config, clips, seed, device, folder and folder / "snapshots", ranks)
        film = dashboard.vae_of(store, vae, device)
        picture = dashboard.WorldDashboard(
            store, held_out, trainer.expected, film, trainer.frames_per_step, seed, device
        )

        def draw(state: TrainState) -> Figure:
            return picture.draw(state.history, state.step, state.emas[0].model)

        history = fit(
            trainer, params, Run("train", folder, ranks, around.stop, say,
                                 observers=onlookers("train", params, folder, draw, say)),
        )  # fmt: skip
        if folder is None:
            return
        with around.stop.at_once():
            averages = {ema.width: ema.model for ema in trainer.state.emas}
            denoiser = trainer.state.emas[0].model
            assert isinstance(denoiser, Denoiser)
            metrics = teacher_forced_errors(denoiser, held_out, seed, device)
            tables = {
                "loss_by_sigma": loss_by_sigma(trainer.expected), "loss_by_position": loss_by_position(trainer.expected)
            }  # fmt: skip
            pictures = {"loss_by_sigma": loss_figure(trainer.expected), "dashboard": draw(trainer.state)}
            counts = {"skipped_steps": trainer.state.skipped, **spent(history)}
            write_training_report(report, {**metrics, **counts}, history, pictures, tables)
            save_world(
                out, averages, config, store.mean, store.std, store.action_spec, store.vae_identity, record,
                steps=trainer.state.step, snapshots=trainer.snapshots, kept=folder / "snapshots",
            )  # fmt: skip
    say(f"{out}: " + ", ".join(f"{name} {value:g}" for name, value in metrics.items()) + f"; see {report}")


if __name__ == "__main__":
    app()
