"""What a training step of the VAE is."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from oniris_core.common.errors import OnirisError, UserError
from oniris_core.common.seeds import numpy_rng, torch_generator
from oniris_core.data.episodes.clips import FrameClips, cut_out
from oniris_core.training.fit.machine.compilation import compile_parts
from oniris_core.training.fit.machine.distributed import Ranks, average_gradients, average_of_ranks, of_all_ranks
from oniris_core.training.fit.machine.on_device import may_be_kept, to_device
from oniris_core.training.fit.optimiser.ema import PowerEma
from oniris_core.training.fit.optimiser.muon import Muon
from oniris_core.training.fit.optimiser.schedules import cosine, warmup
from oniris_core.training.fit.state import TrainState
from oniris_core.training.fit.trainer import Outcome
from oniris_core.training.vae.params import TrainVaeParams
from oniris_core.vae.discriminator import PairedDiscriminator, adversarial_loss, discriminator_loss
from oniris_core.vae.layers import ResidualBlock
from oniris_core.vae.losses import aggregate_kl, censored, gaussian_nll, share_of_pull, worst_share_error
from oniris_core.vae.model import Vae, VaeConfig, to_unit
from oniris_core.vae.perceptual import Perceptual

KERNEL = 3
"""Extent of the convolutions in space, pixels."""
NOISE_MAX = 0.1
"""Largest share of noise in the latents that the decoder is trained on."""
MOTION_SHARE = 0.85
"""Share of the crops that are chosen where something moves."""
FINAL_LR_SHARE = 0.05
"""Learning rate of the last step, as a share of the highest."""
CLIP_NORM = 1.0
"""Gradients, also the discriminators', are scaled down to this norm."""
EMA_WIDTH = 0.05
"""Width of the weights' average, relative to the training's length."""
NLL_BETA = 1.0
"""The mean of the likelihood is fitted as by squared error; 0 would be the plain likelihood."""
WORST_SHARE, WORST_SHARE_OF_CROPS = 0.005, 0.02
"""Share of the pixels that are counted as the worst: of whole frames, and of crops, in which more of them move."""
KL_WEIGHT = 0.001
"""Of the aggregate KL divergence per latent channel; likelihood, worst pixels and perceptual loss have weight 1."""
DISCRIMINATOR_CHANNELS, DISCRIMINATOR_LR = 32, 5e-4
"""Channels of the discriminators' first layer, and their learning rate (Adam)."""


def vae_config(params: TrainVaeParams) -> VaeConfig:
    """The architecture that the parameters ask for."""
    return VaeConfig(
        params.time_compression, params.space_compression, params.channels, params.blocks, KERNEL,
        params.latent_channels,
    )  # fmt: skip


def check_crop(params: TrainVaeParams, height: int, width: int) -> None:
    """Raise UserError unless the parts that are trained on fit into frames of this size."""
    if params.crop > min(height, width):
        raise UserError(
            f"train_vae.crop = {params.crop} is larger than the frames of {height} x {width}: choose at most "
            f"{min(height, width)}, or 0 for whole frames"
        )


@dataclass(frozen=True)
class VaeBatch:
    """Clips, and the noise of their latents.

    Attributes:
        frames_BTHWC: uint8.
        posterior_BTCHW, noise_BTCHW: unit noise of the posterior and of the noised latent.
        t_B: share of noise in the latents of a clip.
        judged: whether the discriminators have a say.
    """

    frames_BTHWC: Tensor
    posterior_BTCHW: Tensor
    noise_BTCHW: Tensor
    t_B: Tensor
    judged: bool


class VaeObjective(nn.Module):
    """The weighted sum of the losses; see `oniris_core.vae.losses`."""

    def __init__(
        self, vae: Vae, params: TrainVaeParams, judge: PairedDiscriminator | None, perceptual: Perceptual | None
    ):
        super().__init__()
        self.vae, self._params = vae, params
        # In a tuple: no part of what the ranks synchronise.
        self._others = judge, perceptual

    def forward(self, batch: VaeBatch) -> Outcome:
        """The loss of a batch; keeps truth `x` and reconstruction `mean` for the discriminators, where there are any."""
        p, (judge, perceptual) = self._params, self._others
        x, t = to_unit(batch.frames_BTHWC), batch.t_B[:, None, None, None, None]
        z_mean, z_logvar, _ = self.vae.encoder(x)
        z = (1 - t) * (z_mean + batch.posterior_BTCHW * (0.5 * z_logvar).exp()) + t * batch.noise_BTCHW
        mean, logvar, _ = self.vae.decoder(z, batch.t_B)
        mean = censored(mean, x)

        worst = worst_share_error(mean, x, WORST_SHARE_OF_CROPS if p.crop else WORST_SHARE, of_all_ranks)
        parts = {"nll": gaussian_nll(mean, logvar, x, NLL_BETA), "worst": worst}
        loss = parts["nll"] + parts["worst"]
        if perceptual is not None:
            parts["perceptual"] = perceptual(mean, x)
            loss = loss + parts["perceptual"]
        if judge is not None and batch.judged:
            parts["adversarial"] = adversarial_loss(judge(x, mean), judge(mean, x))
            share = share_of_pull(loss, parts["adversarial"], mean, average=average_of_ranks)
            loss = loss + p.adversarial_weight * share * parts["adversarial"]
        parts["kl"] = aggregate_kl(z_mean, z_logvar, average_of_ranks)
        loss = loss + KL_WEIGHT * parts["kl"]
        parts["mse"] = (mean - x).square().mean()
        parts["psnr"] = 10 * torch.log10(4 / parts["mse"])
        kept = {"x": x, "mean": mean.detach()} if "adversarial" in parts else {}
        return Outcome(loss, {name: value.detach() for name, value in parts.items()}, kept)


