"""The training loss (DESIGN.md section 5): per frame, weighted by its noise level, divided by what is usual there."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oniris_core.world.context import Context, FrameOnly, Parallel
from oniris_core.world.denoiser import Denoiser

TERMS = 4
PAIRS = 10_000
REFIT_EVERY = 200
FEWEST = 500


class ExpectedLoss(nn.Module):
    """A curve of the usual loss over sigma, so that each noise level pulls equally.

    Least squares of log10(loss) on a Fourier basis of `TERMS` frequencies of log10(sigma), over the last `PAIRS` pairs,
    refitted every `REFIT_EVERY` steps. Below `FEWEST` pairs it is 1 everywhere. Its state is in buffers.
    """

    pairs: Tensor
    seen: Tensor
    coefficients: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pairs", torch.zeros(PAIRS, 2))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("coefficients", torch.zeros(1 + 2 * TERMS))

    def forward(self, sigma: Tensor) -> Tensor:
        """The usual loss at each sigma; same shape, above 0."""
        return 10 ** (self._basis(sigma.log10()) @ self.coefficients)

    @torch.no_grad()
    def observe(self, sigma: Tensor, loss: Tensor, step: int) -> None:
        """Take in the (sigma, loss) pairs of a step, and refit when it is time."""
        new = torch.stack([sigma.flatten().log10(), loss.flatten().clamp(min=1e-12).log10()], dim=1)[-PAIRS:]
        index = (self.seen + torch.arange(len(new), device=new.device)) % PAIRS
        self.pairs[index] = new.to(self.pairs)
        self.seen += len(new)
        count = min(int(self.seen), PAIRS)
        if count >= FEWEST and (step % REFIT_EVERY == 0 or count - len(new) < FEWEST):
            x, y = self.pairs[:count].double().cpu().unbind(1)
            basis = self._basis(x)
            # A little ridge keeps the fit sane where there are few noise levels.
            gram = basis.T @ basis + 1e-3 * count * torch.diag(torch.tensor([0.0] + [1.0] * 2 * TERMS).double())
            self.coefficients.copy_(torch.linalg.solve(gram, basis.T @ y))

    @staticmethod
    def _basis(log_sigma: Tensor) -> Tensor:
        # One period spans ten decades of sigma, more than any noise distribution in use.
        k = torch.arange(1, TERMS + 1, device=log_sigma.device, dtype=log_sigma.dtype)
        angle = log_sigma[..., None] * (2 * math.pi / 10) * k
        return torch.cat([torch.ones_like(log_sigma)[..., None], angle.cos(), angle.sin()], dim=-1)


@dataclass(frozen=True)
class FrameErrors:
    """Of every frame of a clip, [B, T] each.

    Attributes:
        error: mean((D - x)^2).
        weight: lambda(sigma), the preconditioning's weight of it.
    """

    error: Tensor
    weight: Tensor

    @property
    def loss(self) -> Tensor:
        """lambda(sigma) * mean((D - x)^2)."""
        return self.weight * self.error


def noised_errors(
    denoiser: Denoiser,
    x_BTCHW: Tensor,
    actions_BTA: Tensor,
    has_action_BT: Tensor,
    sigma_BT: Tensor,
    noise_BTCHW: Tensor,
    clean_sigma_B: Tensor,
    clean_noise_BTCHW: Tensor,
) -> FrameErrors:
    """The errors of every frame in one pass, each given its clean past (teacher forcing).

    Args:
        x_BTCHW: standardised latent clips.
        actions_BTA, has_action_BT: see `Denoiser.forward`.
        sigma_BT, noise_BTCHW: noise level and unit noise of the noised stream.
        clean_sigma_B, clean_noise_BTCHW: noise level and unit noise of the clean stream, one level per clip.
    """
    noised = x_BTCHW + sigma_BT[..., None, None, None] * noise_BTCHW
    clean = x_BTCHW + clean_sigma_B[:, None, None, None, None] * clean_noise_BTCHW
    x_BSTCHW = torch.stack([clean, noised], dim=1)
    sigma_BST = torch.stack([clean_sigma_B[:, None].expand_as(sigma_BT), sigma_BT], dim=1)
    return _errors(denoiser, x_BTCHW, x_BSTCHW, sigma_BST, actions_BTA, has_action_BT, Parallel())


def frame_only_errors(
    denoiser: Denoiser,
    x_BTCHW: Tensor,
    actions_BTA: Tensor,
    has_action_BT: Tensor,
    sigma_BT: Tensor,
    noise_BTCHW: Tensor,
) -> FrameErrors:
    """The same without any past."""
    noised = (x_BTCHW + sigma_BT[..., None, None, None] * noise_BTCHW)[:, None]
    return _errors(denoiser, x_BTCHW, noised, sigma_BT[:, None], actions_BTA, has_action_BT, FrameOnly())


def _errors(
    denoiser: Denoiser,
    x_BTCHW: Tensor,
    x_BSTCHW: Tensor,
    sigma_BST: Tensor,
    actions_BTA: Tensor,
    has_action_BT: Tensor,
    context: Context,
) -> FrameErrors:
    D_x, _ = denoiser(x_BSTCHW, sigma_BST, actions_BTA, has_action_BT, context)
    weight = denoiser.precondition(x_BSTCHW, sigma_BST, context).loss_weight[:, -1, :, 0, 0, 0]
    return FrameErrors((D_x[:, -1] - x_BTCHW).square().mean((2, 3, 4)), weight)  # the noised stream is the last
