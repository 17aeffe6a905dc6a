"""Stage 2, train_vae: trains the group-causal VAE on clips of the recorded frames; models/vae, reports/train_vae."""

from pathlib import Path
from typing import Annotated

import typer

from oniris_core.common.artefacts.remote import Location
from oniris_core.config.cli import Settings, place, say, stage
from oniris_core.training.vae.params import TrainVaeParams

EVAL_CLIPS = 64
"""Held-out clips that the report measures."""


@stage("train_vae", TrainVaeParams)
def app(
    settings: Settings[TrainVaeParams],
    episode_store: Annotated[Location, place("the episode store")] = Path("data/episodes.zarr"),
    out: Annotated[Path, typer.Option(help="the model to make")] = Path("models/vae"),
    report: Annotated[Path, typer.Option(help="the report to make")] = Path("reports/train_vae"),
) -> None:
    """Train the VAE that compresses frames to latents."""
    from oniris_core.common.artefacts.files import refuse_unwritable, sha256_file
    from oniris_core.common.errors import UserError

    refuse_unwritable(out)
    refuse_unwritable(report)
    from oniris_core.data.episodes.clips import FrameClips
    from oniris_core.data.episodes.store import open_episodes
    from oniris_core.data.rows.clips import HELD_OUT, TRAIN

    params, seed = settings.own, settings.common.seed
    perceptual_path = Path(params.perceptual_path) if params.perceptual_path else None
    if perceptual_path and not perceptual_path.is_file():
        raise UserError(f"train_vae.perceptual_path = {perceptual_path} does not exist: name a safetensors file")
    store = open_episodes(episode_store)

    # From here on torch is needed; all that can be refused without it has been.
    from oniris_core.training.fit.machine.needs import refuse_large_batch

    clip = params.clip_bytes(*store.frame_size)
    refuse_large_batch("train_vae", params, clip, settings.common.device)
    import numpy as np
    from matplotlib.figure import Figure

    from oniris_core.common.devices import pick_device
    from oniris_core.evaluation.fidelity.positions import probe_for
    from oniris_core.evaluation.fidelity.reconstruction import fidelity, reconstruct, reconstruction_metrics
    from oniris_core.evaluation.fidelity.vae_pictures import fidelity_figure, latent_histograms, strips, vae_dashboard
    from oniris_core.training.fit.loop import fit
    from oniris_core.training.fit.machine.launch import is_rank, launch
    from oniris_core.training.fit.session import onlookers, session
    from oniris_core.training.fit.state import TrainState
    from oniris_core.training.fit.trainer import Run
    from oniris_core.training.fit.watch.report import write_training_report
    from oniris_core.training.fit.watch.stopwatch import spent
    from oniris_core.training.vae.trainer import CLIP_NORM, VaeTrainer, check_crop, vae_config
    from oniris_core.vae.model import Vae
    from oniris_core.vae.perceptual import Perceptual
    from oniris_core.vae.store import save_vae

    if params.processes > 1 and not is_rank():
        raise SystemExit(launch("stages.train_vae", settings.arguments, params.processes))
    config = vae_config(params)
    config.check_frame_size(*store.frame_size)
    check_crop(params, *store.frame_size)
    clips = FrameClips(store, TRAIN, params.clip_frames, config.group)
    held_out = FrameClips(store, HELD_OUT, params.clip_frames, config.group)
    if clips.index.too_short:
        say(f"note: {clips.index.too_short} training episodes are shorter than a clip of {params.clip_frames} frames")
    clips.refuse_constant()
    device = pick_device(settings.common.device, settings.common.threads)
    perceptual = Perceptual(perceptual_path).to(device) if perceptual_path else None
    record = {"params": settings.as_json("train_vae"), "episodes": store.identity}
    if perceptual_path:
        record["perceptual"] = sha256_file(perceptual_path)

    with session("train_vae", out, device, record=record) as around:
        ranks, folder = around.ranks, around.folder
        ranks.check("train_vae", params.batch, params.accumulate, len(clips.index))
        trainer = VaeTrainer(params, clips, seed, device, perceptual, ranks)

        def draw(state: TrainState) -> Figure:
            vae = state.emas[0].model
            assert isinstance(vae, Vae)
            few = [reconstruct(vae, held_out, int(clip), device) for clip in held_out.index.spread(3)]
            return vae_dashboard(few, state.history, state.step, trainer.frames_per_step)

        history = fit(
            trainer, params, Run("train_vae", folder, ranks, around.stop, say, CLIP_NORM,
                                 onlookers("train_vae", params, folder, draw, say)),
        )  # fmt: skip
        if folder is None:
            return
        with around.stop.at_once():
            vae = trainer.state.emas[0].model
            assert isinstance(vae, Vae)
            shown = [reconstruct(vae, held_out, int(clip), device) for clip in held_out.index.spread(EVAL_CLIPS)]
            env_id = store.attributes.get("env_id")  # recordings have none
            kept = fidelity(shown, probe_for(env_id) if env_id else None)
            metrics = {**reconstruction_metrics(kept, config.group), "compression": config.compression}
            counts = {"skipped_steps": trainer.state.skipped, **spent(history)}
            pictures: dict[str, np.ndarray | Figure] = {
                "strips": strips(shown[:3]),
                "latents": latent_histograms(shown),
                "fidelity": fidelity_figure(kept, config.group),
                "dashboard": draw(trainer.state),
            }
            write_training_report(report, {**metrics, **counts}, history, pictures)
            save_vae(out, vae, record)
    say(f"{out}: " + ", ".join(f"{name} {value:g}" for name, value in metrics.items()) + f"; see {report}")


if __name__ == "__main__":
    app()
