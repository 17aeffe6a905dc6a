"""What a training step of the VAE is."""

import torch
from torch import Tensor, nn

from oniris_core.common.seeds import torch_generator
from oniris_core.config.train_vae import TrainVaeParams
from oniris_core.data.frame_clips import FrameClips
from oniris_core.training.ema import PowerEma
from oniris_core.training.muon import Muon
from oniris_core.training.schedules import cosine, warmup
from oniris_core.vae.discriminator import PairedDiscriminator, adversarial_loss, discriminator_loss
from oniris_core.vae.losses import aggregate_kl, censored, gaussian_nll, share_of_pull, worst_share_error
from oniris_core.vae.model import Vae, VaeConfig, to_unit
from oniris_core.vae.perceptual import Perceptual


def vae_config(params: TrainVaeParams) -> VaeConfig:
    """The architecture that the parameters ask for."""
    return VaeConfig(
        params.time_compression, params.space_compression, params.channels, params.blocks, params.kernel,
        params.latent_channels,
    )  # fmt: skip


class VaeTrainer:
    """Trains a VAE on random clips; see `oniris_core.training.fit.Trainer`."""

    def __init__(
        self, params: TrainVaeParams, clips: FrameClips, seed: int, device: torch.device,
        perceptual: Perceptual | None = None,
    ):  # fmt: skip
        self._params, self._clips, self._seed, self._device = params, clips, seed, device
        self._perceptual = perceptual
        torch.manual_seed(int(torch_generator(seed, "vae/init").initial_seed()))
        self.model: nn.Module = Vae(vae_config(params)).to(device)
        self.optimizer: torch.optim.Optimizer = Muon(self.model.parameters(), lr=params.lr)
        self.emas = [PowerEma(self.model, params.ema_width)]
        self.extra: nn.Module = nn.Module()
        self.others = dict[str, torch.optim.Optimizer]()
        if params.adversarial_weight:
            discriminator = PairedDiscriminator(params.discriminator_channels).to(device)
            self.extra.add_module("discriminator", discriminator)
            self.others["discriminator"] = torch.optim.Adam(
                discriminator.parameters(), lr=params.discriminator_lr, betas=(0.5, 0.99)
            )
        self._judged: tuple[Tensor, Tensor] | None = None

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
        mean = censored(mean, x)

        parts = {"nll": gaussian_nll(mean, logvar, x, p.nll_beta), "worst": worst_share_error(mean, x, p.worst_share)}
        loss = p.nll_weight * parts["nll"] + p.worst_weight * parts["worst"]
        if self._perceptual is not None:
            parts["perceptual"] = self._perceptual(mean, x)
            loss = loss + p.perceptual_weight * parts["perceptual"]
        if self.others and step >= p.adversarial_start:
            parts["adversarial"] = self._fool(x, mean)
            share = share_of_pull(loss, parts["adversarial"], mean)
            loss = loss + p.adversarial_weight * share * parts["adversarial"]
        parts["kl"] = aggregate_kl(z_mean, z_logvar)
        loss = loss + p.kl_weight * parts["kl"]
        mse = (mean - x).square().mean()
        logs = {**parts, "psnr": 10 * torch.log10(4 / mse)}
        return loss, {name: value.detach() for name, value in logs.items()}

    def lr(self, step: int) -> float:
        """Warm-up, then half a cosine."""
        p = self._params
        return p.lr * warmup(step, p.warmup_steps) * cosine(step, p.steps, p.final_lr_share)

    def after_step(self) -> dict[str, Tensor]:
        """Teach the discriminator on the pair that the step's loss was about, if there was one."""
        if self._judged is None:
            return {}
        (x, mean), self._judged = self._judged, None
        judge, optimizer = self.extra.get_submodule("discriminator"), self.others["discriminator"]
        loss = discriminator_loss(judge(x, mean), judge(mean, x))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(judge.parameters(), self._params.clip_norm)
        optimizer.step()
        return {"discriminator": loss.detach()}

    def describe(self, step: int) -> str:
        """The episodes of a step."""
        clips = self._clips.index.draw(self._params.batch, self._seed, "vae/clips", step)
        return f"episodes {', '.join(map(str, self._clips.index.episode[clips]))}"

    def _fool(self, x: Tensor, mean: Tensor) -> Tensor:
        judge = self.extra.get_submodule("discriminator")
        self._judged = x, mean.detach()
        return adversarial_loss(judge(x, mean), judge(mean, x))
