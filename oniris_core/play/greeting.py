"""What a page is told first, wherever its frames come from."""

from typing import Any

from oniris_core.data.rows.actions import ActionSpec
from oniris_core.environment.starts import Starts


def greeting(
    starts: Starts, group: int, spec: ActionSpec, controls: list[dict[str, Any]], rest: Any, context: int
) -> dict[str, Any]:
    """The message `hello`, but for what only the engine knows: its qualities, and why there is no truth.

    Args:
        starts: where dreams begin.
        group: frames of a latent frame.
        spec: the actions.
        controls, rest: of `controls.controls` and `controls.resting`.
        context: latent frames a dream starts from.
    """
    height, width = starts.frame_size
    # Steps of an environment, where the frames come from one.
    skip = (starts.record.get("params") or {}).get("frame_skip") if starts.record.get("env_id") else None
    return {
        "t": "hello", "env": starts.record.get("env_id"), "height": height, "width": width, "group": group,
        "rate": starts.frame_rate, "skip": skip, "controls": controls, "rest": rest, "spec": spec.kind, "context": context,
        "starts": [{"episode": s.episode, "latents": s.latents(group)} for s in starts.starts],
    }  # fmt: skip
