"""Forward and backward passes recorded once as a CUDA graph and replayed: a small network is a thousand launches a step.

What a pass launches depends on shapes and on what is no tensor in its batch, never on values; so one recording for each of
those serves every step, with the same kernels and the same numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 3
"""Passes before the recording: kernels are chosen and compiled in them."""


@dataclass(frozen=True)
class Recording:
    """A graph, and the memory it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    batch: Any
    outcome: Any
    gradients: list[Tensor | None]


class Replayed:
    """Calls an objective and its backward pass; to be used on one GPU, by one process, with whole batches.

    Args:
        passes: runs forward and backward on a batch, a dataclass, and returns the outcome; gradients are left where they
            belong.
        model: whose gradients they are.
    """

    def __init__(self, passes: Callable[[Any], Any], model: nn.Module):
        self._passes, self._parameters = passes, list(model.parameters())
        self._recordings = dict[tuple[object, ...], Recording]()

    def __call__(self, batch: Any) -> Any:
        """The outcome and the gradients of a batch. Both are overwritten by the next call with a batch alike."""
        values = {field.name: getattr(batch, field.name) for field in fields(batch)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        key = tuple((n, (v.shape, v.dtype) if isinstance(v, Tensor) else v) for n, v in values.items())
        if key not in self._recordings:
            self._recordings[key] = self._record(batch, tensors)
        recording = self._recordings[key]
        for name, value in tensors.items():
            getattr(recording.batch, name).copy_(value)
        recording.graph.replay()
        for parameter, gradient in zip(self._parameters, recording.gradients, strict=True):
            parameter.grad = gradient
        return recording.outcome

    def _record(self, batch: Any, tensors: dict[str, Tensor]) -> Recording:
        held = replace(batch, **{name: value.clone() for name, value in tensors.items()})
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._forget()
                self._passes(held)
        torch.cuda.current_stream().wait_stream(aside)
        self._forget()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outcome = self._passes(held)
        return Recording(graph, held, outcome, [parameter.grad for parameter in self._parameters])

    def _forget(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
