"""Muon: momentum whose update is orthogonalised, for weights; Adam for everything that is no matrix."""

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315  # the quintic's coefficients, chosen for a steep slope at zero
_ROUNDS = 5


def orthogonalised(matrix: Tensor) -> Tensor:
    """About the nearest matrix with orthonormal rows (or columns): singular values land between 0.7 and 1.2.

    Newton-Schulz iteration with a quintic (https://kellerjordan.github.io/posts/muon). All rounds are polynomials in the
    Gram matrix of the shorter side, so they are gathered there and the long side is multiplied only twice.

    Args:
        matrix: float32 [m, n], any shape.

    Returns:
        float32 [m, n]; zero where `matrix` is.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    gram, identity = x @ x.T, torch.eye(len(x), device=x.device, dtype=x.dtype)
    product = identity
    for _ in range(_ROUNDS):
        factor = _A * identity + _B * gram + _C * gram @ gram
        product, gram = factor @ product, factor @ gram @ factor
    x = product @ x
    return x.T if tall else x


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
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._muon if parameter.ndim >= 2 else self._adam
                    parameter.add_(update(parameter, group["momentum"]), alpha=-group["lr"])

    def _muon(self, parameter: Tensor, momentum: float) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(gradient, 1 - momentum)
        update = orthogonalised(gradient.lerp(average, momentum).flatten(1))  # Nesterov
        return (update * 0.2 * max(update.shape) ** 0.5).view_as(parameter)

    def _adam(self, parameter: Tensor, _: float) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 0.1) / (1 - 0.9 ** state["step"])
        square = state["square"].lerp_(gradient.square(), 0.01) / (1 - 0.99 ** state["step"])
        return mean / (square.sqrt() + 1e-8)
