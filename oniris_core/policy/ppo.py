"""PPO of Stable-Baselines3 in whatever decides once a latent frame: the dreams, or the simulator to compare with."""

from collections.abc import Callable

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from oniris_core.environment.decisions import DecisionVectorEnv
from oniris_core.environment.stable_baselines import BaselinesVecEnv
from oniris_core.policy.judge import Act, Tick
from oniris_core.policy.params import PolicyParams

POINTS = 10
"""Times in a training at which returns inside and outside are compared."""
ROLLOUT_STEPS = 64
"""Decisions of each dream between two updates."""
BATCH = 64
"""Decisions of a minibatch; they divide those of an update."""
EPOCHS = 4
"""Passes over the decisions of an update."""
LR = 3e-4
GAMMA = 0.99
"""Discount of a reward one decision later."""
ENTROPY = 0.01
"""Weight of the entropy of actions in the loss."""


def train(
    envs: DecisionVectorEnv, params: PolicyParams, seed: int, device: str, tick: Tick, at: Callable[[int, Act], None]
) -> PPO:
    """Train a policy.

    Args:
        envs: to train in, with autoreset_mode SAME_STEP.
        params: how.
        seed: of the policy and its actions.
        device: where the policy computes.
        tick: called after each step; may raise to stop.
        at: told of POINTS moments of the training: decisions taken, and who plays by then.
    """
    kind = "MlpPolicy" if params.observations == "latents" else "CnnPolicy"
    around = BaselinesVecEnv(envs)
    around.seed(seed)
    ppo = PPO(
        kind, around, learning_rate=LR, n_steps=ROLLOUT_STEPS, batch_size=BATCH, n_epochs=EPOCHS, gamma=GAMMA,
        ent_coef=ENTROPY, seed=seed, device=device,
    )  # fmt: skip
    for point in range(1, POINTS + 1):
        wanted = round(params.steps * point / POINTS)
        if wanted > ppo.num_timesteps:
            ppo.learn(wanted - ppo.num_timesteps, _Ticking(tick), reset_num_timesteps=point == 1)
        at(ppo.num_timesteps, player(ppo))
    return ppo


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
