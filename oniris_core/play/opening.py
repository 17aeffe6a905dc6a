"""Makes the house that players share, and serves it until a signal comes."""

import asyncio
import signal
from pathlib import Path

import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.environment.starts import Start, Starts, fitting
from oniris_core.play.controls import controls, resting
from oniris_core.play.house import House, measured
from oniris_core.play.params import PlayParams
from oniris_core.play.truth import Truth, reader_of
from oniris_core.play.web.server import Server
from oniris_core.sampling.autoregressive import Sampler
from oniris_core.sampling.params import RenderParams
from oniris_core.sampling.stepper import Stepper
from oniris_core.vae.codec import Codec
from oniris_core.world.store import World


def open_house(
    world: World, codec: Codec, rendering: RenderParams, starts: Starts, params: PlayParams, folder: Path, named: str
) -> House:
    """Measure the model, look whether the true simulator can be played, and name the keys.

    Args:
        world, codec: of the same VAE.
        rendering: how the fine sampler samples, what a dream starts from, and whether code of others may run.
        starts: where dreams begin.
        params: of the stage.
        folder: for recordings.
        named: the starts, for messages.

    Raises:
        UserError: starts of other actions, or with frames of another size, than the model's.
    """
    config, vae = world.denoiser.config, codec.vae.config
    fitting(starts, world.action_spec, (config.latent_height * vae.space, config.latent_width * vae.space), named)
    c = vae.group
    long_enough = [start for start in starts.starts if start.latents(c) >= 1]
    if not long_enough:
        raise UserError(f"{named}: a dream starts from {1 + c} frames at least, but no episode there is so long")
    starts = Starts(tuple(long_enough), starts.record)
    latents = min(rendering.context_latents, max(start.latents(c) for start in starts.starts))
    first = next(start for start in starts.starts if start.latents(c) >= latents)
    steppers, qualities, chosen = measured(
        lambda sampler: Stepper(world, codec, sampler), Sampler.of(rendering), first, latents, params.quality,
        c / starts.frame_rate,
    )  # fmt: skip
    reason, meanings = _why_no_truth(starts, rendering.import_code, first, latents, c)
    found = controls(starts.record.get("env_id"), world.action_spec, meanings)
    return House(
        steppers, qualities, chosen, starts, world.action_spec, found, resting(world.action_spec, found), reader_of(starts),
        reason, params, folder, rendering.context_latents, rendering.import_code,
    )  # fmt: skip


def _why_no_truth(
    starts: Starts, import_code: bool, start: Start, latents: int, c: int
) -> tuple[str | None, tuple[str, ...]]:
    """Why the simulator cannot be played beside a dream (None: it can), and what it calls its actions."""
    try:
        truth = Truth(starts, import_code, c)
        truth.begin(start, latents)
        truth.step(np.repeat(start.actions[-1:], c, axis=0))
        meanings = truth.meanings()
        truth.close()
    except UserError as error:
        return str(error), ()
    except Exception as error:  # an environment may fail in any way; dreams need none
        return f"the simulator failed: {error!r}"[:300], ()
    return None, meanings


async def serve(server: Server) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await server.run(stop)
