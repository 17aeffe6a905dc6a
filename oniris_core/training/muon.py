"""Muon: momentum whose update is orthogonalised, for weights; Adam for everything that is no matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315  # the quintic's coefficients, chosen for a steep slope at zero
_ROUNDS = 5


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """About the nearest matrices with orthonormal rows (or columns): singular values land between 0.7 and 1.2.

    Newton-Schulz iteration with a quintic (https://kellerjordan.github.io/posts/muon). All rounds are polynomials in the
    Gram matrix of the shorter side, so they are gathered there and the long side is multiplied only twice; those of one
    size are iterated together, because a network has dozens and each alone is too small to be worth a call.

    Args:
        matrices: float32 [m, n] each, any shapes.

    Returns:
        float32 [m, n] each; zero where the matrix is.
    """
    wide = [m.T if m.shape[0] > m.shape[1] else m for m in matrices]
    wide = [m / (m.norm() + 1e-7) for m in wide]
    products = dict[int, Tensor]()
    for size in {len(m) for m in wide}:
        alike = [i for i, m in enumerate(wide) if len(m) == size]
        products |= zip(alike, _polynomial(torch.stack([wide[i] @ wide[i].T for i in alike])), strict=True)
    found = [products[i] @ m for i, m in enumerate(wide)]
    return [x.T if m.shape[0] > m.shape[1] else x for x, m in zip(found, matrices, strict=True)]


def _polynomial(gram_KNN: Tensor) -> Tensor:
    """What all rounds together multiply matrices with these Gram matrices by."""
    identity = torch.eye(gram_KNN.shape[-1], device=gram_KNN.device, dtype=gram_KNN.dtype)
    gram, product = gram_KNN, identity
    for _ in range(_ROUNDS):
        factor = _A * identity + _B * gram + _C * gram @ gram
        product, gram = factor @ product, factor @ gram @ factor
    return product


class Muon(torch.optim.Optimizer):
    """One optimizer for a whole network: Muon where a parameter has two or more axes, Adam (0.9, 0.99) elsewhere.

    Convolution kernels count as matrices [outputs, the rest]; torch.optim.Muon refuses them. The update's root mean square
    is 0.2, about that of Adam, so that one learning rate serves both (arXiv 2502.16982, eq. 4).
    """

    def __init__(self, parameters: "torch.optim.optimizer.ParamsT", lr: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; a closure is not supported."""
        assert closure is None
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            matrices = [parameter for parameter in moved if parameter.ndim >= 2]
            updates = orthogonalised([self._ahead(parameter, group["momentum"]).flatten(1) for parameter in matrices])
            for parameter, update in zip(matrices, updates, strict=True):
                length = 0.2 * max(update.shape) ** 0.5
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * length)
            for parameter in moved:
                if parameter.ndim < 2:
                    parameter.add_(self._adam(parameter), alpha=-group["lr"])

    def _ahead(self, parameter: Tensor, momentum: float) -> Tensor:
        """The average of the gradients, one step on (Nesterov)."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)

    def _adam(self, parameter: Tensor) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 0.1) / (1 - 0.9 ** state["step"])
        square = state["square"].lerp_(gradient.square(), 0.01) / (1 - 0.99 ** state["step"])
        return mean / (square.sqrt() + 1e-8)
