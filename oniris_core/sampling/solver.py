"""EDM's second-order solver (arXiv 2206.00364, algorithm 1) for any denoising function."""

from collections.abc import Callable

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
"""(x, sigma) to the expected clean x."""

Observer = Callable[[int, float, Tensor, Tensor], None]
"""(step, sigma, x, denoised) at every noise level."""


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, observe: Observer | None = None) -> Tensor:
    """Follow the probability flow from noise level sigmas[0] to the last.

    Args:
        denoise: the denoising function.
        x: noised at sigmas[0].
        sigmas: [N + 1], falling; a last 0 is reached with a first-order step.
        observe: told of every step.

    Returns:
        x at the last noise level.
    """
    for step, (sigma, below) in enumerate(zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True)):
        denoised = denoise(x, sigma)
        if observe is not None:
            observe(step, sigma, x, denoised)
        slope = (x - denoised) / sigma
        moved = x + (below - sigma) * slope
        if below > 0:
            moved = x + (below - sigma) * 0.5 * (slope + (moved - denoise(moved, below)) / below)
        x = moved
    return x
