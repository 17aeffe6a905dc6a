"""Stage 3, encode: streams every episode through the VAE's encoder; data/latents.zarr."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from oniris_core.config.encode import EncodeParams
from stages.cli import Settings, say, stage


@stage("encode", EncodeParams)
def app(
    settings: Settings[EncodeParams],
    episode_store: Annotated[Path, typer.Option(help="the episode store")] = Path("data/episodes.zarr"),
    vae: Annotated[Path, typer.Option(help="the VAE")] = Path("models/vae"),
    out: Annotated[Path, typer.Option(help="the latent store to make")] = Path("data/latents.zarr"),
) -> None:
    """Compress every episode to latents, with their statistics."""
    from oniris_core.common.files import open_artefact, refuse_unwritable

    refuse_unwritable(out)
    open_artefact(vae, "vae", made_by="train_vae")
    from oniris_core.data.episodes import open_episodes

    store = open_episodes(episode_store)

    # From here on torch is needed; all that can be refused without it has been.
    import numpy as np

    from oniris_core.common.devices import pick_device
    from oniris_core.common.process import stop_requests
    from oniris_core.common.progress import meter
    from oniris_core.common.runs import workspace
    from oniris_core.data.groups import group_count, group_rows
    from oniris_core.data.latents import write_latents
    from oniris_core.vae.store import load_vae
    from oniris_core.vae.streaming import encode_stream

    device = pick_device(settings.common.device, settings.common.threads)
    model, identity = load_vae(vae, device)
    model.config.check_frame_size(*store.frame_size)
    c, chunk = model.config.group, settings.own.chunk_latents
    bounds = [store.bounds(e) for e in range(len(store.episode_ends))]
    counts = np.array([group_count(end - start, c) for start, end in bounds])
    attributes = {
        "vae_identity": identity,
        "episodes_identity": store.identity,
        "frames_per_latent": c,
        "compression": model.config.compression,
        "grouping": "group 0: the reset row repeated; group g: rows (g-1)c+1 .. gc; a last incomplete group is dropped",
        "params": settings.as_json("encode"),
        **{
            key: store.attributes[key]
            for key in ("env_id", "env_kwargs", "action_spec", "action_meaning", "frame_rate")
        },
    }

    with workspace("encode", out), stop_requests() as stop, meter("encode: episodes", len(counts)) as progress:

        def encoded() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for (start, end), count in zip(bounds, counts, strict=True):
                stop.raise_if_set()
                frames, actions = store.frames[start:end], store.actions[start:end]
                rows = [group_rows(g, min(chunk, count - g), c) for g in range(0, count, chunk)]
                latents = np.concatenate(list(encode_stream(model, (frames[r] for r in rows), device)))
                yield latents.astype(np.float16), actions[np.concatenate(rows)].reshape(count, c, *actions.shape[1:])
                progress.advance()

        found = write_latents(out, encoded(), counts.cumsum(), store.episode_seed, store.split, attributes)
    weak = [i for i, std in enumerate(found["std"]) if std < 0.05 * max(found["std"])]
    say(
        f"{out}: {counts.sum()} latent frames, change from frame to frame {found['change_std']:.3f} standard deviations"
    )
    if weak:
        say(f"note: latent channels {weak} have nearly collapsed (standard deviation below 5 % of the largest)")


if __name__ == "__main__":
    app()
