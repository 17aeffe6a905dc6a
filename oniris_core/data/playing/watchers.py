"""Policies that see the frames as they are recorded, and not what the environment observes: those of the stage `policy`.

Axes: C frames of a decision, H, W.
"""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.data.rows.actions import ActionSpec

NOTE = "oniris.json"
"""The file within a policy's file that says how its program is called."""
KNOWN = ("env_id", "env_kwargs", "wrappers", "size", "resize", "frame_skip", "frames_per_action")
"""Parameters of `collect` that must be as they were where the policy was trained."""


class Watcher:
    """The player of one episode: shown each recorded frame, it decides after every C of them.

    Attributes:
        note: see `load_program`.

    The program takes frames uint8 [1, C, H, W, 3], features of the action that led there float32 [1, A], and what it remembers;
    it gives scores of the next action [1, ...] and what it will remember. The first frame of an episode is shown C times, and
    with nought for an action.
    """

    def __init__(self, program: Any, note: dict[str, Any], best: Callable[[np.ndarray], Any]):
        """The program as torch has loaded it, its note (see `load_program`), and what makes an action of scores."""
        import torch

        self.note, self._best = note, best
        self._program, self._spec = program, ActionSpec.from_json(note["action_spec"])
        self._count = int(note["frames_per_action"][0])
        self._remembered = [torch.zeros(shape, dtype=getattr(torch, kind)) for shape, kind in note["remembered"]]
        self._shown: list[np.ndarray] = []

    def watch(self, frame: np.ndarray, action: np.ndarray | None) -> None:
        """Take in the next frame, uint8 [H, W, 3], and the action that led to it; None: the first one of the episode."""
        import torch

        self._shown += [frame] * (self._count if action is None else 1)
        if len(self._shown) < self._count:
            return
        told = np.zeros(self._spec.features, np.float32) if action is None else self._spec.encode(np.asarray(action))
        with torch.inference_mode():
            frames = torch.from_numpy(np.stack(self._shown))[None]
            scores, *self._remembered = self._program(frames, torch.from_numpy(told)[None], *self._remembered)
        self._scores, self._shown = scores[0].numpy(), []

    def __call__(self, _: Any) -> Any:
        """The next action, from what was watched; what the environment observes is not looked at."""
        return self._best(self._scores)


def load_program(content: bytes) -> tuple[Any, dict[str, Any]]:
    """A file of torch.export: its program, and how that is called: its note.

    A note has `action_spec`, the shapes and types of what is `remembered`, and the values that parameters of `collect` must
    have, by the names in KNOWN.

    Raises:
        KeyError, ValueError, and whatever torch raises: it is no such file.
    """
    import torch

    found = {NOTE: ""}
    program = torch.export.load(io.BytesIO(content), extra_files=found).module()
    note = json.loads(found[NOTE])
    ActionSpec.from_json(note["action_spec"]), [note[name] for name in ("remembered", *KNOWN)]
    return program, note


def refuse_others(name: str, note: dict[str, Any], params: Any) -> None:
    """Raise UserError if episodes are not recorded as those from which a policy has learned; `params` of `collect`."""
    for key in KNOWN:
        wanted, found = note[key], getattr(params, key)
        if wanted != (list(found) if isinstance(found, tuple) else found):
            raise UserError(
                f"policy '{name}' was trained with collect.{key} = {wanted}, not {found}: it can play no other way"
            )
