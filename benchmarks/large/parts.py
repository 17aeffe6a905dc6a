"""What stands between a store and the first batch or step: each function prints its seconds, without those of its imports.

    python -m benchmarks.large.parts open_episodes

The current folder has what the pipeline makes.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

BATCHES, BATCH = 200, 16
Spent = tuple[float, float]
"""Seconds by the clock, and of CPU time."""


def now() -> Spent:
    return time.perf_counter(), time.process_time()


def since(began: Spent) -> Spent:
    clock, cpu = now()
    return clock - began[0], cpu - began[1]


def write() -> Spent:
    """Write both stores, of as many episodes as `made.json` says, without playing or encoding them."""
    import numpy as np

    from oniris_core.data.episodes.episode import Episode
    from oniris_core.data.episodes.store import write_episodes
    from oniris_core.data.latents.store import write_latents
    from oniris_core.data.rows.actions import ActionSpec

    about = json.loads(Path("made.json").read_text())
    episodes, frames, size = about["episodes"], about["frames"], about["size"]
    rng = np.random.default_rng(0)
    lengths = rng.integers(frames // 2, frames + frames // 2, episodes)
    split, counts = (rng.random(episodes) < 0.1).astype(np.uint8), 1 + (lengths - 1) // 4
    spec = {"action_spec": ActionSpec("discrete", (4,), start=(0,)).to_json()}
    shown = rng.integers(0, 256, (2 * frames, size, size, 3), dtype=np.uint8) & np.uint8(3)
    latents = rng.normal(size=(frames, 4, 2, 2)).astype(np.float16)

    def played() -> Iterator[Episode]:
        for number, n in enumerate(map(int, lengths)):
            actions, zeros = rng.integers(0, 4, n), np.zeros(n, np.float32)
            yield Episode(shown[:n], actions, zeros, zeros > 0, zeros > 0, np.zeros((n, 2), np.float32), number)

    def encoded() -> Iterator[tuple[np.ndarray, ...]]:
        for n in map(int, counts):
            zeros = np.zeros((n, 4), np.float32)
            yield latents[:n], rng.integers(0, 4, (n, 4)), zeros, zeros > 0

    began = now()
    write_episodes(Path("data/episodes.zarr"), played(), int(lengths.sum()), split, spec)
    more = {**spec, "vae_identity": "made", "episodes_identity": "made"}
    write_latents(Path("data/latents.zarr"), encoded(), counts.cumsum(), np.arange(episodes), split, more)  # type: ignore[arg-type]
    return since(began)


def export() -> Spent:
    """Write the episodes of the store as recordings, one .npz file each."""
    import numpy as np

    from oniris_core.data.episodes.store import open_episodes

    began = now()
    found = open_episodes("data/episodes.zarr")
    for episode in range(len(found.episode_ends)):
        start, end = found.bounds(episode)
        folder = Path("recordings") / f"{episode // 1000:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"{episode:06d}.npz", image=found.frames[start:end], action=found.actions[start:end])
    return since(began)


def open_episodes() -> Spent:
    """Open the episode store."""
    from oniris_core.data.episodes.store import open_episodes

    began = now()
    open_episodes("data/episodes.zarr")
    return since(began)


def frame_clips() -> Spent:
    """Index the clips of an open episode store and read batches of them."""
    from oniris_core.data.episodes.clips import FrameClips
    from oniris_core.data.episodes.store import open_episodes

    store = open_episodes("data/episodes.zarr")
    began = now()
    clips = FrameClips(store, 0, 8, 4)
    for step in range(BATCHES):
        clips[clips.index.draw(BATCH, 0, "benchmark", step)]
    return since(began)


def open_latents() -> Spent:
    """Open the latent store."""
    from oniris_core.data.latents.store import open_latents

    began = now()
    open_latents(Path("data/latents.zarr"))
    return since(began)


def latent_clips() -> Spent:
    """Index the clips of an open latent store and read batches of them."""
    from oniris_core.data.latents.clips import LatentClips
    from oniris_core.data.latents.store import open_latents

    store = open_latents(Path("data/latents.zarr"))
    began = now()
    clips = LatentClips(store, 0, 3, "benchmark", 11)
    for step in range(BATCHES):
        clips[clips.index.draw(BATCH, 0, "benchmark", step, 0.3, 0.2)]
    return since(began)


def environment() -> Spent:
    """Make environments that begin anywhere in the episodes of the store, and play a while with many resets."""
    from oniris_core.environment.dreams import WorldVectorEnv

    began = now()
    envs = WorldVectorEnv(
        16, world="models/world", vae="models/vae", starts="data/episodes.zarr", observations="latents", rewards="none",
        context_latents=2, begin="anywhere", horizon=8,
    )  # fmt: skip
    envs.reset(seed=0)
    for _ in range(50):
        envs.step(envs.action_space.sample())
    return since(began)


def from_disk() -> Spent:
    """Open both stores as those are that do not fit into memory, and read as many batches from each."""
    from oniris_core.data.rows import zarrs

    zarrs.PRELOAD_BYTES = 0
    began = now()
    open_episodes()
    frame_clips()
    open_latents()
    latent_clips()
    return since(began)


if __name__ == "__main__":
    parts: dict[str, Callable[[], Spent]] = {
        part.__name__: part
        for part in (write, export, open_episodes, frame_clips, open_latents, latent_clips, environment, from_disk)
    }
    print(json.dumps(parts[sys.argv[1]]()))
