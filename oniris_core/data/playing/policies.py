"""Policies of the person's own: a function of a module, a file of TorchScript, of the stage `policy` or of Stable-Baselines3.

All of them run code of others (a Stable-Baselines3 file holds pickles, the others a program), so
`collect.import_code` must allow them; `CollectParams` sees to that.
"""

import hashlib
import importlib
import importlib.util
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.data.playing.environments import module_source
from oniris_core.data.playing.heuristics import Policy
from oniris_core.data.playing.watchers import WatcherMaker

PolicyMaker = Callable[[gym.Env], Policy]
"""Makes the player of one episode."""

_FILES = (".pt", ".pt2", ".zip")


def policy_sha256(name: str) -> str:
    """SHA-256 of a policy's file: the saved policy, or the source of the module that holds the callable.

    Raises:
        UserError: there is no such file or module.
    """
    return hashlib.sha256(_content(name)).hexdigest()


def load_policy(name: str, sha256: str) -> PolicyMaker:
    """What makes players of the policy `name`.

    Args:
        name: `module:callable`, or a path that ends in .pt (TorchScript), .pt2 (of the stage `policy`) or .zip
            (Stable-Baselines3). The callable takes an observation; a class is made anew with the environment for each episode,
            and its instances are called.
        sha256: what `policy_sha256` must give, so that every worker plays the same.

    Raises:
        UserError: it is missing, changed or cannot be loaded.
    """
    content = _content(name)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"policy '{name}' is not the same file here as where the collection was started")
    if name.endswith(".pt"):
        return _torchscript(name, content)
    if name.endswith(".pt2"):
        return WatcherMaker(name, content, _fitting)
    if name.endswith(".zip"):
        return _stable_baselines(name, content)
    found: Any = importlib.import_module(name.partition(":")[0])
    for part in name.partition(":")[2].split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UserError(f"policy '{name}': the module has no callable of this name")
    return found if isinstance(found, type) else lambda _: found


def played_action(space: gym.Space, given: Any, who: str) -> Any:
    """An action of a policy as the environment gets it and the store records it.

    Raises:
        UserError: it is not finite, or not an action of the space.
    """
    raw = np.asarray(given)
    if raw.dtype.kind not in "biuf" or raw.size != int(np.prod(space.shape or ())):
        raise UserError(f"{who} gives the action {given!r}, which does not fit the action space {space}")
    if not np.isfinite(raw).all():
        raise UserError(f"{who} gives the action {given!r}; actions must be finite")
    action = raw.reshape(space.shape or ()).astype(space.dtype)[()]
    if not space.contains(action) or (
        np.issubdtype(space.dtype, np.integer) and (action != raw.reshape(action.shape)).any()
    ):
        raise UserError(f"{who} gives the action {given!r}, which is outside of the action space {space}")
    return action


def _content(name: str) -> bytes:
    if name.endswith(_FILES):
        try:
            return Path(name).read_bytes()
        except OSError as error:
            raise UserError(f"policy '{name}' cannot be read: {error.strerror}") from None
    module, _, function = name.partition(":")
    if not module or not function:
        raise UserError(f"policy '{name}' must be module:callable, or a file that ends in .pt, .pt2 or .zip")
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever the module does when it is imported is the person's to mend
        raise UserError(f"policy '{name}': module {module} cannot be imported: {error}") from None
    return module_source(module)


def _torchscript(name: str, content: bytes) -> PolicyMaker:
    """A module from observations float32 [1, ...] to an action, or to one score per choice, of which the best is played."""
    import torch

    try:
        module = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
    except RuntimeError as error:
        raise UserError(f"policy '{name}' is not a TorchScript file: {str(error).splitlines()[0]}") from None

    def make(env: gym.Env) -> Policy:
        space = env.action_space

        def play(observation: Any) -> Any:
            try:
                with torch.inference_mode():
                    given = module(torch.as_tensor(np.asarray(observation, np.float32))[None])[0].numpy()
            except (RuntimeError, TypeError, ValueError) as error:  # its own words are a page long
                cause = next(line for line in reversed(str(error).splitlines()) if line.strip())
                raise UserError(f"policy '{name}' does not fit the observations of the environment: {cause}") from None
            return _best(space, given) if given.dtype.kind == "f" else given

        return play

    return make


def _best(space: gym.Space, scores: np.ndarray) -> Any:
    """The choice with the best score: one score per choice, those of all components one after another."""
    if isinstance(space, gym.spaces.Discrete) and scores.shape == (space.n,) and np.isfinite(scores).all():
        return space.start + scores.argmax()
    if (
        isinstance(space, gym.spaces.MultiDiscrete)
        and scores.shape == (space.nvec.sum(),)
        and np.isfinite(scores).all()
    ):
        parts = np.split(scores, np.cumsum(space.nvec)[:-1])
        return space.start + np.array([part.argmax() for part in parts])
    if isinstance(space, gym.spaces.MultiBinary) and scores.shape == space.shape and np.isfinite(scores).all():
        return scores > 0
    return scores


def _fitting(space: gym.Space, scores: np.ndarray) -> Any:
    """`_best`; in a Box the nearest action there is, as the simulator is given it where a policy is judged."""
    if not isinstance(space, gym.spaces.Box):
        return _best(space, scores)
    whole = np.issubdtype(space.dtype, np.integer)
    nearest = np.rint(scores) if whole else scores
    return nearest.astype(np.float64).reshape(space.shape).clip(space.low, space.high).astype(space.dtype)


def _stable_baselines(name: str, content: bytes) -> PolicyMaker:
    if importlib.util.find_spec("stable_baselines3") is None:
        raise UserError(f"policy '{name}' needs Stable-Baselines3: pip install '.[policies]'")
    import stable_baselines3

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            data = json.loads(archive.read("data"))
        algorithm = _algorithm(data)
        model = getattr(stable_baselines3, algorithm).load(io.BytesIO(content), device="cpu")
    except Exception as error:  # a pickle inside may fail in any way
        raise UserError(f"policy '{name}' is not a file of Stable-Baselines3: {' '.join(str(error).split())}") from None

    def make(env: gym.Env) -> Policy:
        for what in ("observation_space", "action_space"):
            if getattr(model, what) != getattr(env, what):
                raise UserError(f"policy '{name}' was made for the {what.replace('_', ' ')} {getattr(model, what)}, "
                                f"but that of the environment is {getattr(env, what)}")  # fmt: skip
        return lambda observation: model.predict(observation, deterministic=True)[0]

    return make


def _algorithm(data: dict[str, Any]) -> str:
    """Which class wrote the file: its name is not in it, but what only that class keeps is."""
    module = data["policy_class"]["__module__"].split(".")
    if module[1] != "common":  # stable_baselines3.dqn.policies
        return "DDPG" if module[1] == "td3" and data.get("policy_delay") == 1 else module[1].upper()
    return "PPO" if "clip_range" in data else "A2C"
