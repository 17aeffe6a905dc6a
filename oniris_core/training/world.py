"""What a training step of the world model is."""

from pathlib import Path

import torch
from torch import Tensor, nn

from oniris_core.common.seeds import numpy_rng, torch_generator
from oniris_core.config.train import TrainParams
from oniris_core.data.latent_clips import LatentClips
from oniris_core.data.latents import LatentStore
from oniris_core.nn.magnitude import force_normalize_
from oniris_core.training.distributed import of_all_ranks
from oniris_core.training.ema import PowerEma
from oniris_core.training.muon import Muon
from oniris_core.training.schedules import inverse_sqrt, warmup
from oniris_core.training.snapshots import SnapshotEma
from oniris_core.world.averages import snapshot_steps
from oniris_core.world.denoiser import Denoiser, DenoiserConfig
from oniris_core.world.loss import ExpectedLoss, frame_only_errors, loss_rows, noised_errors
from oniris_core.world.unet import UNetConfig


def denoiser_config(params: TrainParams, store: LatentStore) -> DenoiserConfig:
    """The architecture that the parameters and the latents ask for."""
    channels, height, width = (int(size) for size in store.latents.shape[1:])
    unet = UNetConfig(
        params.channels, params.channel_mult, params.blocks, params.video_attention, params.frame_attention,
        params.head_channels, params.window, params.gate_start,
    )  # fmt: skip
    unet.check_latent_size(height, width)
    features = store.action_spec.features * store.actions.shape[1]
    return DenoiserConfig(unet, channels, height, width, features, store.change_std, params.precondition)


class WorldTrainer:
    """Trains a denoiser on random latent clips; see `oniris_core.training.fit.Trainer`.

    Attributes:
        snapshots: after which steps the averages are kept, as files in the folder `kept`.
    """

    def __init__(
        self,
        params: TrainParams,
        config: DenoiserConfig,
        clips: LatentClips,
        seed: int,
        device: torch.device,
        kept: Path,
    ):
        self._params, self._clips, self._seed, self._device = params, clips, seed, device
        torch.manual_seed(int(torch_generator(seed, "world/init").initial_seed()))
        self.denoiser = Denoiser(config).to(device)
        force_normalize_(self.denoiser)
        self.model: nn.Module = self.denoiser
        self.optimizer: torch.optim.Optimizer = Muon(self.model.parameters(), lr=params.lr)
        self.snapshots = snapshot_steps(params.steps, params.ema_snapshots)
        self.emas: list[PowerEma] = [
            SnapshotEma(self.model, width, self.snapshots, kept) for width in params.ema_widths
        ]
        self.expected = ExpectedLoss().to(device)
        self.extra: nn.Module = self.expected
        self.others = dict[str, torch.optim.Optimizer]()

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over frames of loss / usual loss; set shares train without a past (steps) and without actions (clips)."""
        p, seed, device = self._params, self._seed, self._device
        batch = self._clips[self._clips.index.draw(p.batch, seed, "world/clips", step)]
        x, actions, has_action = (
            torch.from_numpy(a).to(device) for a in (batch.latents, batch.actions, batch.has_action)
        )
        kept = numpy_rng(seed, "world/action_drop", step).random(len(x)) >= p.action_drop_share
        has_action = has_action & torch.from_numpy(kept).to(device)[:, None]
        generator = torch_generator(seed, "world/noise", step)
        sigma = (p.p_mean + p.p_std * torch.randn(x.shape[:2], generator=generator)).exp().to(device)
        noise, clean_noise = (torch.randn(x.shape, generator=generator).to(device) for _ in range(2))
        # A clean frame is never declared to be quite without noise: its logarithm is an input.
        clean_sigma = (p.context_noise * torch.rand(len(x), generator=generator)).clamp(min=1e-3).to(device)

        if numpy_rng(seed, "world/frame_only", step).random() < p.frame_only_share:
            per_frame = frame_only_errors(self.denoiser, x, actions, has_action, sigma, noise).loss
            return (per_frame / self.expected(sigma)).mean(), {}
        errors = noised_errors(self.denoiser, x, actions, has_action, sigma, noise, clean_sigma, clean_noise)
        per_frame = errors.loss
        usual = self.expected(sigma)
        self.expected.observe(of_all_ranks(loss_rows(sigma, per_frame)))
        return (per_frame / usual).mean(), {"weighted": per_frame.detach().mean()}

    def lr(self, step: int) -> float:
        """Warm-up, then constant, then inverse square root."""
        p = self._params
        return p.lr * warmup(step, p.warmup_steps) * inverse_sqrt(step, p.lr_ref_steps)

    def after_step(self) -> dict[str, Tensor]:
        """Forced weight normalisation (arXiv 2312.02696, eq. 66)."""
        force_normalize_(self.model)
        return {}

    def describe(self, step: int) -> str:
        """The episodes of a step."""
        clips = self._clips.index.draw(self._params.batch, self._seed, "world/clips", step)
        return f"episodes {', '.join(map(str, self._clips.index.episode[clips]))}"
