"""What the processes of one training tell each other; each also works where there is only one."""

import torch
from torch import Tensor, distributed


def of_all_ranks(rows: Tensor) -> Tensor:
    """The rows of every rank, joined in the order of ranks; each rank must come with as many. Alone: `rows` itself."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
