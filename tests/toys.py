"""A world model so small that it is quick, with its VAE and recorded beginnings of CartPole; it has learned nothing."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from oniris_core.config.reader import build
from oniris_core.data.playing.environments import make_env
from oniris_core.data.playing.params import CollectParams
from oniris_core.data.playing.rollouts import play_episode
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.environment.starts import Start, Starts
from oniris_core.nn.magnitude import settle_
from oniris_core.sampling.stepper import Moment, Stepper
from oniris_core.vae.codec import Codec
from oniris_core.vae.model import Vae, VaeConfig
from oniris_core.world.denoiser import Denoiser, DenoiserConfig
from oniris_core.world.generation_form import GenerationForm
from oniris_core.world.outcomes import Outcomes
from oniris_core.world.store import World
from oniris_core.world.unet import UNetConfig
from tests.project import defaults

C = 4


def outcomes(stepper: Stepper, moment: Moment) -> Outcomes:
    """Rewards that depend on the latent frame; with its eleventh an episode ends, in the group's third frame."""
    seen = moment.world.clean[:, -1].flatten(1).mean(1, keepdim=True)
    late = (moment.world.position >= 11)[:, None]
    ends = torch.where(late, torch.tensor([0.1, 0.4, 0.6, 1.0]), torch.zeros(4))
    rewards = seen + torch.arange(4.0)
    return Outcomes(rewards, ends, rewards, rewards)


def teach(monkeypatch: pytest.MonkeyPatch, outcomes: Callable[[Stepper, Moment], Outcomes] = outcomes) -> None:
    """Let every world model be as if it had learned rewards and ends, these."""
    monkeypatch.setattr(World, "has_outcomes", property(lambda _: True, lambda _, __: None), raising=False)
    monkeypatch.setattr(Stepper, "outcomes", outcomes, raising=False)


@functools.cache
def codec() -> Codec:
    torch.manual_seed(0)
    return Codec(Vae(VaeConfig((C,), (4,), (8,), 1, 3, 3)).eval(), "toy")


@functools.cache
def world(window: int = 16) -> World:
    torch.manual_seed(0)
    spec = ActionSpec("discrete", (2,), start=(0,))
    unet = UNetConfig(8, (1,), 1, (True,), (False,), 4, window)
    denoiser = Denoiser(DenoiserConfig(unet, 3, 4, 4, C * spec.features, 0.35, 8, (1, 2, 4)))
    with torch.no_grad():  # gains start at zero: what an action does would not be seen
        for name, parameter in denoiser.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.2 if name.startswith("forecaster") else 0.7)
    settle_(denoiser)
    denoiser.eval()
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    return World(
        denoiser=denoiser, form=GenerationForm(denoiser), mean=zero, std=one, action_spec=spec, vae_identity="toy"
    )


@functools.cache
def starts(rows: int = 13, episodes: int = 3) -> Starts:
    """The beginnings of episodes of CartPole, frames of 16 x 16 pixels."""
    params = build(CollectParams, "collect", {
        **defaults()["collect"], "env_id": "CartPole-v1", "size": [16, 16], "frame_skip": 1, "max_frames": rows,
    }, "test")  # fmt: skip
    made, episode = list[Start](), 0
    while len(made) < episodes:
        played = play_episode(make_env("CartPole-v1", {}, False), params, 0, episode)
        if len(played.frames) == rows and not played.terminated.any():
            made.append(Start(episode, played.seed, played.frames, played.actions))
        episode += 1
    record = {
        "env_id": "CartPole-v1", "env_kwargs": {}, "frame_rate": 50.0, "action_spec": world().action_spec.to_json(),
        "params": {"frame_skip": 1, "frames_per_action": 4, "resize": "stretch", "wrappers": []},
    }  # fmt: skip
    return Starts(tuple(made), record)
