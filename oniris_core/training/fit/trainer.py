"""What the training loop is given: a trainer, what it runs in, and who looks on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from oniris_core.common.process import StopRequest
from oniris_core.training.fit.machine.distributed import Ranks
from oniris_core.training.fit.state import TrainState


class Outcome(NamedTuple):
    """What an objective makes of a batch."""

    loss: Tensor
    """A scalar with a gradient; its mean over ranks and parts is the loss of the step."""
    logs: dict[str, Tensor]
    """Scalars to be logged, averaged over ranks and parts."""
    kept: dict[str, Tensor]
    """What `after_step` needs of this part."""


B_co = TypeVar("B_co", covariant=True)


class Trainer(Protocol[B_co]):
    """What `fit` needs of a trainer."""

    state: TrainState
    objective: nn.Module
    """Called with a batch it returns an `Outcome`; what it trains are the parameters of `state.model`."""
    device: torch.device
    frames_per_step: int
    """Frames, or latent frames, of a step, over all ranks."""
    gauge: str
    """The logged value, above 0, that a training which has gone wrong drives up."""
    in_memory: bool
    """Whether the data lie in memory, so that reading ahead would gain nothing."""

    def batch(self, step: int, part: int) -> B_co:
        """This rank's share of a part of the step's data; a function of its arguments."""
        ...

    def lr(self, step: int, share: float) -> float:
        """The learning rate of a step, given the share of the training that is done."""
        ...

    def after_step(self, kept: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Whatever follows the optimiser's update, given what the parts kept; what to log of it (scalars)."""
        ...

    def describe(self, step: int) -> str:
        """Where the data of a step came from, for a message."""
        ...


class Observer(Protocol):
    """Somebody who looks on."""

    def see(self, state: TrainState) -> None:
        """`state.step` steps are done: called at the start, be it a resume or not, and whenever losses have been read."""
        ...


@dataclass(frozen=True)
class Run:
    """Around a training: where its work is kept, who takes part, who looks on.

    Attributes:
        name: of the training.
        folder: for checkpoints; None on all ranks but the first.
        ranks: who takes part.
        stop: looked at after each step.
        say: takes lines for the person.
        clip_norm: gradients are scaled down to this norm; None leaves them.
        observers: told of every step.
    """

    name: str
    folder: Path | None
    ranks: Ranks
    stop: StopRequest
    say: Callable[[str], None]
    clip_norm: float | None = None
    observers: Sequence[Observer] = ()
