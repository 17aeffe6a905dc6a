"""Magnitude-preserving building blocks, each from an equation of arXiv 2312.02696 (EDM2), named beside it.

All keep unit magnitude: given inputs of root-mean-square 1, outputs have about root-mean-square 1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def normalize(x: Tensor, dims: tuple[int, ...], eps: float = 1e-4) -> Tensor:
    """x / (rms(x) + eps) over the axes `dims`: unit root-mean-square (eq. 47, with rms for the norm)."""
    count = math.prod([x.shape[dim] for dim in dims])
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True)
    # Where x is of reduced precision norm is not.
    return x / (norm * math.sqrt(1 / count) + eps).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """silu(x) / 0.596 (eq. 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """((1-t) a + t b) / sqrt((1-t)^2 + t^2) (eq. 88)."""
    b = b.to(a.dtype)  # one of them may be of reduced precision
    if isinstance(t, Tensor):
        scale = torch.rsqrt((1 - t).square() + t.square())
        return torch.lerp(a, b, t.to(a.dtype)) * scale.to(a.dtype)
    return torch.lerp(a, b, t) / math.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a: Tensor, b: Tensor, dim: int, t: float = 0.5) -> Tensor:
    """Concatenation along `dim` in which both parts keep their share of the magnitude (eq. 103)."""
    n_a, n_b = a.shape[dim], b.shape[dim]
    scale = math.sqrt((n_a + n_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (scale * (1 - t) / math.sqrt(n_a)), b * (scale * t / math.sqrt(n_b))], dim=dim)


class MPFourier(nn.Module):
    """sqrt(2) cos(2 pi (f x + p)) with fixed random frequencies f ~ N(0, 1) and phases p ~ U(0, 1) (eq. 75)."""

    frequency: Tensor
    phase: Tensor

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("frequency", 2 * math.pi * torch.randn(features))
        self.register_buffer("phase", 2 * math.pi * torch.rand(features))

    def forward(self, x: Tensor) -> Tensor:
        """[...] to [..., features]."""
        return math.sqrt(2) * torch.cos(x[..., None] * self.frequency + self.phase)


def border_gain(kernel: int, height: int, width: int) -> float:
    """What makes up for the zeros that a convolution of odd size `kernel` reads around a frame (ours, not the paper's).

    One over the root of the share of its taps that lie within the frame: 1.01 at 64 x 64, but 1.2 at 4 x 4 for kernel 3.
    Sides are at least kernel // 2.
    """
    beyond = (kernel // 2) * (kernel // 2 + 1)  # taps outside, of the kernel * size along one axis
    return kernel * math.sqrt(height * width / ((kernel * height - beyond) * (kernel * width - beyond)))


class MPConv(nn.Module):
    """A convolution, or with kernel 0 a matrix product over the last axis, whose weights have unit magnitude (eq. 47).

    A convolution keeps the mean square over a frame of any size: see `border_gain`.
    The stored weight is brought back to unit magnitude after every update by `force_normalize_` (eq. 66), so that the
    gradient's share along the weight never makes the effective learning rate drift. Once training is over, `settle_` does so
    for the last time.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 0):
        super().__init__()
        self.kernel, self.settled = kernel, False
        self.weight = nn.Parameter(torch.randn(c_out, c_in, *((kernel, kernel) if kernel else ())))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """[N, c_in, H, W] to [N, c_out, H, W], or [..., c_in] to [..., c_out]; times `gain`."""
        if not self.kernel:
            return F.linear(x, self.scaled_weight(gain))
        return F.conv2d(x, self.scaled_weight(gain, *x.shape[-2:]), padding=self.kernel // 2)

    def scaled_weight(self, gain: Tensor | float = 1.0, height: int = 0, width: int = 0) -> Tensor:
        """What it multiplies by, times `gain`: for frames of height x width pixels if it is a convolution."""
        scale = 1 / math.sqrt(self.weight[0].numel())
        if self.kernel:
            scale *= border_gain(self.kernel, height, width)
        weight = self.weight if self.settled else normalize(self.weight, tuple(range(1, self.weight.ndim)))
        return weight * (gain * scale)


@torch.no_grad()
def force_normalize_(model: nn.Module) -> None:
    """Bring every MPConv weight in `model` back to unit magnitude per output (eq. 66). Call after each update."""
    shapes = dict[torch.Size, list[Tensor]]()
    for module in model.modules():
        if isinstance(module, MPConv):
            shapes.setdefault(module.weight.shape, []).append(module.weight)
    for shape, weights in shapes.items():  # those of one shape in one call: a network has dozens, each of them small
        normalised = normalize(torch.stack(weights).flatten(0, 1), tuple(range(1, len(shape)))).unflatten(
            0, (-1, shape[0])
        )
        torch._foreach_copy_(weights, list(normalised.unbind()))


@torch.no_grad()
def settle_(model: nn.Module) -> None:
    """Normalise all weights of a model that is not trained any further, so that it need not be done at every call."""
    force_normalize_(model)
    for module in model.modules():
        if isinstance(module, MPConv):
            module.settled = True
