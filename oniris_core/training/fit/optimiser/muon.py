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
    shape are multiplied together and those of one size iterated together, because a network has dozens and each alone is
    too small to be worth a call.

    Args:
        matrices: float32 [m, n] each, any shapes.

    Returns:
        float32 [m, n] each; zero where the matrix is.
    """
    shapes = dict[torch.Size, list[int]]()
    for i, matrix in enumerate(matrices):
        shapes.setdefault(matrix.shape, []).append(i)
    wide, grams = {}, dict[int, list[tuple[torch.Size, Tensor]]]()
    for shape, alike in shapes.items():
        x = torch.stack([matrices[i] for i in alike])
        x = x.mT if shape[0] > shape[1] else x
        x = wide[shape] = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
        grams.setdefault(x.shape[1], []).append((shape, x @ x.mT))
    found = dict[int, Tensor]()
    for of_size in grams.values():
        products = _polynomial(torch.cat([gram for _, gram in of_size])).split([len(gram) for _, gram in of_size])
        for (shape, _), product in zip(of_size, products, strict=True):
            x = product @ wide[shape]
            found |= zip(shapes[shape], (x.mT if shape[0] > shape[1] else x).unbind(), strict=True)
    return [found[i] for i in range(len(matrices))]


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
            others = [parameter for parameter in moved if parameter.ndim < 2]
            if matrices:
                self._muon(matrices, group["lr"], group["momentum"])
            if others:
                self._adam(others, group["lr"])

    def _muon(self, parameters: list[Tensor], lr: float, momentum: float) -> None:
        gradients, (averages,) = self._of(parameters, "momentum")
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, averages, momentum)  # one step on (Nesterov)
        updates = orthogonalised([update.flatten(1) for update in ahead])
        torch._foreach_mul_(updates, [-lr * 0.2 * max(update.shape) ** 0.5 for update in updates])
        torch._foreach_add_(parameters, [u.reshape(p.shape) for u, p in zip(updates, parameters, strict=True)])

    def _adam(self, parameters: list[Tensor], lr: float) -> None:
        gradients, (means, squares) = self._of(parameters, "mean", "square")
        counts = []
        for parameter in parameters:
            count = self.state[parameter].setdefault("step", torch.zeros(()))  # on the CPU: read without waiting
            count += 1
            counts.append(float(count))
        torch._foreach_lerp_(means, gradients, 0.1)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 0.01)
        scale = torch._foreach_div(squares, [1 - 0.99**count for count in counts])
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, 1e-8)
        updates = torch._foreach_mul(means, [-lr / (1 - 0.9**count) for count in counts])
        torch._foreach_addcdiv_(parameters, updates, scale)

    def _of(self, parameters: list[Tensor], *names: str) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Gradients, and of each name the state that goes with them; zero before the first step."""
        for parameter in parameters:
            for name in names:
                if name not in self.state[parameter]:
                    self.state[parameter][name] = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        return gradients, [[self.state[parameter][name] for parameter in parameters] for name in names]
