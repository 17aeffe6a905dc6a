"""Data on the device that trains: copied so that nothing waits, or kept there where they fit."""

import numpy as np
import torch
from torch import Tensor

SHARE = 0.4
"""Of the free memory of a GPU that data may take."""


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """On a GPU by way of pinned memory, so that nothing waits for the copy."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def may_be_kept(size: int, device: torch.device) -> bool:
    """Whether `size` bytes are better kept on the device: it is a GPU and has room for them."""
    return device.type == "cuda" and size <= SHARE * torch.cuda.mem_get_info(device)[0]
