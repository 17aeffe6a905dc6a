"""What the processes (ranks) of one training tell each other. Everything here also works where there is only one.

A torchrun-like launcher sets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE and the address at which they meet. The
gradients of the ranks are averaged, so a loss must be one whose average over ranks is the loss of the whole batch.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, distributed, nn

from oniris_core.common.errors import OnirisError, UserError


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of one training: number `rank` of `world`."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def check(self, section: str, batch: int, accumulate: int, clips: int) -> None:
        """Raise UserError unless every rank gets as many clips of a step, in as many parts, and there are enough."""
        if self.world > clips:
            raise UserError(
                f"{self.world} processes cannot share {clips} training clips: use fit.processes = {clips} or fewer"
            )
        if batch % (self.world * accumulate):
            raise UserError(
                f"{section}.batch = {batch} must be a multiple of {self.world * accumulate}: {self.world} processes take "
                f"their share of the clips in {accumulate} parts"
            )

    def part(self, batch: int, accumulate: int, number: int) -> np.ndarray:
        """Which clips of a step's batch this rank takes in part `number` of `accumulate`: int64 [batch / accumulate / world].

        Over all ranks, a part is the same run of clips however many ranks there are.
        """
        size = batch // accumulate // self.world
        first = number * batch // accumulate + self.rank * size
        return np.arange(first, first + size)


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """Join the other ranks, if a launcher has set that there are any; leave them at the end.

    Raises:
        OnirisError: another rank has gone away while this one waited for it.
    """
    ranks = Ranks(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    if ranks.world == 1:
        yield ranks
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield ranks
    except RuntimeError as error:
        if isinstance(error, OnirisError) or not any(
            word in str(error) for word in ("gloo", "NCCL", "peer", "onnection")
        ):
            raise
        raise OnirisError("another process of this training has died; the same command goes on from here") from None
    finally:
        distributed.destroy_process_group()


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def of_all_ranks(rows: Tensor) -> Tensor:
    """The rows of every rank, joined in the order of ranks; each rank must come with as many. Alone: `rows` itself."""
    if not _together():
        return rows
    parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def average_of_ranks(values: Tensor) -> Tensor:
    """The mean of the ranks' values. Its gradient reaches this rank's own share as if that were all of it.

    So the average of the ranks' gradients is the gradient of a function of the mean.
    """
    if not _together():
        return values
    mean = values.detach().clone()
    distributed.all_reduce(mean)
    return mean / distributed.get_world_size() + (values - values.detach())


def average_gradients(module: nn.Module) -> None:
    """Replace the gradients of a module that no DistributedDataParallel looks after by their mean over ranks."""
    if _together():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad = average_of_ranks(parameter.grad)


def from_first(tensors: dict[str, Tensor] | None, device: torch.device) -> dict[str, Tensor] | None:
    """What the first rank has, on every rank; it travels as safetensors, never as a pickle."""
    if not _together():
        return tensors
    data = (
        torch.frombuffer(bytearray(save(tensors)), dtype=torch.uint8) if tensors else torch.zeros(0, dtype=torch.uint8)
    )
    size = torch.tensor(len(data), device=device)
    distributed.broadcast(size, 0)
    if not int(size):
        return None
    data = data.to(device) if tensors else torch.empty(int(size), dtype=torch.uint8, device=device)
    distributed.broadcast(data, 0)
    return tensors or load(data.cpu().numpy().tobytes())
