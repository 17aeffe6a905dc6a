"""What does a clip take of the memory in a training step, and what is foreseen of it?

    python -m benchmarks.training_memory

Forward and backward pass on random clips, with the networks of presets and a few changes to them, in float32 on one CPU
thread, each case in a process of its own. Measured is how far its largest resident size grows from a step with one clip to a
step with `clips`; foreseen is `clip_bytes`, by which stages refuse what cannot fit (Linux only).
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer

from benchmarks.harness import print_table

# (section, preset, clips, frame or latent size, changes)
CASES: tuple[tuple[str, str, int, tuple[int, int, int], dict[str, Any]], ...] = (
    ("train_vae", "cpu", 32, (3, 64, 64), {}),
    ("train_vae", "cpu", 128, (3, 64, 64), {}),
    ("train_vae", "cpu", 16, (3, 64, 64), {"crop": 0}),
    ("train_vae", "cpu", 32, (3, 64, 64), {"blocks": 3}),
    ("train_vae", "tiny", 1000, (3, 32, 32), {}),
    ("train_vae", "tiny", 8000, (3, 32, 32), {}),
    ("train_vae", "gpu64", 16, (3, 64, 64), {}),
    ("train_vae", "csgo", 8, (3, 64, 64), {}),
    ("train", "cpu", 32, (16, 8, 8), {}),
    ("train", "cpu", 32, (16, 8, 8), {"blocks": 3}),
    ("train", "tiny", 400, (4, 4, 4), {}),
    ("train", "gpu64", 8, (24, 8, 8), {}),
    ("train", "gpu64", 8, (24, 8, 8), {"video_attention": [False, False]}),
)


def measure(
    section: str, preset: str, clips: int, size: tuple[int, int, int], changes: dict[str, Any]
) -> tuple[int, int]:
    """Bytes of a clip: (measured, foreseen). The process must be a fresh one."""
    import re

    import torch

    from oniris_core.config.reader import build, read_yaml

    root = Path(__file__).parent.parent
    own, of_preset = read_yaml(root / "params.yaml"), read_yaml(root / f"presets/{preset}.yaml")
    values = {
        **own["fit"], **own[section], **of_preset["fit"], **of_preset[section], "compile": False,
        **({"adversarial_weight": 0.0} if section == "train_vae" else {}), **changes,
    }  # fmt: skip
    torch.set_num_threads(1)

    def peak() -> int:
        # ru_maxrss counts the parent too
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found
        return int(found[1]) * 1024

    if section == "train_vae":
        from oniris_core.training.vae.params import TrainVaeParams
        from oniris_core.training.vae.trainer import VaeBatch, VaeObjective, vae_config
        from oniris_core.vae.model import Vae

        vae_params = build(TrainVaeParams, section, values, "benchmark")
        vae, side = Vae(vae_config(vae_params)), vae_params.crop or size[1]
        objective: torch.nn.Module = VaeObjective(vae, vae_params, None, None)
        foreseen = vae_params.clip_bytes(size[1], size[2])

        def batch(count: int) -> Any:
            frames = torch.randint(0, 255, (count, vae_params.clip_frames, side, side, 3), dtype=torch.uint8)
            noise = torch.randn(2, count, *vae.config.latent_shape(vae_params.clip_frames, side, side))
            return VaeBatch(frames, noise[0], noise[1], torch.full((count,), 0.05), False)

    else:
        from oniris_core.nn.magnitude import force_normalize_
        from oniris_core.training.world.params import TrainParams
        from oniris_core.training.world.trainer import WorldBatch, WorldObjective
        from oniris_core.world.denoiser import Denoiser, DenoiserConfig
        from oniris_core.world.unet import UNetConfig

        p = build(TrainParams, section, values, "benchmark")
        unet = UNetConfig(
            p.channels[0], p.channel_mult, p.blocks, p.video_attention, p.frame_attention, p.head_channels, p.window
        )  # fmt: skip
        denoiser = Denoiser(DenoiserConfig(unet, *size, 16, 0.35, p.forecast_channels, p.forecast_ages))
        force_normalize_(denoiser)
        objective, before = WorldObjective(denoiser, torch.ones_like), p.forecast_ages[-1]
        foreseen = p.clip_bytes(size, before)

        def batch(count: int) -> Any:
            rows = p.clip_latents + before
            return WorldBatch(
                torch.randn(count, rows, *size), torch.randn(count, rows, 16), torch.ones(count, rows, dtype=torch.bool),
                torch.ones(count, p.clip_latents), torch.randn(count, p.clip_latents, *size), torch.full((count,), 0.1),
                torch.randn(count, rows, *size), forecast_only=False,
            )  # fmt: skip

    def step(count: int) -> int:
        objective.zero_grad(set_to_none=True)
        objective(batch(count)).loss.backward()
        return peak()

    one = step(1)
    return (step(clips) - one) // (clips - 1), foreseen


def of_child(case: tuple[str, str, int, tuple[int, int, int], dict[str, Any]]) -> tuple[int, int]:
    """`measure` in a process of its own."""
    call = f"import json; from benchmarks.training_memory import measure; print(json.dumps(measure(*{case!r})))"
    done = subprocess.run(
        [sys.executable, "-c", call], check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
    )
    measured, foreseen = json.loads(done.stdout)
    return measured, foreseen


def main() -> None:
    """Print a table of the cases."""
    rows = []
    for case in CASES:
        measured, foreseen = of_child(case)
        section, preset, clips, _, changes = case
        changed = ", ".join(f"{key}: {value}" for key, value in changes.items())
        rows.append(
            [
                section,
                preset,
                changed,
                str(clips),
                f"{measured / 2**20:.2f}",
                f"{foreseen / 2**20:.2f}",
                f"{measured / foreseen:.2f}",
            ]
        )
    print_table(["stage", "preset", "but", "clips", "measured, MiB a clip", "foreseen", "ratio"], rows)


if __name__ == "__main__":
    typer.run(main)
