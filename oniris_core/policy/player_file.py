"""A policy with the VAE that it sees through, as one file of torch.export, from frames to actions, which `collect` can play.

So a world model can be trained on what its own policies do, and a policy can be played where there is no Oniris. Axes: c frames
of a latent frame, C channels, h, w; H, W pixels; A features of an action; K latent frames that the policy sees.
"""

import copy
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from torch import Tensor, nn

from oniris_core.data.playing.watchers import KNOWN, NOTE
from oniris_core.data.rows.actions import action_spec
from oniris_core.environment.decisions import LATENT_BOUND
from oniris_core.environment.parts import Parts
from oniris_core.vae.model import to_unit
from oniris_core.vae.stepping import EncoderForm, StreamState


class _Program(nn.Module):
    """From frames uint8 [1, c, H, W, 3], features of the action that led there [1, A] and what was remembered: latent frames
    with their actions [1, K (C + A), h, w], whether the video has begun [1], and the encoder's pasts."""

    mean: Tensor
    std: Tensor

    def __init__(self, parts: Parts, ppo: PPO):
        super().__init__()
        self.encoder, self.policy = EncoderForm(parts.codec.vae.encoder), ppo.policy
        for name, values in (("mean", parts.world.mean), ("std", parts.world.std)):
            self.register_buffer(name, torch.from_numpy(values)[:, None, None])

    def forward(
        self, frames: Tensor, told: Tensor, seen: Tensor, started: Tensor, *pasts: Tensor
    ) -> tuple[Tensor, ...]:
        """Scores of the next action (an action itself where it is one of a Box), and what to remember."""
        state, z = self.encoder(StreamState(started, pasts), to_unit(frames))
        planes = told[:, :, None, None].expand(-1, -1, *z.shape[2:])
        seen_z = ((z - self.mean) / self.std).clamp(-LATENT_BOUND, LATENT_BOUND)
        newest = torch.cat([seen_z, planes], dim=1)
        seen = torch.cat([seen[:, newest.shape[1] :], newest], dim=1)
        features = self.policy.extract_features(seen, self.policy.pi_features_extractor)
        assert isinstance(features, Tensor)
        scores = self.policy.action_net(self.policy.mlp_extractor.forward_actor(features))
        return scores, seen, state.started, *state.pasts


def write_player(file: Path, parts: Parts, ppo: PPO) -> None:
    """Write the file. It plays what the policy holds for best, at the cadence and with the frames of the recorded episodes.

    Args:
        file: where.
        parts: the world model and VAE in whose dreams the policy was trained, and the episodes that they began from.
        ppo: the policy, of latents.
    """
    program = copy.deepcopy(_Program(parts, ppo)).cpu().eval()
    c, (height, width) = parts.group, parts.frame_size
    begun = program.encoder.begin(1, *parts.latent_shape[1:])
    assert isinstance(ppo.observation_space, gym.spaces.Box)
    remembered = [torch.zeros(1, *ppo.observation_space.shape), begun.started, *begun.pasts]
    told = torch.zeros(1, action_spec(ppo.action_space).features)
    shown = torch.zeros(1, c, height, width, 3, dtype=torch.uint8)
    with torch.no_grad():
        exported = torch.export.export(program, (shown, told, *remembered))
    params = parts.starts.record["params"]
    known: dict[str, Any] = {
        "env_id": parts.starts.record["env_id"], "env_kwargs": parts.starts.record.get("env_kwargs") or {},
        "wrappers": params.get("wrappers", []), "size": [height, width], "resize": params.get("resize", "stretch"),
        "frame_skip": params["frame_skip"], "frames_per_action": [c, c],
    }  # fmt: skip
    assert set(known) == set(KNOWN)
    note = {
        **known, "action_spec": parts.world.action_spec.to_json(),
        "remembered": [[list(part.shape), str(part.dtype).removeprefix("torch.")] for part in remembered],
    }  # fmt: skip
    torch.export.save(exported, file, extra_files={NOTE: json.dumps(note)})
