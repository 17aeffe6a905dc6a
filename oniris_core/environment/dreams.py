"""The world model as a vector environment: batch rows are rollouts of an age of their own.

Axes: n environments side by side, c frames of a latent frame, C channels of a latent frame, h, w; H, W pixels.
"""

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from oniris_core.common.artefacts.remote import Location
from oniris_core.common.errors import UserError
from oniris_core.common.memory import available_memory, refuse_beyond
from oniris_core.common.seeds import numpy_rng
from oniris_core.environment.decisions import Beginning, DecisionVectorEnv, Observations, refuse_others
from oniris_core.environment.parts import assemble
from oniris_core.environment.starts import Starts
from oniris_core.sampling.autoregressive import Sampler
from oniris_core.sampling.stepper import Moment, Stepper, is_finite
from oniris_core.vae.codec import Codec
from oniris_core.world.rollout_state import tensors
from oniris_core.world.store import World

KEPT_BYTES = 2**29
"""Moments after a context that are kept, so that most resets need not take it in again."""


class WorldVectorEnv(DecisionVectorEnv):
    """Dreams of the world model, side by side.

    An episode begins after true frames of a start and goes on until it ends or `horizon` truncates it; a dream that is not
    finite any more is truncated as well. After each latent frame it is drawn whether the episode has ended, as likely as the
    model holds it to be. Equal seeds and actions are equal bytes on one machine, whoever else is in
    the batch and however old they are; in a batch of another size they are equal to rounding, about 1e-6 a step.

    Attributes:
        stepper: what generates.
        moment: of all dreams, row i that of environment i; never changed, so it can be kept and branched from. None before the
            first reset.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: World | Path | str,
        vae: Codec | Path | str,
        starts: Starts | Location | str,
        observations: Observations = "pixels",
        rewards: Literal["model", "none"] = "model",
        actions_per_step: Literal["one", "all"] = "one",
        context_latents: int = 4,
        begin: Literal["early", "anywhere"] = "early",
        horizon: int | None = 128,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        sampler: Sampler | None = None,
        ema_width: float | None = None,
        device: torch.device | str = "cpu",
    ):
        """Load the model and prepare the environments.

        Args:
            num_envs: how many.
            world: the world model, loaded or where it is.
            vae: its VAE, loaded or where it is.
            starts: episodes to begin from: an episode store (the held-out ones are taken) or a file of starts.
            observations: what is seen, "pixels" or "latents"; see `DecisionVectorEnv`.
            rewards: of the "model", or "none": rewards of 0, and no end but the horizon.
            actions_per_step: "one" for all c frames of a latent frame, or "all": one for each.
            context_latents: true latent frames that a dream starts from at least, after the first one. It takes in as many as
                the forecast looks back to, where there are so many.
            begin: "early" for the first frame of a start with so much of a past; "anywhere" for any of those, drawn each time:
                so dreams are had of all that was recorded, also where a dream from the first frame on would not come to. A
                store is then read whole, and not the first frames of each episode alone.
            horizon: frames after which an episode is truncated, a multiple of c; None: never.
            autoreset_mode: of Gymnasium's vector environments; DISABLED resets by the option `reset_mask`.
            render_mode: "rgb_array" for `render`.
            sampler: how frames are generated; None: as `render` does by default.
            ema_width: width of the average of the weights; None: the first that was tracked.
            device: where to compute.

        Raises:
            UserError: what `assemble` refuses, starts that are too short for the context, rewards that the model has not
                learned, or more environments than fit into memory.
        """
        refuse_others("rewards", rewards, ("model", "none"))
        refuse_others("begin", begin, ("early", "anywhere"))
        parts = assemble(world, vae, starts, ema_width, device, whole=begin == "anywhere")
        super().__init__(num_envs, parts, observations, actions_per_step, horizon, autoreset_mode, render_mode)
        self._learned = rewards == "model"
        if self._learned:
            refuse_unlearned(parts.world)
        self.stepper = Stepper(parts.world, parts.codec, sampler or Sampler())
        self.moment: Moment | None = None
        self._context, self._anywhere = context_latents, begin == "anywhere"
        self._shown = self._pixels or render_mode is not None
        self._long_enough = [
            number for number, start in enumerate(parts.starts.starts) if start.latents(self.group) >= context_latents
        ]  # fmt: skip
        if not self._long_enough:
            most = max(start.latents(self.group) for start in parts.starts.starts)
            raise UserError(f"{parts.named}: the longest start has {most} latent frames after the reset, fewer than "
                            f"context_latents = {context_latents}")  # fmt: skip
        self._noise = [0] * num_envs
        self._begun = OrderedDict[tuple[int, int], tuple[Moment, np.ndarray]]()
        self._kept = 0
        self._encoded = dict[int, tuple[torch.Tensor, torch.Tensor]]()
        self._row_bytes = self._bytes_of_a_row()
        self._refuse_beyond_memory()

    def _begin(self, rows: list[int], beginnings: list[Beginning]) -> list[dict[str, Any]]:
        fresh, infos = list[Moment](), []
        for row, beginning in zip(rows, beginnings, strict=True):
            start, frame = self._chosen(beginning)
            moment, self.frames[row] = self._after(start, frame)
            fresh.append(moment)
            self._noise[row] = beginning.seed
            infos.append({"start": start, "frame": frame, "seed": beginning.seed})
        begun = fresh[0].beside(fresh[1:])  # the first reset is of all
        del fresh  # most are in no other place, and memory is foreseen for three moments
        self.moment = begun if self.moment is None else self.moment.replace_rows(rows, begun)
        self._show(self.moment)
        return infos

    def _go_on(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert self.moment is not None
        if self._shown:
            self.moment, self.frames = self.stepper.step(self.moment, actions, self._noise)
        else:
            self.moment = self.stepper.imagine(self.moment, actions, self._noise)
        self._show(self.moment)
        rewards, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        if self._learned:
            # Drawn, as frames are: an end held for certain from one half on would be avoided by staying in doubt.
            found, draws = told(self.stepper, self.moment), zip(self._noise, self._steps.tolist(), strict=True)
            terminated = np.array([numpy_rng(seed, "end", step).random() for seed, step in draws]) < found.ended
            rewards = found.given(terminated)
        return rewards, terminated, ~is_finite(self.moment)

    def _show(self, moment: Moment) -> None:
        if not self._pixels:
            self._latents = np.nan_to_num(moment.world.clean[:, -1].float().cpu().numpy(), posinf=0.0, neginf=0.0)

    def _chosen(self, beginning: Beginning) -> tuple[int, int]:
        """The start and the frame of it that an episode begins from."""
        rng, c = numpy_rng(beginning.seed, "start"), self.group
        start = int(rng.choice(self._long_enough)) if beginning.start is None else beginning.start
        latents = self._context
        if self._anywhere:
            latents = int(rng.integers(latents, self.parts.start(start).latents(c) + 1))
        frame = latents * c if beginning.frame is None else beginning.frame
        return start, self.parts.checked_frame(start, frame)

    def _after(self, number: int, frame: int) -> tuple[Moment, np.ndarray]:
        """The moment of one rollout after frame `frame` of a start, and its last frames uint8 [c, H, W, 3].

        Alone and with room for the whole window: so no number in it depends on who else is reset, or on how old others are.
        It is kept without that room, which most of the window is.
        """
        key, form = (number, frame), self.parts.world.form
        if key not in self._begun:
            start, c = self.parts.start(number), self.group
            if number not in self._encoded:
                rows = 1 + start.latents(c) * c  # frames after the last whole group are in no latent frame
                self._encoded[number] = self.stepper.latents_of(start.frames[None, :rows], start.actions[None, :rows])
            # The forecast looks so far back: where there is less, to it an episode began there, and stood still before.
            back = max(self._context, form.config.forecast_ages[-1])
            last = frame // c
            seen = slice(max(0, last - back), last + 1)
            z, told = (part[:, seen] for part in self._encoded[number])
            frames = self.frames[0]
            if self._shown:
                moment, shown = self.stepper.begin_latents(z, told)
                frames = shown[0, -c:].copy()  # not a view, which would keep the whole past
            else:
                moment = self.stepper.recall(z, told)
            self._begun[key] = moment, frames
            self._kept += self._bytes_kept(*self._begun[key])
            while self._kept > KEPT_BYTES and len(self._begun) > 1:
                self._kept -= self._bytes_kept(*self._begun.popitem(last=False)[1])
        self._begun.move_to_end(key)
        moment, frames = self._begun[key]
        return replace(moment, world=form.grow(moment.world, form.config.unet.window)), frames

    def _bytes_kept(self, moment: Moment, frames: np.ndarray) -> int:
        return _bytes_of(moment) + (frames.nbytes if self._shown else 0)  # else they are those of the environments

    def _bytes_of_a_row(self) -> int:
        form = self.parts.world.form
        frame = torch.zeros(1, *form.latent_shape, device=form.device)
        decoder = self.stepper.decoder.begin(1, *form.latent_shape[1:]) if self._shown else None
        return _bytes_of(Moment(form.begin(frame, frame[:, 0, 0, 0]), decoder))

    def _refuse_beyond_memory(self) -> None:
        device, n = self.parts.world.device, self.num_envs
        there = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
        each = 3 * self._row_bytes  # the moment before, what begins, and the moment after
        fits = f"at most {there // each} fit" if there else ""
        refuse_beyond(n * each, there, f"num_envs = {n}", fits)

    def close_extras(self, **_: Any) -> None:
        """Let the dreams go."""
        self.moment = None
        self._begun.clear()
        self._kept = 0
        self._encoded.clear()


def _bytes_of(moment: Moment) -> int:
    held = tensors(moment.world)
    if moment.decoder is not None:
        held += [moment.decoder.started, *moment.decoder.pasts]
    return sum(part.nbytes for part in held)


def refuse_unlearned(world: World) -> None:
    """Raise UserError if a world model knows nothing of rewards and ends."""
    if not world.has_outcomes:
        raise UserError("this world model has not learned rewards: train one with train.outcome_weight above 0")


class Told(NamedTuple):
    """What the model says of the latent frame that each of n rollouts made last, float64 [n] each.

    Attributes:
        rewards: of its frames, expected.
        lasting: the same, if the episode goes on after it.
        ending: the same, if it ends within it.
        ended: how likely it has ended.
    """

    rewards: np.ndarray
    lasting: np.ndarray
    ending: np.ndarray
    ended: np.ndarray

    def given(self, ended: np.ndarray) -> np.ndarray:
        """The rewards [n] if these (bool [n]) have ended and the others have not."""
        return np.where(ended, self.ending, self.lasting)


def told(stepper: Stepper, moment: Moment) -> Told:
    """What the model says of the latent frame that each rollout made last."""
    outcomes = stepper.outcomes(moment)
    if outcomes is None:
        raise ValueError("this world model has learned no rewards")
    # All c rewards, also of frames after the end: what an end brings is spread over the frames at which it may have come.
    rewards, lasting, ending = (
        np.nan_to_num(_array(part), posinf=0.0, neginf=0.0).sum(1)
        for part in (outcomes.rewards, outcomes.lasting, outcomes.ending)
    )
    return Told(rewards, lasting, ending, np.nan_to_num(_array(outcomes.ends[:, -1])))


def _array(values: torch.Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
