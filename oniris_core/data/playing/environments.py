"""Gymnasium environments, checked before use, and the frames they show."""

import hashlib
import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from oniris_core.common.errors import UserError
from oniris_core.common.naming import nearest
from oniris_core.data.playing.flat_actions import with_flat_actions
from oniris_core.data.rows.actions import action_spec

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame must not look for a screen
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")


@dataclass(frozen=True)
class Family:
    """Environments that a package other than Gymnasium brings: the start of their ids, and the extra of pyproject.toml."""

    prefix: str
    module: str
    package: str
    extra: str


FAMILIES = (
    Family("ALE/", "ale_py", "ale-py", "atari"),
    Family("MiniGrid-", "minigrid", "minigrid", "minigrid"),
    Family("BabyAI-", "minigrid", "minigrid", "minigrid"),
)


def family_of(env_id: str) -> Family | None:
    """The family an id belongs to; None for Gymnasium's own and for those of a person's modules."""
    return next((family for family in FAMILIES if env_id.startswith(family.prefix)), None)


def make_env(
    env_id: str,
    kwargs: dict[str, Any],
    import_module: bool,
    wrappers: Sequence[tuple[str, dict[str, Any]]] = (),
    import_code: bool = False,
) -> gym.Env:
    """An environment that renders RGB arrays and has a supported action space, flat where its own is not.

    Args:
        env_id: Gymnasium id with version; `module:Env-v0` needs `import_module`.
        kwargs: keyword arguments of gymnasium.make.
        import_module: allow ids that import a module's code.
        wrappers: (dotted name, keyword arguments), innermost first.
        import_code: allow wrappers that are not Gymnasium's.

    Raises:
        UserError: unknown or unversioned id, missing dependency, no rgb_array mode, unsupported action space, a wrapper
            that does not exist or cannot be made.
    """
    if ":" in env_id and not import_module:
        raise UserError(f"env_id '{env_id}' would import the code of a module; allow it with import_code: true")
    if "render_mode" in kwargs:
        raise UserError("env_kwargs must not set render_mode: frames are recorded with rgb_array")
    known_id = _register(env_id)
    if known_id not in gym.registry:
        versions = [known for known in gym.registry if known.rpartition("-v")[0] == known_id]
        if versions:
            raise UserError(f"env_id '{env_id}' has no version; there are: {', '.join(sorted(versions))}")
        raise UserError(f"unknown environment id '{env_id}'{nearest(known_id, gym.registry)}")
    try:
        env = gym.make(known_id, render_mode="rgb_array", **kwargs)
    except Exception as error:  # whatever the environment's constructor does is the person's to mend
        raise UserError(f"environment '{env_id}' cannot be made: {_one_line(error)}") from None
    for name, arguments in wrappers:
        env = _wrapped(env, name, arguments, import_code)
    if "rgb_array" not in env.metadata.get("render_modes", []):
        raise UserError(f"environment '{env_id}' cannot render to rgb_array, so there are no frames to learn from")
    try:
        env = with_flat_actions(env)
        action_spec(env.action_space)
    except UserError as error:
        raise UserError(f"environment '{env_id}': {error}") from None
    return env


