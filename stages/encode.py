"""Stage 3, encode: streams every episode through the VAE's encoder; data/latents.zarr, reports/encode."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from oniris_core.common.artefacts.remote import Location
from oniris_core.config.cli import Settings, place, say, stage
from oniris_core.encoding.params import EncodeParams


@stage("encode", EncodeParams)
def app(
    settings: Settings[EncodeParams],
    episode_store: Annotated[Location, place("the episode store")] = Path("data/episodes.zarr"),
    vae: Annotated[Path, typer.Option(help="the VAE")] = Path("models/vae"),
    out: Annotated[Location, place("the latent store to make")] = Path("data/latents.zarr"),
    report: Annotated[Path, typer.Option(help="the report to make")] = Path("reports/encode"),
) -> None:
    """Compress every episode to latents, with their statistics."""
    from oniris_core.common.artefacts.files import open_artefact, refuse_unwritable
    from oniris_core.common.artefacts.remote import refuse_unwritable_at

    refuse_unwritable_at(out)
    refuse_unwritable(report)
    open_artefact(vae, "vae", made_by="train_vae")
    from oniris_core.data.episodes.store import open_episodes

    store = open_episodes(episode_store)

    # From here on torch is needed; all that can be refused without it has been.
    import numpy as np

    from oniris_core.common.artefacts.runs import workspace
    from oniris_core.common.devices import pick_device
    from oniris_core.common.process import stop_requests
    from oniris_core.common.progress import meter
    from oniris_core.common.seeds import numpy_rng
    from oniris_core.data.episodes.groups import group_actions, group_count, group_outcomes, read_groups
    from oniris_core.data.latents.store import write_latents
    from oniris_core.encoding.report import COLLAPSED_SHARE, write_latent_report
    from oniris_core.vae.store import load_vae
    from oniris_core.vae.streaming import encode_videos, side_by_side

    params = settings.own
    device = pick_device(settings.common.device, settings.common.threads)
    model, identity = load_vae(vae, device)
    model.config.check_frame_size(*store.frame_size)
    c = model.config.group
    at_once, chunk = side_by_side(*store.frame_size, c)
    bounds = [store.bounds(e) for e in range(len(store.episode_ends))]
    still = np.where(store.terminated, params.still_latents, 0).tolist()
    counts = np.array([group_count(end - start, c, more) for (start, end), more in zip(bounds, still, strict=True)])
    attributes: dict[str, Any] = {
        "vae_identity": identity,
        "episodes_identity": store.identity,
        "frames_per_latent": c,
        "compression": model.config.compression,
        "grouping": "group 0: the reset row repeated; group g: rows (g-1)c+1 .. gc; a last incomplete group is dropped, or "
        "filled up where the episode stands still after its end",
        "params": settings.as_json("encode"),
        **{
            key: store.attributes[key]
            for key in ("env_id", "env_kwargs", "source", "action_spec", "action_meaning", "frame_rate")
            if key in store.attributes
        },
    }

    with (
        workspace("encode", out),
        stop_requests() as stop,
        stop.at_once(),
        meter("encode: episodes", len(counts)) as progress,
    ):

        def encoded() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
            for batch in np.array_split(np.arange(len(counts)), -(-len(counts) // at_once)):

                def read(video: int, first: int, count: int, batch: np.ndarray = batch) -> np.ndarray:
                    stop.raise_if_set()
                    start, end = bounds[batch[video]]
                    return read_groups(store.frames, start, first, count, c, end - start)

                latents = encode_videos(model, read, counts[batch].tolist(), chunk, device)
                for episode, of_episode in zip(batch, latents, strict=True):
                    rng = numpy_rng(settings.common.seed, "still", int(episode))
                    rows, count = slice(*bounds[episode]), int(counts[episode])
                    yield (
                        of_episode.astype(np.float16), group_actions(store.actions[rows], count, c, rng),
                        *group_outcomes(store.rewards[rows], bool(store.terminated[episode]), count, c),
                    )  # fmt: skip
                progress.advance(len(batch))

        found = write_latents(out, encoded(), counts.cumsum(), store.episode_seed, store.split, attributes)
        metrics = write_latent_report(report, found, int(counts.sum()))
    say(f"{out}: {counts.sum()} latent frames, change from frame to frame {found.change_std:.3f} standard deviations")
    if metrics["collapsed_channels"]:
        say(
            f"note: latent channels {found.collapsed(COLLAPSED_SHARE)} have collapsed: their standard deviation is "
            f"below {COLLAPSED_SHARE:g} of the largest; see {report}"
        )


if __name__ == "__main__":
    app()
