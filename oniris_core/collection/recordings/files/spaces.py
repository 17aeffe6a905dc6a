"""Action spaces of recordings: given or inferred, and the checks that every recorded action passes."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.common.naming import nearest
from oniris_core.data.rows.actions import ActionSpec

MAX_CHOICES = 4096
"""A component has no more choices than this: beyond it the numbers are codes, and a one-hot of them is absurd."""

KINDS = ("discrete", "box", "multi_discrete", "multi_binary")


def numbers(values: np.ndarray, where: str) -> np.ndarray:
    """Recorded actions as int64 [rows] or [rows, components], or as float32 [rows, components].

    Args:
        values: as a file has them.
        where: the file, for messages.

    Raises:
        UserError: not numbers, of another shape, or not all finite (with the first such row, counted from 0).
    """
    if values.dtype.kind not in "biuf":
        raise UserError(f"{where}: actions are of type {values.dtype}, but whole or real numbers are needed")
    if values.ndim not in (1, 2) or 0 in values.shape:
        raise UserError(f"{where}: actions have the shape {values.shape}, but [rows] or [rows, components] is needed")
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    with np.errstate(over="ignore"):
        real = values.astype(np.float32).reshape(len(values), -1)
    finite = np.isfinite(real).all(1)
    if not finite.all():
        row = int(finite.argmin())
        raise UserError(f"{where}, row {row}: the action {values[row].tolist()} is not finite")
    return real


def given_space(value: dict[str, Any]) -> ActionSpec:
    """The space that a person has written down, such as `{kind: discrete, sizes: [4]}`.

    Raises:
        UserError: not a space, with what would be one.
    """
    what = "collect.recording_action_space"
    for key in value:
        if key not in ("kind", "sizes", "low", "high", "start"):
            raise UserError(f"{what} has no '{key}'{nearest(str(key), ('kind', 'sizes', 'low', 'high', 'start'))}")
    kind = value.get("kind")
    if kind not in KINDS:
        raise UserError(f"{what}: kind is {kind!r}, but must be one of {', '.join(KINDS)}")
    lists = {key: value.get(key, []) for key in ("sizes", "low", "high", "start")}
    for key, entries in lists.items():
        number = (int, float) if key in ("low", "high") else int
        if not isinstance(entries, list) or any(isinstance(e, bool) or not isinstance(e, number) for e in entries):
            raise UserError(f"{what}: {key} is {entries!r}, but must be a list of numbers")
    sizes, low, high = lists["sizes"], list(map(float, lists["low"])), list(map(float, lists["high"]))
    if kind == "box":
        if not low or len(low) != len(high) or not all(-1e30 < a < b < 1e30 for a, b in zip(low, high, strict=True)):
            raise UserError(
                f"{what}: a box needs finite bounds, as many low as high, each low below its high, not {value}"
            )
        return ActionSpec("box", (1,) * len(low), tuple(low), tuple(high))
    if not sizes or not all(0 < size <= MAX_CHOICES for size in sizes) or (kind == "discrete" and len(sizes) != 1):
        many = "one number" if kind == "discrete" else "numbers"
        raise UserError(f"{what}: {kind} needs sizes, a list of {many} from 1 to {MAX_CHOICES}, not {sizes}")
    if kind == "multi_binary":
        return ActionSpec(kind, (1,) * len(sizes))
    start = lists["start"] or [0] * len(sizes)
    if len(start) != len(sizes):
        raise UserError(f"{what}: start must have as many entries as sizes, not {value}")
    return ActionSpec(kind, tuple(sizes), start=tuple(start))


def inferred_space(recordings: Iterable[tuple[str, np.ndarray]]) -> ActionSpec:
    """The smallest space that holds all actions: whole numbers are choices, real numbers a box.

    Args:
        recordings: (name, what `numbers` gives) for each of them.

    Raises:
        UserError: the kind or the number of components changes from one to another, or whole numbers are no choices.
    """
    first, low, high = None, np.zeros(0), np.zeros(0)
    for name, actions in recordings:
        if first is None:
            first, low, high = (name, actions), actions.min(0), actions.max(0)
        if _looks(actions) != _looks(first[1]):
            raise UserError(
                f"the action space changes: {first[0]} has {_looks(first[1])}, {name} has {_looks(actions)}; keep one of them"
            )
        low, high = np.minimum(low, actions.min(0)), np.maximum(high, actions.max(0))
    assert first is not None
    if first[1].dtype.kind == "f":
        low, high = np.where(low < high, low, np.minimum(low, -1)), np.where(low < high, high, np.maximum(high, 1))
        return ActionSpec("box", (1,) * len(low), tuple(map(float, low)), tuple(map(float, high)))
    if low.min() < 0 or high.max() >= MAX_CHOICES:
        raise UserError(
            f"whole actions from {low.min()} to {high.max()} are not 0..{MAX_CHOICES - 1}: say what they are with "
            "collect.recording_action_space, or record them as real numbers"
        )
    if first[1].ndim == 1:
        return ActionSpec("discrete", (int(high) + 1,), start=(0,))
    if high.max() <= 1:
        return ActionSpec("multi_binary", (1,) * len(high))
    return ActionSpec("multi_discrete", tuple(int(size) + 1 for size in high), start=(0,) * len(high))


def _looks(actions: np.ndarray) -> str:
    kind = "real" if actions.dtype.kind == "f" else "whole"
    return f"one {kind} number a row" if actions.ndim == 1 else f"{actions.shape[1]} {kind} numbers a row"


def fitted(actions: np.ndarray, spec: ActionSpec, where: str) -> np.ndarray:
    """Actions in the form a store keeps them: int64 [rows] or [rows, components], float32 for a box, int8 for bits.

    Raises:
        UserError: they do not fit the space, with the first row that does not.
    """
    components = len(spec.sizes)
    if spec.kind == "box" and actions.dtype.kind != "f":
        actions = actions.astype(np.float32).reshape(len(actions), -1)
    shape = () if spec.kind == "discrete" else (components,)
    if actions.shape[1:] != shape or (spec.kind != "box" and actions.dtype.kind == "f"):
        raise UserError(
            f"{where} has {_looks(actions)}, but the action space is {spec.kind} with {components} components"
        )
    if spec.kind == "box":
        low, high = np.array(spec.low, np.float32), np.array(spec.high, np.float32)
    else:
        low = np.array(spec.start or (0,) * components)
        high = low + (1 if spec.kind == "multi_binary" else np.array(spec.sizes) - 1)
    per_row = actions.reshape(len(actions), components)
    inside = ((per_row >= low) & (per_row <= high)).all(1)
    if not inside.all():
        row = int(inside.argmin())
        raise UserError(
            f"{where}, row {row}: the action {actions[row].tolist()} is outside the action space "
            f"{low.tolist()} to {high.tolist()}"
        )
    return actions.astype(np.int8) if spec.kind == "multi_binary" else actions


def joined(spec: ActionSpec, count: int) -> ActionSpec:
    """The space of `count` actions of `spec` one after another."""
    kind = "multi_discrete" if spec.kind == "discrete" and count > 1 else spec.kind
    return ActionSpec(kind, spec.sizes * count, spec.low * count, spec.high * count, spec.start * count)
