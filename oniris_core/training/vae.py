"""What a training step of the VAE is."""

import torch
from torch import Tensor, nn

from oniris_core.common.seeds import torch_generator
from oniris_core.config.train_vae import TrainVaeParams
from oniris_core.data.frame_clips import FrameClips
from oniris_core.training.ema import PowerEma
from oniris_core.training.schedules import cosine, warmup
from oniris_core.vae.losses import aggregate_kl, gaussian_nll, worst_share_error
from oniris_core.vae.model import Vae, VaeConfig, to_unit


def vae_config(params: TrainVaeParams) -> VaeConfig:
    """The architecture that the parameters ask for."""
    return VaeConfig(
        params.time_compression, params.space_compression, params.channels, params.blocks, params.kernel,
        params.latent_channels,
    )  # fmt: skip


class VaeTrainer:
    """Trains a VAE on random clips; see `oniris_core.training.fit.Trainer`."""

    def __init__(self, params: TrainVaeParams, clips: FrameClips, seed: int, device: torch.device):
        self._params, self._clips, self._seed, self._device = params, clips, seed, device
        torch.manual_seed(int(torch_generator(seed, "vae/init").initial_seed()))
        self.model: nn.Module = Vae(vae_config(params)).to(device)
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            self.model.parameters(), lr=params.lr, betas=(0.9, 0.99)
        )
        self.emas = [PowerEma(self.model, params.ema_width)]
        self.extra: nn.Module = nn.Module()

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the losses on the step's clips."""
        p, model = self._params, self.model
        assert isinstance(model, Vae)
        clips = self._clips.index.draw(p.batch, self._seed, "vae/clips", step)
        x = to_unit(torch.from_numpy(self._clips[clips]).to(self._device))
        generator = torch_generator(self._seed, "vae/noise", step)

        z_mean, z_logvar, _ = model.encoder(x)
        posterior, noise = (torch.randn(z_mean.shape, generator=generator).to(x.device) for _ in range(2))
        t_B = (torch.rand(len(x), generator=generator) * p.noise_max).to(x.device)
        t = t_B[:, None, None, None, None]
        z = (1 - t) * (z_mean + posterior * (0.5 * z_logvar).exp()) + t * noise
        mean, logvar, _ = model.decoder(z, t_B)

        parts = {
            "nll": gaussian_nll(mean, logvar, x, p.nll_beta),
            "worst": worst_share_error(mean, x, p.worst_share),
            "kl": aggregate_kl(z_mean, z_logvar),
        }
        loss = p.nll_weight * parts["nll"] + p.worst_weight * parts["worst"] + p.kl_weight * parts["kl"]
        mse = (mean - x).square().mean()
        logs = {**parts, "psnr": 10 * torch.log10(4 / mse)}
        return loss, {name: value.detach() for name, value in logs.items()}

    def lr(self, step: int) -> float:
        """Warm-up, then half a cosine."""
        p = self._params
        return p.lr * warmup(step, p.warmup_steps) * cosine(step, p.steps, p.final_lr_share)

    def after_step(self) -> None:
        """Nothing follows a step."""

    def describe(self, step: int) -> str:
        """The episodes of a step."""
        clips = self._clips.index.draw(self._params.batch, self._seed, "vae/clips", step)
        return f"episodes {', '.join(map(str, self._clips.index.episode[clips]))}"
