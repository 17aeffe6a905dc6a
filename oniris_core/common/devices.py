"""Where the numbers are computed."""

import os

import torch

from oniris_core.common.errors import UserError
from oniris_core.common.memory import available_memory


def memory_of(name: str) -> tuple[int | None, bool]:
    """Bytes that are free where `common.device` computes (None where nothing says so), and whether that is a GPU."""
    gpu = name != "cpu" and torch.cuda.is_available()
    return (int(torch.cuda.mem_get_info()[0]) if gpu else available_memory()), gpu


def pick_device(name: str, threads: int) -> torch.device:
    """The device for `common.device`, with `threads` CPU threads (0: torch's own choice).

    Several processes of one training share the machine: each takes a GPU of its own, or its part of the cores.

    Raises:
        UserError: CUDA is asked for and not there, or there are fewer GPUs than processes.
    """
    rank, processes = (
        int(os.environ.get(f"LOCAL_{what}", default)) for what, default in (("RANK", 0), ("WORLD_SIZE", 1))
    )
    if threads or processes > 1:
        torch.set_num_threads(threads or max((os.cpu_count() or 1) // processes, 1))
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' is asked for, but torch sees no CUDA device; use cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if processes > torch.cuda.device_count():
        raise UserError(f"{processes} processes want a GPU each, but torch sees {torch.cuda.device_count()}; use fewer")
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)
