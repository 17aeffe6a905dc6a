"""The training loss (docs/design.md, section 3): per frame, weighted by its noise level, divided by what is usual there."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oniris_core.world.denoiser import Denoiser, Expected, Frames

TERMS = 4
PAIRS = 10_000
REFIT_EVERY = 200
PRIOR = 20.0
TAIL = 1.0


class ExpectedLoss(nn.Module):
    """A curve of the usual loss over sigma, so that each noise level pulls equally.

    Least squares of log10(loss) on a Fourier basis of `TERMS` frequencies of log10(sigma), over the last `PAIRS` frames,
    refitted at the first, second, fourth, ... and then at every `REFIT_EVERY`-th step. Residuals beyond `TAIL` decades
    pull with constant force only (Huber's weights). A prior worth `PRIOR` frames says that the loss is 1, which it is
    before training (the network gives 0, its targets have unit variance): few frames, or frames of one noise level only,
    move the curve little and nowhere far. The state is in buffers.
    """

    rows: Tensor
    seen: Tensor
    steps: Tensor
    coefficients: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(PAIRS, 3))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("coefficients", torch.zeros(1 + 2 * TERMS))
        self._steps: int | None = None  # `steps` once it was read: on a GPU to read it at every step would mean to wait
        self.register_load_state_dict_post_hook(lambda module, _: module.forget_count())

    def forget_count(self) -> None:
        """Read `steps` again when it is needed: it has been loaded."""
        self._steps = None

    def forward(self, sigma: Tensor) -> Tensor:
        """The usual loss at each sigma; same shape, above 0."""
        return 10 ** (self._basis(sigma.log10()) * self.coefficients).sum(-1)

    @property
    def recent(self) -> Tensor:
        """[0..PAIRS, 3]: the frames the curve is fitted to, each a row of `loss_rows`."""
        return self.rows[: min(int(self.seen), PAIRS)]

    @torch.no_grad()
    def observe(self, rows: Tensor) -> None:
        """Take in the frames of a step, [..., 3] as `loss_rows` gives them, and refit when it is time."""
        new = rows.flatten(0, -2)[-PAIRS:]
        index = (self.seen + torch.arange(len(new), device=new.device)) % PAIRS
        self.rows[index] = new.to(self.rows)
        self.seen += len(new)
        self.steps += 1
        steps = self._steps = int(self.steps) if self._steps is None else self._steps + 1
        if steps % REFIT_EVERY == 0 or steps & (steps - 1) == 0:
            self.coefficients.copy_(self._fit(self.recent.double().cpu()))

    def _fit(self, rows: Tensor) -> Tensor:
        basis, y = self._basis(rows[:, 0]), rows[:, 1]
        # Beside the prior a little ridge keeps the curve sane where there are no noise levels.
        ridge = torch.full((basis.shape[1],), PRIOR + 1e-3 * len(rows)).double()
        ridge[0] = PRIOR
        weight, coefficients = torch.ones_like(y), torch.zeros_like(ridge)
        for _ in range(5):
            weighted = basis * weight[:, None]
            coefficients = torch.linalg.solve(weighted.T @ basis + ridge.diag(), weighted.T @ y)
            weight = TAIL / (y - basis @ coefficients).abs().clamp(min=TAIL)
        return coefficients

    @staticmethod
    def _basis(log_sigma: Tensor) -> Tensor:
        # One period spans ten decades of sigma, more than any noise distribution in use.
        k = torch.arange(1, TERMS + 1, device=log_sigma.device, dtype=log_sigma.dtype)
        angle = log_sigma[..., None] * (2 * math.pi / 10) * k
        return torch.cat([torch.ones_like(log_sigma)[..., None], angle.cos(), angle.sin()], dim=-1)


def loss_rows(sigma_BT: Tensor, loss_BT: Tensor) -> Tensor:
    """[B, T, 3]: of every frame log10(sigma), log10(loss) and the position in its clip."""
    position = torch.arange(sigma_BT.shape[1], device=sigma_BT.device).expand_as(sigma_BT)
    return torch.stack([sigma_BT.log10(), loss_BT.clamp(min=1e-12).log10(), position], dim=-1).detach()


@dataclass(frozen=True)
class FrameErrors:
    """Of every frame of a clip, [B, T] each.

    Attributes:
        error: mean((D - x)^2).
        weight: lambda(sigma), the preconditioning's weight of it.
        forecast: the loss of what was forecast.
    """

    error: Tensor
    weight: Tensor
    forecast: Tensor

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
    expected: Expected | None = None,
) -> FrameErrors:
    """The errors of every frame in one pass, each given its clean past (teacher forcing).

    Args:
        x_BTCHW: standardised latent clips, and in front of them the frames before, which the forecast sees.
        actions_BTA, has_action_BT: of all of these; see `Frames`.
        sigma_BT, noise_BTCHW: noise level and unit noise of the noised stream, which has the T frames of the clips only.
        clean_sigma_B, clean_noise_BTCHW: noise level and unit noise of all clean frames, one level per clip.
        expected: of the T frames, where it is known already.
    """
    T = sigma_BT.shape[1]
    clean = clean_frames(x_BTCHW, actions_BTA, has_action_BT, clean_sigma_B, clean_noise_BTCHW)
    expected, x = expected or denoiser.expect(clean, T), x_BTCHW[:, -T:]
    D_x = denoiser(clean, _noised(x, sigma_BT, noise_BTCHW), sigma_BT, expected)
    error = (D_x[:, 1] - x).square().mean((2, 3, 4))
    return FrameErrors(error, expected.loss_weight(sigma_BT), expected.forecast.loss(x, denoiser.config.change_std))


def forecast_loss(denoiser: Denoiser, x_BTCHW: Tensor, expected: Expected) -> Tensor:
    """`FrameErrors.forecast` of the frames [B, T, C, H, W] alone, without the passes through the network that refines it."""
    return expected.forecast.loss(x_BTCHW, denoiser.config.change_std)


def clean_frames(
    x_BTCHW: Tensor, actions_BTA: Tensor, has_action_BT: Tensor, sigma_B: Tensor, noise_BTCHW: Tensor
) -> Frames:
    """The clean stream of clips: declared to have, and having, a little noise, of one level per clip."""
    sigma_BT = sigma_B[:, None].expand(x_BTCHW.shape[:2])
    return Frames(_noised(x_BTCHW, sigma_BT, noise_BTCHW), sigma_BT, actions_BTA, has_action_BT)


def _noised(x_BTCHW: Tensor, sigma_BT: Tensor, noise_BTCHW: Tensor) -> Tensor:
    return x_BTCHW + sigma_BT[..., None, None, None] * noise_BTCHW
