"""Oniris as a library. Importing this imports nothing else: a name brings what it needs when it is first asked for.

Floors import downward only (pyproject.toml has them). A package is a room: its docstring says what lives there.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oniris_core.data.episodes.store import open_episodes as open_episodes
    from oniris_core.environment.comparison import compare as compare
    from oniris_core.environment.dreams import WorldVectorEnv as WorldVectorEnv
    from oniris_core.environment.plan import plan as plan
    from oniris_core.environment.starts import open_starts as open_starts
    from oniris_core.environment.truth import TrueVectorEnv as TrueVectorEnv
    from oniris_core.sampling import load as load
    from oniris_core.sampling import rollout as rollout
    from oniris_core.sampling.autoregressive import Sampler as Sampler

__version__ = "0.1.0"

_PLACES = {
    "Sampler": "sampling.autoregressive",
    "TrueVectorEnv": "environment.truth",
    "WorldVectorEnv": "environment.dreams",
    "compare": "environment.comparison",
    "load": "sampling",
    "open_episodes": "data.episodes.store",
    "open_starts": "environment.starts",
    "plan": "environment.plan",
    "rollout": "sampling",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'oniris_core' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"oniris_core.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*_PLACES, "__version__"]
