"""Policies that see the frames as they are recorded, and not what the environment observes: those of the stage `policy`.

Axes: c frames of a decision, H, W, A features of an action.
"""

import io
import json
import logging
import zipfile
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.data.rows.actions import ActionSpec, action_spec

NOTE = "oniris.json"
"""The file within a policy's file that says how its program is called."""
KNOWN = ("env_id", "env_kwargs", "wrappers", "size", "resize", "frame_skip", "frames_per_action")
"""Parameters of `collect` that must have the values by which the policy was trained."""


class Watcher:
    """The player of one episode: shown each recorded frame, it decides after every c of them.

    Its program takes frames uint8 [1, c, H, W, 3], features of the action that led there float32 [1, A] (`ActionSpec.encode`),
    and what it remembers, all zeros at first; it gives scores of the next action [1, ...] (the action itself in a Box) and what
    it will remember. The first frame of an episode is shown c times, with nought for an action.
    """

    def __init__(self, program: Any, note: dict[str, Any], best: Callable[[np.ndarray], Any]):
        """The program as torch has loaded it, its note (see `WatcherMaker`), and what makes an action of scores."""
        import torch

        self._program, self._best = program, best
        self._spec, self._count = ActionSpec.from_json(note["action_spec"]), int(note["frames_per_action"][0])
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


class WatcherMaker:
    """Makes players of a policy's file.

    Its note has `action_spec`, the shapes and types of what is `remembered`, and the values that parameters of `collect` must
    have, by the names in KNOWN.
    """

    def __init__(self, name: str, content: bytes, best: Callable[[gym.Space, np.ndarray], Any]):
        """Load a file of torch.export.

        Args:
            name: of the policy, for messages.
            content: of the file.
            best: makes an action of a space of scores.

        Raises:
            UserError: it is no such file, or its program is not called as its note says.
        """
        import torch

        self._name, self._best = name, best
        loud = logging.getLogger("torch.export")
        before, loud.disabled = loud.disabled, True  # it logs a page about a file that is none
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                archive.testzip()
            found = {NOTE: ""}
            self._program = torch.export.load(io.BytesIO(content), extra_files=found).module()
            self._note = json.loads(found[NOTE])
            missing = set(KNOWN) - set(self._note)
            if missing:
                raise ValueError(f"its note lacks {', '.join(sorted(missing))}")
            trial = Watcher(self._program, self._note, lambda scores: scores)
            for action in (None, np.asarray(_any_action(ActionSpec.from_json(self._note["action_spec"])))):
                for _ in range(trial._count):
                    trial.watch(np.zeros((*self._note["size"], 3), np.uint8), action)
        except (
            Exception
        ) as error:  # torch has no word of its own for a file that is none of its, nor for one that does not fit
            what = " ".join(str(error).split())[:200]
            raise UserError(f"policy '{name}' is not a policy of the stage `policy`: {what}") from None
        finally:
            loud.disabled = before

    def __call__(self, env: gym.Env) -> Watcher:
        """The player of an episode of this environment."""
        return Watcher(self._program, self._note, lambda scores: self._best(env.action_space, scores))

    def refuse_others(self, params: Any, space: gym.Space) -> None:
        """Raise UserError if episodes are recorded otherwise than the policy can play; `params` of `collect`."""
        for key in KNOWN:
            wanted, found = self._note[key], getattr(params, key)
            if wanted != (list(found) if isinstance(found, tuple) else found):
                raise UserError(
                    f"policy '{self._name}' plays with collect.{key} = {wanted} only, as it was trained, not {found}"
                )
        if action_spec(space) != ActionSpec.from_json(self._note["action_spec"]):
            raise UserError(f"policy '{self._name}' was trained with other actions than {space}")


def _any_action(spec: ActionSpec) -> Any:
    if spec.kind == "discrete":
        return spec.start[0]
    return spec.start or np.zeros(len(spec.sizes), np.float32 if spec.kind == "box" else np.int8)
