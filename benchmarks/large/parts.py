"""What stands between a store and the first batch or step: each function prints its seconds, without those of its imports.

    python -m benchmarks.large.parts open_episodes

The current folder has what the pipeline makes.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

BATCHES, BATCH = 200, 16


def export() -> float:
    """Write the episodes of the store as recordings, one .npz file each."""
    import numpy as np

    from oniris_core.data.episodes.store import open_episodes

    began = time.perf_counter()
    found = open_episodes("data/episodes.zarr")
    for episode in range(len(found.episode_ends)):
        start, end = found.bounds(episode)
        folder = Path("recordings") / f"{episode // 1000:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"{episode:06d}.npz", image=found.frames[start:end], action=found.actions[start:end])
    return time.perf_counter() - began


def open_episodes() -> float:
    """Open the episode store."""
    from oniris_core.data.episodes.store import open_episodes

    began = time.perf_counter()
    open_episodes("data/episodes.zarr")
    return time.perf_counter() - began


def frame_clips() -> float:
    """Index the clips of an open episode store and read batches of them."""
    from oniris_core.data.episodes.clips import FrameClips
    from oniris_core.data.episodes.store import open_episodes

    store = open_episodes("data/episodes.zarr")
    began = time.perf_counter()
    clips = FrameClips(store, 0, 8, 4)
    for step in range(BATCHES):
        clips[clips.index.draw(BATCH, 0, "benchmark", step)]
    return time.perf_counter() - began


def open_latents() -> float:
    """Open the latent store."""
    from oniris_core.data.latents.store import open_latents

    began = time.perf_counter()
    open_latents(Path("data/latents.zarr"))
    return time.perf_counter() - began


def latent_clips() -> float:
    """Index the clips of an open latent store and read batches of them."""
    from oniris_core.data.latents.clips import LatentClips
    from oniris_core.data.latents.store import open_latents

    store = open_latents(Path("data/latents.zarr"))
    began = time.perf_counter()
    clips = LatentClips(store, 0, 3, "benchmark", 11)
    for step in range(BATCHES):
        clips[clips.index.draw(BATCH, 0, "benchmark", step, 0.3, 0.2)]
    return time.perf_counter() - began


def environment() -> float:
    """Make environments that begin anywhere in the episodes of the store, and play a while with many resets."""
    from oniris_core.environment.dreams import WorldVectorEnv

    began = time.perf_counter()
    envs = WorldVectorEnv(
        16, world="models/world", vae="models/vae", starts="data/episodes.zarr", observations="latents", rewards="none",
        context_latents=2, begin="anywhere", horizon=8,
    )  # fmt: skip
    envs.reset(seed=0)
    for _ in range(50):
        envs.step(envs.action_space.sample())
    return time.perf_counter() - began


def from_disk() -> float:
    """Open both stores as those are that do not fit into memory, and read as many batches from each."""
    from oniris_core.data.rows import zarrs

    zarrs.PRELOAD_BYTES = 0
    began = time.perf_counter()
    open_episodes()
    frame_clips()
    open_latents()
    latent_clips()
    return time.perf_counter() - began


if __name__ == "__main__":
    parts: dict[str, Callable[[], float]] = {
        part.__name__: part
        for part in (export, open_episodes, frame_clips, open_latents, latent_clips, environment, from_disk)
    }
    print(json.dumps(parts[sys.argv[1]]()))
