"""Losses of the VAE, one function each (docs/design.md, section 2)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

AcrossRanks = Callable[[Tensor], Tensor]
"""Makes one value of those of all processes of a training. `_alone`: there is only this one."""


def _alone(value: Tensor) -> Tensor:
    return value


def censored(mean: Tensor, x: Tensor) -> Tensor:
    """`mean` without what overshoots the range of pixels where x stands at its end, -1 or 1.

    Such a value is clipped when it is shown, so it is right as it is: black and white need not be hit exactly, only passed
    (a regression on censored observations). Elsewhere, and on the wrong side of the range, `mean` is left alone.
    """
    lowest, highest = torch.where(x <= -1, -1.0, -math.inf), torch.where(x >= 1, 1.0, math.inf)
    return mean.clamp(lowest, highest)


def gaussian_nll(mean: Tensor, logvar: Tensor, x: Tensor, beta: float) -> Tensor:
    """Mean negative log-likelihood of x under N(mean, exp(logvar)), without the constant.

    With beta > 0 each pixel's term is multiplied by its variance to the power beta (detached), so that pixels
    called uncertain still pull on the mean (arXiv 2203.09168, eq. 5). The scale of the terms changes with it.
    """
    nll = 0.5 * (logvar + (x - mean).square() * torch.exp(-logvar))
    return (nll * torch.exp(beta * logvar).detach()).mean()


def worst_share_error(mean: Tensor, x: Tensor, share: float, joined: AcrossRanks = _alone) -> Tensor:
    """Mean squared error of the `share` of pixels with the largest error: small moving things live there.

    With several processes those are the worst pixels of all of them; the average of what each returns is their error.
    `joined` gives the values of all, in one row.
    """
    error = (mean - x).square().mean(2).flatten()
    ranks = len(joined(torch.ones(1, device=error.device)))
    count = max(int(share * error.numel() * ranks), 1)
    largest = joined(error.detach().topk(min(count, error.numel())).values)
    least = largest.topk(count).values[-1]
    return torch.where(error >= least, error, 0).sum() * ranks / count  # selecting them would make a GPU wait


def aggregate_kl(mean_BTCHW: Tensor, logvar_BTCHW: Tensor, average: AcrossRanks = _alone) -> Tensor:
    """KL divergence of each latent channel's aggregate posterior from N(0, 1), averaged over channels.

    The aggregate over batch, time and space has mean E[mean] and variance E[variance] + Var[mean] (arXiv 2309.13160).
    `average` is the mean over processes, so that the batch is that of all of them.
    """
    axes = (0, 1, 3, 4)
    m = average(mean_BTCHW.mean(axes))
    # Around its own mean a variance has no slope, so the mean may stand still here.
    spread = (mean_BTCHW - m.detach()[:, None, None]).square().mean(axes)
    v = average(logvar_BTCHW.exp().mean(axes) + spread)
    return 0.5 * (m.square() + v - 1 - v.log()).mean()


def share_of_pull(
    reconstruction: Tensor, other: Tensor, at: Tensor, limit: float = 1e4, average: AcrossRanks = _alone
) -> Tensor:
    """The factor that gives `other` a gradient at `at` as long as that of `reconstruction`, at most `limit`.

    Times a weight below 1 it keeps an adversary from taking over, however sharp it grows (arXiv 2012.09841, eq. 7, taken at
    the pixels instead of the last layer, which needs no pass through the decoder). `average`: over processes.
    """
    wanted, pull = (
        average(torch.autograd.grad(loss, at, retain_graph=True)[0].square().sum()).sqrt()
        for loss in (reconstruction, other)
    )
    return (wanted / pull.clamp(min=1e-12)).clamp(max=limit).detach()
