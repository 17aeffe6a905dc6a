"""Generation, latent frame by latent frame, and the parameters of `render`. Importing this imports nothing else.

Ask `rollout` for a video (see `video.rollout`), `autoregressive` for one latent frame.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

    from oniris_core.sampling.autoregressive import Sampler
    from oniris_core.sampling.stepper import Stepper


def sampler(params: Path | str = "params.yaml") -> "Sampler":
    """The sampler that the section `render` of a parameter file describes. Raises UserError if the file is not right."""
    from oniris_core.config.reader import load_section, read_yaml
    from oniris_core.sampling.autoregressive import Sampler
    from oniris_core.sampling.params import RenderParams

    path = Path(params)
    return Sampler.of(load_section(RenderParams, "render", read_yaml(path), path, {}))


def load(
    world: Path | str,
    vae: Path | str,
    sampler: "Sampler | None" = None,
    ema_width: float | None = None,
    device: "torch.device | str" = "cpu",
) -> "Stepper":
    """A world model with its VAE and a sampler, ready to go on from frames.

    Args:
        world: what `train` left (models/world).
        vae: what `train_vae` left (models/vae), the VAE that the world model belongs to.
        sampler: how frames are generated; None: as params.yaml has it by default.
        ema_width: width of the average of the weights; None: the first that was tracked.
        device: where to compute.

    Raises:
        UserError: missing, damaged, or not of this version.
        ValueError: the model belongs to another VAE.
    """
    from oniris_core import vae as vaes
    from oniris_core import world as worlds
    from oniris_core.sampling.autoregressive import Sampler
    from oniris_core.sampling.stepper import Stepper

    return Stepper(worlds.load(world, ema_width, device), vaes.load(vae, device), sampler or Sampler())


def rollout(
    stepper: "Stepper", context: "np.ndarray", actions: "Iterable[np.ndarray]", seed: int = 0
) -> "Iterator[np.ndarray]":
    """Continue videos under the given actions, frames as they come, for ever if need be: `video.rollout`."""
    from oniris_core.sampling import video

    return video.rollout(stepper, context, actions, seed)
