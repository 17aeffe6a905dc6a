"""Everything that decides how a training goes on, as one flat dictionary of tensors.

Data and random numbers are functions of the step, so there is no other random state to keep.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from oniris_core.common.artefacts.weights import load_into
from oniris_core.common.errors import UserError
from oniris_core.training.fit.optimiser.ema import PowerEma

COUNTS = ("step", "skipped", "world")


@dataclass
class TrainState:
    """What a checkpoint holds.

    Attributes:
        model: the network.
        optimizer: of the network.
        emas: averages of its weights.
        extra: whatever else must be kept, as parameters or buffers (the usual loss, discriminators; may be empty).
        others: optimizers of parts of `extra`, by name.
        history: float32 [steps] per logged name; NaN where nothing was logged.
        step: steps done.
        skipped: how many of them changed nothing, because their loss or gradient was not finite.
        world: how many processes did the last one.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    emas: list[PowerEma]
    extra: nn.Module = field(default_factory=nn.Module)
    others: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    history: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    skipped: int = 0
    world: int = 1

    def state_dict(self) -> dict[str, Tensor]:
        """All of it, by names that say where it belongs; model and optimizer tensors are not copied."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        for ema in self.emas:
            tensors |= {f"ema/{ema.width:g}/{k}": v for k, v in ema.model.state_dict().items()}
        tensors |= {f"extra/{k}": v for k, v in self.extra.state_dict().items()}
        for prefix, optimizer in self._optimizers():
            for index, moments in optimizer.state_dict()["state"].items():
                tensors |= {f"{prefix}/{index}/{k}": torch.as_tensor(v) for k, v in moments.items()}
        tensors |= {f"history/{k}": v for k, v in self.history.items()}
        return tensors | {name: torch.tensor(getattr(self, name)) for name in COUNTS}

    def load_state_dict(self, tensors: Mapping[str, Tensor], source: Path) -> None:
        """The inverse of `state_dict`.

        Args:
            tensors: what it returned.
            source: where they come from, for messages.

        Raises:
            UserError: they belong to another architecture or another kind of training; the first difference is named.
        """
        load_into(self.model, _below("model", tensors), source)
        for ema in self.emas:
            load_into(ema.model, _below(f"ema/{ema.width:g}", tensors), source)
        load_into(self.extra, _below("extra", tensors), source)
        for prefix, optimizer in self._optimizers():
            moments = dict[int, dict[str, Tensor]]()
            for key, value in _below(prefix, tensors).items():
                index, _, moment = key.partition("/")
                moments.setdefault(int(index), {})[moment] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        for name in COUNTS:
            if name not in tensors:
                raise UserError(f"{source} is no checkpoint of a training: it has no '{name}'")
            setattr(self, name, int(tensors[name]))
        self.history = _below("history", tensors)

    def _optimizers(self) -> list[tuple[str, torch.optim.Optimizer]]:
        return [("optimizer", self.optimizer), *((f"others/{name}", other) for name, other in self.others.items())]


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix + "/"): v for k, v in tensors.items() if k.startswith(prefix + "/")}
