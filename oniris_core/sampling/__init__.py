"""Generation, latent frame by latent frame, and the parameters of `render`. Importing this imports nothing else.

Ask `rollout` for a video (see `video.rollout`), `autoregressive` for one latent frame.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from oniris_core.sampling.autoregressive import Sampler
    from oniris_core.vae.codec import Codec
    from oniris_core.world.store import World


def sampler(params: Path | str = "params.yaml") -> "Sampler":
    """The sampler that the section `render` of a parameter file describes. Raises UserError if the file is not right."""
    from oniris_core.config.reader import load_section, read_yaml
    from oniris_core.sampling.autoregressive import Sampler
    from oniris_core.sampling.params import RenderParams

    path = Path(params)
    return Sampler.of(load_section(RenderParams, "render", read_yaml(path), path, {}))


def rollout(
    model: "World",
    context: "np.ndarray",
    actions: "Iterable[np.ndarray]",
    codec: "Codec",
    sampler: "Sampler",
    seed: int = 0,
) -> "Iterator[np.ndarray]":
    """Continue videos under the given actions, frames as they come, for ever if need be: `video.rollout`."""
    from oniris_core.sampling import video

    return video.rollout(model, context, actions, codec, sampler, seed)
