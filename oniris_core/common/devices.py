"""Where the numbers are computed."""

import torch

from oniris_core.common.errors import UserError


def pick_device(name: str, threads: int) -> torch.device:
    """The device for `common.device`, with `threads` CPU threads (0: torch's own choice).

    Raises:
        UserError: CUDA is asked for and not there.
    """
    if threads:
        torch.set_num_threads(threads)
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' is asked for, but torch sees no CUDA device; use cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
