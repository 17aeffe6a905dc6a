"""A sampler as a table: what any driver does between the evaluations of the network.

Whatever solver steps along the probability flow, x after an evaluation is a linear combination of x, of what the network has
just said and of what it said before: x <- a x + b D + c D_before. Its numbers are found by letting the project's own solver
run on vectors that stand for x and each D, so that they cannot differ from it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from oniris_core.sampling.autoregressive import Sampler
from oniris_core.sampling.schedule import sigma_schedule
from oniris_core.sampling.solver import dpm_solver

_EXACT = 1e-9


@dataclass(frozen=True)
class Evaluation:
    """The network is asked at noise level `sigma`, then x <- a x + b D + c D_before (c is 0 at the first)."""

    sigma: float
    a: float
    b: float
    c: float


def evaluations(sampler: Sampler) -> list[Evaluation]:
    """The table of a sampler, which starts at x = center + sqrt(spread^2 + sigma^2) noise with the sigma of its first row.

    Raises:
        ValueError: a solver that reads more than the last two of what the network said.
    """
    sigmas = sigma_schedule(sampler.steps, sampler.sigma_max, sampler.sigma_min, sampler.rho)
    asked = list[tuple[float, Tensor]]()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        asked.append((float(sigma), x))
        return unit(len(asked))

    def unit(place: int) -> Tensor:
        return torch.eye(4 * sampler.steps + 2, dtype=torch.float64)[place]

    last = dpm_solver(denoise, unit(0), sigmas)
    after = [x for _, x in asked[1:]] + [last]
    rows = list[Evaluation]()
    for number, ((sigma, x), wanted) in enumerate(zip(asked, after, strict=True), 1):
        parts = torch.stack([x, unit(number)] + ([unit(number - 1)] if number > 1 else []), dim=1)
        found = torch.linalg.lstsq(parts, wanted[:, None], driver="gelsd").solution[:, 0]
        if not torch.allclose(parts @ found, wanted, rtol=_EXACT, atol=_EXACT):
            raise ValueError("the solver reads more than the last two evaluations: no table of this kind describes it")
        a, b, c = ([round(value, 12) for value in found.tolist()] + [0.0])[:3]
        rows.append(Evaluation(sigma, a, b, c))
    return rows
