"""PPO of Stable-Baselines3 in whatever decides once a latent frame: the dreams, or the simulator to compare with."""

import hashlib
import io
import json
import pickle
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize
from torch import Tensor

from oniris_core.common.artefacts.files import atomic_write, sha256_file
from oniris_core.common.seeds import numpy_rng
from oniris_core.data.rows.actions import action_spec
from oniris_core.environment.decisions import DecisionVectorEnv
from oniris_core.environment.stable_baselines import BaselinesVecEnv
from oniris_core.policy.eye import Eye
from oniris_core.policy.judge import Act, Tick
from oniris_core.policy.params import PolicyParams
from oniris_core.policy.places import Places
from oniris_core.policy.seen import WithActions, told, with_actions

POINTS = 10
"""Parts of a training. After each, returns inside and outside are compared, and from there it can be continued."""
ROLLOUT_STEPS = 128
"""Decisions of each dream between two updates."""
BATCH = 64
"""Decisions of a minibatch; they divide those of an update."""
EPOCHS = 4
"""Passes over the decisions of an update."""
STACK = 3
"""Latent frames that the policy sees, the last ones: one alone hardly shows how fast things move."""
LR = 3e-4
"""In the first part. It falls to a tenth of that in the last one: at a constant rate a policy wanders between good and bad."""
GAMMA = 0.99
"""Discount of a reward one decision later."""
GAE_LAMBDA = 0.95
ENTROPY = 0.01
"""Weight of the entropy of actions in the loss."""


def train(
    envs: DecisionVectorEnv,
    params: PolicyParams,
    seed: int,
    device: str,
    kept: Path,
    tick: Tick,
    at: Callable[[int, Callable[[], Act]], dict[str, float]],
    eye: Mapping[str, Tensor] | None = None,
) -> tuple[PPO, list[dict[str, float]]]:
    """Train a policy, or go on with its training.

    Each part begins its episodes anew and has a seed of its own, so that one which goes on from what is kept is the same.

    Args:
        envs: to train in, with autoreset_mode SAME_STEP.
        params: how.
        seed: of the policy and its actions.
        device: where the policy computes.
        kept: a folder, for the policy after each part that is done.
        tick: called after each step; may raise to stop.
        at: asked after each part for figures of it: decisions taken, and what makes who plays by then (see `player`).
        eye: the weights of the `Eye` that the policy sees with; None: it learns to see by itself.

    Returns:
        The policy, and the figures of each part.
    """
    kept.mkdir(parents=True, exist_ok=True)
    figures = _done(kept)
    if figures:
        around = VecNormalize.load(str(kept / f"{len(figures)}.pkl"), _stacked(envs))
        ppo = PPO.load(kept / f"{len(figures)}.zip", around, device)
    else:
        # Returns of some hundred would drown what the policy learns in the gradient of the value, with which it is clipped.
        around = VecNormalize(_stacked(envs), norm_obs=False, gamma=GAMMA)
        kind, extra = _network(envs, eye)
        ppo = PPO(
            kind, around, policy_kwargs=extra, learning_rate=LR, n_steps=ROLLOUT_STEPS, batch_size=BATCH, n_epochs=EPOCHS,
            gamma=GAMMA, gae_lambda=GAE_LAMBDA, ent_coef=ENTROPY, seed=seed, device=device,
        )  # fmt: skip
        if eye is not None:  # only now: the policy draws all weights in it anew
            ppo.policy.features_extractor.load_state_dict(eye)
    for point in range(len(figures) + 1, POINTS + 1):
        wanted = round(params.steps * point / POINTS)
        if wanted > ppo.num_timesteps:
            ppo.set_random_seed(int(numpy_rng(seed, "part of a training", point).integers(2**31)))
            ppo._last_obs = None  # so the episodes begin anew
            ppo.learning_rate = LR * (POINTS + 1 - point) / POINTS
            ppo._setup_lr_schedule()
            ppo.set_logger(Logger(None, []))  # else each part leaves a folder where temporary files are
            ppo.learn(wanted - ppo.num_timesteps, _Ticking(tick), reset_num_timesteps=False)
            ppo._custom_logger = False  # who takes up the policy has no such logger
        figures.append(at(ppo.num_timesteps, partial(player, ppo)))
        _keep(kept, point, ppo, around, figures[-1])
    return ppo, figures


def _network(envs: DecisionVectorEnv, eye: Mapping[str, Tensor] | None) -> tuple[str, dict[str, Any]]:
    if _channels(envs.single_observation_space) == -1:
        return "CnnPolicy", {}
    given = {"frames": STACK, "action_features": action_spec(envs.single_action_space).features}
    if eye is None:
        return "MlpPolicy", {"features_extractor_class": Places, "features_extractor_kwargs": given}
    given["numbers"] = len(eye["states.bias"])
    return "MlpPolicy", {"features_extractor_class": Eye, "features_extractor_kwargs": given}


def _keep(kept: Path, point: int, ppo: PPO, around: VecNormalize, figures: dict[str, float]) -> None:
    policy = io.BytesIO()
    ppo.save(policy)
    parts = {f"{point}.zip": policy.getvalue(), f"{point}.pkl": pickle.dumps(around)}  # as VecNormalize.save does
    for name, data in parts.items():
        atomic_write(kept / name, data)
    note = {"figures": figures, "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}}
    atomic_write(kept / f"{point}.json", json.dumps(note).encode())  # last: it says that the part is done


def _done(kept: Path) -> list[dict[str, float]]:
    """The figures of the parts that are done, up to the last one that is whole."""
    found, whole = list[dict[str, float]](), 0
    for point in range(1, POINTS + 1):
        try:
            note = json.loads((kept / f"{point}.json").read_bytes())
            found.append(dict(note["figures"]))
            # Only the last one is needed.
            if all((kept / n).is_file() and sha256_file(kept / n) == known for n, known in note["sha256"].items()):
                whole = point
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            break
    return found[:whole]


def player(ppo: PPO) -> Act:
    """Plays what the policy holds for best, from the beginning of one episode, or of several side by side."""
    past: np.ndarray | None = None
    last: np.ndarray | None = None
    channels = _channels(ppo.observation_space)

    def act(seen: np.ndarray) -> np.ndarray:
        nonlocal past, last
        if channels == 1:
            if last is None:
                last = np.zeros((len(seen), action_spec(ppo.action_space).features), np.float32)
            seen = with_actions(seen, last)
        if past is None:
            past = np.concatenate([np.zeros_like(seen)] * STACK, axis=channels)
        kept = np.take(past, range(seen.shape[channels], past.shape[channels]), axis=channels)
        past = np.concatenate([kept, seen], axis=channels)
        actions = np.asarray(ppo.predict(past, deterministic=True)[0])
        if channels == 1:
            last = told(ppo.action_space, actions)
        return actions

    return act


def _channels(space: gym.Space) -> int:
    """The axis of channels of a batch of observations: the first of latents, the last of pixels."""
    return -1 if space.dtype == np.uint8 else 1


def _stacked(envs: DecisionVectorEnv) -> VecFrameStack:
    played = BaselinesVecEnv(envs)
    if _channels(envs.single_observation_space) == -1:
        return VecFrameStack(played, STACK, channels_order="last")
    return VecFrameStack(WithActions(played), STACK, channels_order="first")


class _Ticking(BaseCallback):
    def __init__(self, tick: Tick):
        super().__init__()
        self._tick = tick

    def _on_step(self) -> bool:
        self._tick()
        return True
