"""Weights on disk: safetensors, never pickles; whatever does not fit the model exactly is refused."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from oniris_core.common.errors import UserError


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors in the order of their names."""
    path.write_bytes(save({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors.

    Raises:
        UserError: the file is not safetensors.
    """
    try:
        return load(path.read_bytes())
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load `tensors` into `module`.

    Raises:
        UserError: names or shapes differ; the first difference is named.
    """
    wanted = module.state_dict()
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise UserError(f"{path} belongs to another architecture: it has no '{name}'")
        if name not in wanted:
            raise UserError(f"{path} belongs to another architecture: '{name}' has no place in this one")
        if wanted[name].shape != tensors[name].shape:
            raise UserError(
                f"{path} belongs to another architecture: '{name}' has shape {list(tensors[name].shape)}, "
                f"this one wants {list(wanted[name].shape)}"
            )
    module.load_state_dict(dict(tensors))