def frame_source(clips: FrameClips, device: torch.device) -> Callable[[np.ndarray], Tensor]:
    """A function that makes of numbers of clips their frames, uint8 [B, T, H, W, 3]: from the device's memory if all fit."""
    if not clips.in_memory or not may_be_kept(clips.frames.nbytes, device):
        return lambda chosen: to_device(clips[chosen], device)
    held = torch.from_numpy(clips.frames).to(device)
    return lambda chosen: held[to_device(clips.rows(chosen), device)]


class VaeTrainer:
    """Trains a VAE on random clips; see `oniris_core.training.fit.trainer.Trainer`.

    Attributes:
        vae: what is trained.
    """

    gauge = "mse"

    def __init__(
        self,
        params: TrainVaeParams,
        clips: FrameClips,
        seed: int,
        device: torch.device,
        perceptual: Perceptual | None = None,
        ranks: Ranks | None = None,
    ):
        self._params, self._clips, self._seed, self.device = params, clips, seed, device
        self._ranks = ranks or Ranks()
        torch.manual_seed(int(torch_generator(seed, "vae/init").initial_seed()))
        self.vae = Vae(vae_config(params)).to(device)
        self.state = TrainState(self.vae, Muon(self.vae.parameters(), lr=params.lr), [PowerEma(self.vae, EMA_WIDTH)])
        self._judge: PairedDiscriminator | None = None
        if params.adversarial_weight:
            self._judge = PairedDiscriminator(DISCRIMINATOR_CHANNELS).to(device)
            self.state.extra.add_module("discriminator", self._judge)
            self.state.others["discriminator"] = torch.optim.Adam(
                self._judge.parameters(), lr=DISCRIMINATOR_LR, betas=(0.5, 0.99)
            )
        if params.compile:
            compile_parts(self.vae, (ResidualBlock,))
        self.objective: nn.Module = VaeObjective(self.vae, params, self._judge, perceptual)
        self.frames_per_step = params.batch * params.clip_frames
        self._source = frame_source(clips, device)
        self.in_memory = clips.in_memory

    def batch(self, step: int, part: int) -> VaeBatch:
        """Random clips, or parts of them, with random noise."""
        p, mine, device = self._params, self._ranks.part(self._params.batch, self._params.accumulate, part), self.device
        drawn = self._clips.index.draw(p.batch, self._seed, "vae/clips", step)[mine]
        if p.crop:
            rngs = [numpy_rng(self._seed, "vae/crop", step, int(place)) for place in mine]
            cut = (cut_out(f, p.crop, MOTION_SHARE, rng) for f, rng in zip(self._clips[drawn], rngs, strict=True))
            frames = to_device(np.stack(list(cut)), device)
        else:
            frames = self._source(drawn)
        # Noise is drawn for the whole step, whoever takes part in it: a clip's depends on its place alone.
        generator = torch_generator(self._seed, "vae/noise", step, device=device.type)
        shape, here = self.vae.config.latent_shape(*frames.shape[1:4]), slice(int(mine[0]), int(mine[-1]) + 1)
        posterior, noise = (torch.randn(p.batch, *shape, generator=generator, device=device)[here] for _ in range(2))
        t = torch.rand(p.batch, generator=generator, device=device)[here] * NOISE_MAX
        return VaeBatch(frames, posterior, noise, t, step >= p.steps // 2)

    def lr(self, step: int, share: float) -> float:
        """Warm-up, then half a cosine."""
        p = self._params
        return p.lr * warmup(step, p.warmup_steps) * cosine(share, FINAL_LR_SHARE)

    def after_step(self, kept: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Teach the discriminators on the pairs that the step's loss was about, if there were any."""
        judge = self._judge
        if judge is None or not kept[0]:
            return {}
        optimizer, losses = self.state.others["discriminator"], []
        optimizer.zero_grad(set_to_none=True)
        for part in kept:
            x, mean = part["x"], part["mean"]
            losses.append(discriminator_loss(judge(x, mean), judge(mean, x)) / len(kept))
            losses[-1].backward()
        average_gradients(judge)
        norm = nn.utils.clip_grad_norm_(judge.parameters(), CLIP_NORM)
        if not torch.isfinite(norm):
            raise OnirisError(
                "train_vae: the discriminators' gradient is not finite: lower train_vae.adversarial_weight"
            )
        optimizer.step()
        return {"discriminator": average_of_ranks(torch.stack(losses).sum().detach())}

    def describe(self, step: int) -> str:
        """The episodes of a step."""
        clips = self._clips.index.draw(self._params.batch, self._seed, "vae/clips", step)
        return f"episodes {', '.join(map(str, self._clips.index.episode[clips]))}"
