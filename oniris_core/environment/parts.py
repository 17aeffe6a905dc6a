"""What an environment is made of: a world model, its VAE, and recorded episodes to begin from."""

from dataclasses import dataclass
from pathlib import Path

import torch

from oniris_core.common.artefacts.remote import Location
from oniris_core.common.errors import UserError
from oniris_core.environment.starts import Start, Starts, fitting, open_starts
from oniris_core.vae.codec import Codec
from oniris_core.vae.store import load_vae
from oniris_core.world.store import World, load_world

MOST_STARTS = 256
"""Episodes of a store that are kept to begin from."""


@dataclass(frozen=True)
class Parts:
    """A world model, the VAE it belongs to, and where episodes begin.

    Attributes:
        world, codec: the model and its VAE.
        starts: beginnings of recorded episodes of the same actions and frame size.
        named: the starts, for messages.
    """

    world: World
    codec: Codec
    starts: Starts
    named: str

    @property
    def group(self) -> int:
        """c, frames of a latent frame."""
        return self.codec.vae.config.group

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[C, h, w] of a latent frame."""
        return self.world.form.latent_shape

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, pixels."""
        _, h, w = self.latent_shape
        return h * self.codec.vae.config.space, w * self.codec.vae.config.space

    def start(self, number: int) -> Start:
        """One of the starts. Raises UserError if there is no such."""
        if not 0 <= number < len(self.starts.starts):
            raise UserError(f"start = {number}: {self.named} has the starts 0 to {len(self.starts.starts) - 1}")
        return self.starts.starts[number]

    def checked_frame(self, number: int, frame: int) -> int:
        """A frame of a start after which a first decision may be taken. Raises UserError if it is none."""
        most = self.start(number).latents(self.group) * self.group
        if not 0 <= frame <= most or frame % self.group:
            raise UserError(f"frame = {frame} of start {number} must be a multiple of {self.group} from 0 to {most}")
        return frame


def assemble(
    world: World | Path | str,
    vae: Codec | Path | str,
    starts: Starts | Location | str,
    ema_width: float | None = None,
    device: torch.device | str = "cpu",
    whole: bool = False,
) -> Parts:
    """Load what is given by its path, and see that all fits together.

    Args:
        world: the world model.
        vae: its VAE.
        starts: an episode store (of which the held-out episodes are taken), or a file of starts.
        ema_width: width of the average of the weights; None: the first that was tracked.
        device: where to compute.
        whole: read the episodes of a store to their ends.

    Raises:
        UserError: missing, damaged, more than fits into memory, another VAE than the model's, or episodes of other actions or
            another frame size.
    """
    model = world if isinstance(world, World) else load_world(Path(world), ema_width, device)
    codec = vae if isinstance(vae, Codec) else Codec(*load_vae(Path(vae), device))
    if codec.identity != model.vae_identity:
        raise UserError(f"the model belongs to VAE {model.vae_identity[:12]}, this one is {codec.identity[:12]}")
    named = "the starts" if isinstance(starts, Starts) else str(starts)
    found = starts if isinstance(starts, Starts) else open_starts(starts, MOST_STARTS, 1, whole)
    parts = Parts(model, codec, found, named)
    fitting(found, model.action_spec, parts.frame_size, named)
    return parts
