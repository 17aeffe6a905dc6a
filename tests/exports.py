"""What the tests of exported models export: a small model with random weights, and what torch dreams with it."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from oniris_core.config.reader import load_section, read_yaml
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.environment.starts import Start, Starts, write_starts
from oniris_core.export.driver import noise
from oniris_core.nn.magnitude import force_normalize_
from oniris_core.sampling.autoregressive import Sampler
from oniris_core.sampling.params import RenderParams
from oniris_core.sampling.stepper import Stepper
from oniris_core.vae.codec import Codec
from oniris_core.vae.model import Vae, VaeConfig
from oniris_core.vae.store import load_vae, save_vae
from oniris_core.world.denoiser import Denoiser, DenoiserConfig
from oniris_core.world.store import load_world, save_world
from oniris_core.world.unet import UNetConfig
from tests.players import demo_starts

SPEC = ActionSpec("discrete", (4,), start=(0,))
GROUP = 4
TWO_LEVELS = UNetConfig(8, (1, 2), 1, (True, False), (False, True), 4, 3)
ONE_LEVEL = UNetConfig(8, (2,), 2, (False,), (True,), 4, 5)


def save_small(folder: Path, unet: UNetConfig, ages: tuple[int, ...]) -> None:
    """`vae`, `world` and `starts.npz` in `folder`: 4 frames of 32 x 32 pixels are a latent frame of 3 x 4 x 4."""
    torch.manual_seed(0)
    vae = Vae(VaeConfig((GROUP, 1), (4, 2), (8, 8), 1, 3, 3))
    denoiser = Denoiser(DenoiserConfig(unet, 3, 4, 4, GROUP * SPEC.features, 0.35, 8, ages))
    force_normalize_(denoiser)
    with torch.no_grad():
        for parameter in vae.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
        for name, parameter in denoiser.named_parameters():  # gains start at zero: open them
            if name.endswith("gain"):
                parameter.fill_(0.2)
        denoiser.forecaster.head_gain[1] = 0.01  # it multiplies the last frame: a dream must not explode
    save_vae(folder / "vae", vae, {})
    save_world(
        folder / "world", {0.1: denoiser}, denoiser.config, np.array([0.1, -0.2, 0.3], np.float32),
        np.array([0.8, 1.1, 0.9], np.float32), SPEC, load_vae(folder / "vae")[1], {}, steps=1, snapshots=(), kept=folder,
    )  # fmt: skip
    found = demo_starts()
    starts = tuple(replace(start, frames=np.ascontiguousarray(start.frames[:, ::2, ::2])) for start in found.starts[:2])
    write_starts(folder / "starts.npz", Starts(starts, found.record))


def sampler_of(folder: Path, steps: int = 2) -> Sampler:
    """The sampler with which `folder` was exported."""
    params = load_section(RenderParams, "render", read_yaml(folder / "params.yaml"), folder / "params.yaml", {})
    return replace(Sampler.of(params), steps=steps)


class TorchDream:
    """A dream as the project dreams it, but with the noise of the driver and the page."""

    def __init__(self, folder: Path, sampler: Sampler) -> None:
        self.world, codec = load_world(folder / "world"), Codec(*load_vae(folder / "vae"))
        self.stepper = Stepper(self.world, codec, sampler)

    def begin(self, starts: list[Start], latents: int) -> np.ndarray:
        """uint8 [B, T, H, W, 3]: the context as it is shown."""
        rows = 1 + GROUP * latents
        frames, actions = (np.stack([getattr(start, of)[:rows] for start in starts]) for of in ("frames", "actions"))
        self.moment, shown = self.stepper.begin(frames, actions)
        return shown

    def step(self, actions: np.ndarray, seeds: list[int]) -> np.ndarray:
        """uint8 [B, c, H, W, 3]."""
        shape = self.world.form.latent_shape
        drawn = [
            torch.from_numpy(noise(seed, number, int(np.prod(shape))).reshape(shape)).float()
            for seed, number in zip(seeds, self.moment.world.position.tolist(), strict=True)
        ]
        with mock.patch("torch.randn", side_effect=drawn):
            self.moment, frames = self.stepper.step(self.moment, actions, seeds)
        return frames