def imported_code(env_id: str, wrappers: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    """SHA-256 of the sources of the modules outside Gymnasium that an id and wrappers name, by module."""
    names = {env_id.partition(":")[0]} if ":" in env_id else set[str]()
    names |= {name.rpartition(".")[0] for name, _ in wrappers if not name.startswith("gymnasium.")}
    return {name: hashlib.sha256(module_source(name)).hexdigest() for name in sorted(names)}


def module_source(name: str) -> bytes:
    """The source of a module that can be imported; nothing where it has none, as one in C."""
    spec = importlib.util.find_spec(name)
    file = Path(spec.origin) if spec and spec.origin else None
    return file.read_bytes() if file and file.is_file() else b""


def _register(env_id: str) -> str:
    """Import what brings the environment, so that Gymnasium knows its id; return that id, without a module before it."""
    own, _, known_id = env_id.rpartition(":")
    family = family_of(env_id)
    if family and importlib.util.find_spec(family.module) is None:
        raise UserError(f"environment '{env_id}' needs {family.package}: pip install '.[{family.extra}]'")
    if name := family.module if family else own:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a module of the person's own may fail in any way
            raise UserError(f"environment '{env_id}': module {name} cannot be imported: {_one_line(error)}") from None
        if name == "ale_py":
            module.ALEInterface.setLoggerMode(module.LoggerMode.Error)  # no banner in every process
    return known_id


def _wrapped(env: gym.Env, name: str, arguments: dict[str, Any], import_code: bool) -> gym.Env:
    module, _, attribute = name.rpartition(".")
    if module.split(".")[0] != "gymnasium" and not import_code:
        raise UserError(f"wrapper '{name}' is not one of gymnasium.wrappers, so it runs code of others; "
                        "allow it with import_code: true")  # fmt: skip
    try:
        found = importlib.import_module(module or name)
    except Exception as error:  # a module of the person's own may fail in any way
        raise UserError(f"wrapper '{name}' cannot be imported: {_one_line(error)}") from None
    wrapper = getattr(found, attribute, None)
    if not isinstance(wrapper, type) or not issubclass(wrapper, gym.Wrapper):
        raise UserError(f"there is no wrapper '{name}'{nearest(attribute, vars(found))}")
    try:
        return wrapper(env, **arguments)
    except Exception as error:
        raise UserError(f"wrapper '{name}' cannot be made: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def frame_rate(env: gym.Env, frame_skip: int) -> float:
    """Recorded frames per second of the environment's own time."""
    return float(env.metadata.get("render_fps") or 30) / frame_skip


def screen_of(env: gym.Env) -> np.ndarray:
    """The rendered screen, uint8 [H, W, 3].

    A grey one ([H, W] or [H, W, 1]) is repeated in three channels, an alpha channel dropped, and real numbers from 0 to 1
    become 0 to 255; `said_of_screen` tells a person.

    Raises:
        UserError: the environment renders something else.
    """
    screen: Any = env.render()
    if isinstance(screen, np.ndarray) and screen.size and screen.ndim in (2, 3):
        channels = screen.shape[2] if screen.ndim == 3 else 1
        real = screen.dtype.kind == "f" and bool(((screen >= 0) & (screen <= 1)).all())
        if channels in (1, 3, 4) and (screen.dtype == np.uint8 or real):
            whole = np.rint(screen * 255).astype(np.uint8) if real else screen
            if channels == 1:
                return np.repeat(whole.reshape(*whole.shape[:2], 1), 3, axis=2)
            return np.ascontiguousarray(whole[..., :3]) if channels == 4 else whole
    what = f"{screen.dtype} {list(screen.shape)}" if isinstance(screen, np.ndarray) else type(screen).__name__
    raise UserError(f"the environment renders {what}, but an RGB, RGBA or grey array is needed: uint8, or real numbers from 0 "
                    "to 1, [H, W, 3], [H, W, 4] or [H, W]")  # fmt: skip


def said_of_screen(env: gym.Env) -> str:
    """What `screen_of` does to the screen that a person may not expect; empty where it takes it as it is."""
    screen: Any = env.render()
    said = ["its alpha channel is dropped"] if screen.ndim == 3 and screen.shape[2] == 4 else []
    return " and ".join([*said, *(["real numbers from 0 to 1 become 0 to 255"] if screen.dtype.kind == "f" else [])])


def fit_screen(screen: np.ndarray, height: int, width: int, resize: str = "stretch") -> np.ndarray:
    """A screen as a frame: uint8 [height, width, 3], each pixel the average of the area it covers.

    Args:
        screen: uint8 [H, W, 3].
        height, width: pixels.
        resize: "stretch" to these, or "pad": keep the aspect, in the middle of black.
    """
    if screen.shape[:2] == (height, width):
        return screen.copy()
    size = (height, width)
    if resize == "pad":
        scale = min(height / screen.shape[0], width / screen.shape[1])
        size = (max(round(screen.shape[0] * scale), 1), max(round(screen.shape[1] * scale), 1))
    fitted = np.asarray(Image.fromarray(screen).resize(size[::-1], Image.Resampling.BOX))
    if size == (height, width):
        return fitted
    frame = np.zeros((height, width, 3), np.uint8)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    frame[top : top + size[0], left : left + size[1]] = fitted
    return frame
