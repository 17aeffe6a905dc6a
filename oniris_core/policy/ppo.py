"""PPO of Stable-Baselines3 in whatever decides once a latent frame: the dreams, or the simulator to compare with."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from oniris_core.common.artefacts.files import atomic_write
from oniris_core.common.seeds import numpy_rng
from oniris_core.environment.decisions import DecisionVectorEnv
from oniris_core.environment.stable_baselines import BaselinesVecEnv
from oniris_core.policy.judge import Act, Tick
from oniris_core.policy.params import PolicyParams

POINTS = 10
"""Parts of a training. After each, returns inside and outside are compared, and from there it can be continued."""
ROLLOUT_STEPS = 128
"""Decisions of each dream between two updates."""
BATCH = 64
"""Decisions of a minibatch; they divide those of an update."""
EPOCHS = 4
"""Passes over the decisions of an update."""
LR = 3e-4
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
    at: Callable[[int, Act], dict[str, float]],
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
        at: asked after each part for figures of it: decisions taken, and who plays by then.

    Returns:
        The policy, and the figures of each part.
    """
    kept.mkdir(parents=True, exist_ok=True)
    around = BaselinesVecEnv(envs)
    done = [point for point in range(1, POINTS + 1) if (kept / f"{point}.json").is_file()]
    figures = [dict[str, float](json.loads((kept / f"{point}.json").read_text())) for point in done]
    if done:
        ppo = PPO.load(kept / f"{done[-1]}.zip", around, device)
    else:
        kind = "MlpPolicy" if params.observations == "latents" else "CnnPolicy"
        ppo = PPO(
            kind, around, learning_rate=LR, n_steps=ROLLOUT_STEPS, batch_size=BATCH, n_epochs=EPOCHS, gamma=GAMMA,
            gae_lambda=GAE_LAMBDA, ent_coef=ENTROPY, seed=seed, device=device,
        )  # fmt: skip
    for point in range(len(done) + 1, POINTS + 1):
        wanted = round(params.steps * point / POINTS)
        if wanted > ppo.num_timesteps:
            ppo.set_random_seed(int(numpy_rng(seed, "part of a training", point).integers(2**31)))
            ppo._last_obs = None  # so the episodes begin anew
            ppo.set_logger(Logger(None, []))  # else each part leaves a folder where temporary files are
            ppo.learn(wanted - ppo.num_timesteps, _Ticking(tick), reset_num_timesteps=False)
            ppo._custom_logger = False  # who takes up the policy has no such logger
        figures.append(at(ppo.num_timesteps, player(ppo)))
        ppo.save(kept / f"{point}.zip")
        atomic_write(kept / f"{point}.json", json.dumps(figures[-1]).encode())  # last: it says that the part is done
    return ppo, figures


def player(ppo: PPO) -> Act:
    """Plays what the policy holds for best."""

    def act(seen: np.ndarray) -> np.ndarray:
        actions, _ = ppo.predict(seen, deterministic=True)
        return np.asarray(actions)

    return act


class _Ticking(BaseCallback):
    def __init__(self, tick: Tick):
        super().__init__()
        self._tick = tick

    def _on_step(self) -> bool:
        self._tick()
        return True
