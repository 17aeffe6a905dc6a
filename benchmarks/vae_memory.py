"""Does an hour of video need more memory than a minute? Peak memory of encoding, by length of the video.

    python -m benchmarks.vae_memory

Each length is encoded in a process of its own, by the default VAE (untrained: its size is what counts) from frames that
are made as they are read; what is measured is the process's largest resident size.
"""

import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from benchmarks.harness import print_table


def peak_mib(frames: int, size: int, chunk: int) -> float:
    """Encode `frames` frames of `size` x `size` pixels, `chunk` latents at a time; the peak memory in MiB."""
    import numpy as np
    import torch

    from oniris_core.vae.model import Vae, VaeConfig
    from oniris_core.vae.streaming import encode_stream

    vae = Vae(VaeConfig((4, 1), (4, 2), (64, 128), blocks=1, kernel=3, latent_channels=16))
    rng, per_chunk = np.random.default_rng(0), chunk * vae.config.group

    def video() -> Iterator[np.ndarray]:
        for first in range(0, frames, per_chunk):
            count = min(per_chunk, frames - first) // vae.config.group * vae.config.group
            yield rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)

    latents = sum(len(part) for part in encode_stream(vae, video(), torch.device("cpu")))
    assert latents == frames // vae.config.group
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main(
    lengths: Annotated[str, typer.Option(help="frames of each video, separated by commas")] = "1000,20000",
    size: Annotated[int, typer.Option(help="pixels along each side of a frame")] = 64,
    chunk: Annotated[int, typer.Option(help="latent frames encoded at once")] = 32,
) -> None:
    """Print the peak memory of encoding videos of several lengths, and its ratio to that of the first."""
    peaks = dict[int, float]()
    for frames in map(int, lengths.split(",")):
        call = f"from benchmarks.vae_memory import peak_mib; print(peak_mib({frames}, {size}, {chunk}))"
        peaks[frames] = float(subprocess.run([sys.executable, "-c", call], check=True, stdout=subprocess.PIPE).stdout)
    first = next(iter(peaks.values()))
    print(f"\nEncoding frames of {size} x {size}, {chunk} latent frames at once\n")
    rows = [[str(frames), f"{peak:.1f}", f"{peak / first:.3f}"] for frames, peak in peaks.items()]
    print_table(["frames", "peak memory, MiB", "x first"], rows)


if __name__ == "__main__":
    typer.run(main)
