"""Steps a dreamt environment and prints what it saw: `python -m benchmarks.kills.stepping WORLD VAE STARTS STEPS`."""

import hashlib
import sys

import gymnasium
import torch

import oniris_core.environment  # noqa: F401  (registers it)


def main(world: str, vae: str, starts: str, steps: str) -> None:
    """Print the digest of all observations, rewards and ends."""
    torch.set_num_threads(1)
    env = gymnasium.make("Oniris/World-v0", world=world, vae=vae, starts=starts, horizon=24)
    found = hashlib.sha256()
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(int(steps)):
        seen, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        found.update(seen.tobytes() + str((reward, terminated, truncated)).encode())
        if terminated or truncated:
            env.reset()
    env.close()
    print(found.hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
