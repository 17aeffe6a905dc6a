"""How the training of a world model stands, in one picture.

It draws on the sampler and the VAE, on which training does not depend. So `stages.train` loads it by name: editing those
must not train the model anew.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from oniris_core.common.errors import UserError
from oniris_core.common.seeds import torch_generator
from oniris_core.data.latents.clips import LatentClips
from oniris_core.data.latents.store import LatentStore
from oniris_core.sampling.autoregressive import Sampler, around, generate, prefill
from oniris_core.sampling.schedule import sigma_schedule
from oniris_core.sampling.solver import dpm_solver
from oniris_core.training.fit.watch.report import draw_curve
from oniris_core.training.world.loss_profile import draw_loss
from oniris_core.vae.model import Vae, to_uint8
from oniris_core.vae.store import load_vae
from oniris_core.world.denoiser import Denoiser
from oniris_core.world.generation_form import GenerationForm
from oniris_core.world.loss import ExpectedLoss

SAMPLER = Sampler(steps=8, sigma_max=5.0, sigma_min=0.1, rho=3.0, context_sigma=0.07)
CLIPS = 16
"""Held-out clips over which the error by solver step is averaged."""


def vae_of(store: LatentStore, path: Path, device: torch.device) -> Vae | None:
    """The VAE at `path` if it is the one that made the latents."""
    try:
        vae, identity = load_vae(path, device)
    except UserError:
        return None
    return vae if identity == store.vae_identity else None


@dataclass(frozen=True)
class WorldDashboard:
    """Draws the state of a world model's training.

    Attributes:
        store: the latents.
        held_out: clips of them to predict.
        expected: the usual loss.
        vae: the VAE of the latents, to show them as frames; None where it is not there.
        frames_per_step: latent frames.
        seed: of the noise.
        device: where to compute.
    """

    store: LatentStore
    held_out: LatentClips
    expected: ExpectedLoss
    vae: Vae | None
    frames_per_step: int
    seed: int
    device: torch.device

    def draw(self, history: dict[str, Tensor], step: int, denoiser: Denoiser) -> Figure:
        """The picture after `step` steps, of the averaged weights `denoiser`."""
        figure = Figure(figsize=(13, 8), layout="constrained")
        figure.suptitle(f"world model after {step} steps, {step * self.frames_per_step} latent frames")
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2)).flat
        panels = above.subplots(1, 3)
        draw_loss(panels[0], self.expected)
        panels[1].set_title("loss by frames seen")
        for name, label in (("loss", "loss / usual loss"), ("weighted", "weighted loss")):
            if name in history:
                draw_curve(panels[1], history[name], step, self.frames_per_step, label)
        form = GenerationForm(denoiser)
        self._draw_denoising(panels[2], form)
        self._draw_film(below.subplots(), form)
        return figure

    def _clips(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        batch = self.held_out[self.held_out.index.spread(count)]
        x, actions, has_action = (
            torch.from_numpy(a).to(self.device) for a in (batch.latents, batch.actions, batch.has_action)
        )
        return x, actions, has_action

    @torch.inference_mode()
    def _draw_denoising(self, axis: Axes, form: GenerationForm) -> None:
        """Error of what the network takes for the clean frame, at every step of the solver from pure noise."""
        x, actions, has_action = self._clips(CLIPS)
        context, last, errors = slice(None, -1), x[:, -2], list[float]()
        state = prefill(form, x[:, context], actions[:, context], has_action[:, context], SAMPLER)
        ahead = form.look_ahead(state, form.tell(actions[:, -1], has_action[:, -1]))
        noise = torch.randn(last.shape, generator=torch_generator(self.seed, "dashboard")).to(self.device)

        def note(_: int, __: float, ___: Tensor, denoised: Tensor) -> None:
            errors.append(float((denoised - x[:, -1]).square().mean().sqrt()))

        sigmas = sigma_schedule(SAMPLER.steps, SAMPLER.sigma_max, SAMPLER.sigma_min, SAMPLER.rho)
        dpm_solver(
            lambda noised, sigma: form.denoise(state, ahead, noised, noised.new_full((len(x),), sigma)),
            around(ahead, SAMPLER.sigma_max, noise), sigmas, note,
        )  # fmt: skip
        axis.plot(sigmas[:-1], errors, marker=".", label="from noise around what is expected")
        for label, style, frame in (
            ("what is expected", ":", ahead.center), ("last frame repeated", "--", last)
        ):  # fmt: skip
            error = float((frame - x[:, -1]).square().mean().sqrt())
            axis.axhline(error, color="gray", linestyle=style, label=label)
        axis.set(title="error of the next frame by solver step", xlabel="sigma", ylabel="root mean square error",
                 xscale="log", yscale="log")  # fmt: skip
        axis.invert_xaxis()
        axis.legend(fontsize=7)

    @torch.inference_mode()
    def _draw_film(self, axis: Axes, form: GenerationForm) -> None:
        """Two clips: truth above, what the model makes of the first two latent frames below."""
        axis.set_axis_off()
        if self.vae is None:
            axis.set_title("no film: the VAE of these latents was not found")
            return
        x, actions, has_action = self._clips(2)
        before = self.held_out.before
        seen = before + min(2, x.shape[1] - before - 1)
        state = prefill(form, x[:, :seen], actions[:, :seen], has_action[:, :seen], SAMPLER)
        made = [*x[:, :seen].unbind(1)]
        made += generate(form, state, actions[:, seen:].unbind(1), SAMPLER, [self.seed * 2**32 + i for i in range(2)])
        mean, std = (torch.from_numpy(a).to(self.device)[:, None, None] for a in (self.store.mean, self.store.std))
        strips = []
        for latents in (x[:, before:], torch.stack(made, dim=1)[:, before:]):
            frames, _, _ = self.vae.decoder(latents * std + mean, torch.zeros(2, device=self.device))
            strips.append(to_uint8(frames)[:, :: max(self.vae.config.group // 2, 1)].cpu().numpy())
        film = [np.concatenate(list(strip[clip]), axis=1) for clip in range(2) for strip in strips]
        axis.imshow(np.concatenate(film), interpolation="nearest")
        axis.set_title(f"two held-out clips, truth above, generated below; the first {seen} latent frames are given")
