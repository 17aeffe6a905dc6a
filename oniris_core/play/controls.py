"""Which keys, buttons and sliders an action space asks for; what the page draws and listens to.

A control is one component of an action: `choices` (one of several), `switch` (on or off) or `slider` (a range). Keys are
named as browsers name them (KeyboardEvent.code), parts of a gamepad as here: left, right, up, down, a, b, x, y.
"""

from typing import Any

from oniris_core.data.rows.actions import ActionSpec

_ARROWS = {"left": "ArrowLeft", "right": "ArrowRight", "up": "ArrowUp", "down": "ArrowDown"}
_LETTERS = {"left": "KeyA", "right": "KeyD", "up": "KeyW", "down": "KeyS"}

# (label, where it lies) of each choice; where is also the key and the part of a gamepad; "": when no key is pressed.
_NAMED: dict[str, tuple[tuple[str, str], ...]] = {
    # The engine on the left is the one that pushes to the left, as it turns the lander.
    "LunarLander": (("nothing", ""), ("left", "left"), ("main engine", "up"), ("right", "right")),
    "CartPole": (("left", "left"), ("right", "right")),
    "MountainCar": (("left", "left"), ("nothing", ""), ("right", "right")),
    "Acrobot": (("left", "left"), ("nothing", ""), ("right", "right")),
    "FrozenLake": (("left", "left"), ("down", "down"), ("right", "right"), ("up", "up")),
}
_MINIGRID = (("turn left", "left"), ("turn right", "right"), ("forward", "up"), ("pick up", "a"), ("drop", "b"),
             ("toggle", "x"), ("done", ""))  # fmt: skip
_BOXES: dict[str, tuple[tuple[str, str, str], ...]] = {  # (label, where it falls, where it rises)
    "CarRacing": (("steering", "left", "right"), ("gas", "", "up"), ("brake", "", "down")),
    "LunarLander": (("main engine", "down", "up"), ("left and right", "left", "right")),
    "MountainCarContinuous": (("force", "left", "right"),),
    "Pendulum": (("torque", "left", "right"),),
}
_AXES = (("left", "right"), ("down", "up"))


def controls(env_id: str | None, spec: ActionSpec, meanings: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The controls of an action space, one a component, as JSON values.

    Args:
        env_id: of the environment; known ones have names and the keys that people expect.
        spec: the space.
        meanings: names of the choices of a discrete space, where the environment has some.
    """
    name = (env_id or "").rpartition("-v")[0]
    if spec.kind == "box":
        return [_slider(name, i, low, high) for i, (low, high) in enumerate(zip(spec.low, spec.high, strict=True))]
    if spec.kind == "multi_binary":
        return [{"kind": "switch", "label": f"{i + 1}", "keys": _digit(i)} for i in range(len(spec.sizes))]
    if spec.kind == "discrete":
        return [_choices("action", spec.sizes[0], spec.start[0], _named(name, spec.sizes[0], meanings))]
    before = [sum(spec.sizes[:i]) for i in range(len(spec.sizes))]  # digits go on from component to component
    return [
        _choices(f"{i + 1}", size, start, None, first)
        for i, (size, start, first) in enumerate(zip(spec.sizes, spec.start, before, strict=True))
    ]


def resting(spec: ActionSpec, found: list[dict[str, Any]]) -> Any:
    """The action of one who presses nothing: a number for a discrete space, else a list."""
    values = [0 if control["kind"] == "switch" else control["rest"] for control in found]
    return values[0] if spec.kind == "discrete" else values


def _named(name: str, size: int, meanings: tuple[str, ...]) -> tuple[tuple[str, str], ...] | None:
    named = _NAMED.get(name) or (_MINIGRID if name.startswith(("MiniGrid", "BabyAI")) else None)
    if named is None and meanings:
        places = {"NOOP": "", "LEFT": "left", "RIGHT": "right", "UP": "up", "DOWN": "down", "FIRE": "a"}
        named = tuple((meaning.lower(), places.get(meaning, "-")) for meaning in meanings)
    return named if named and len(named) == size else None


def _choices(
    label: str, size: int, start: int, named: tuple[tuple[str, str], ...] | None, first_digit: int = 0
) -> dict[str, Any]:
    choices = []
    for i in range(size):
        text, place = named[i] if named else (f"{start + i}", "-")
        keys = [_ARROWS[place], _LETTERS[place]] if place in _ARROWS else []
        choices.append({
            "value": start + i, "label": text, "keys": [*keys, *_digit(first_digit + i)],
            "place": place if place in (*_ARROWS, "a", "b", "x", "y") else "",
        })  # fmt: skip
    idle = [i for i in range(size) if named and named[i][1] == ""]
    # Without a choice that does nothing the last one stays; without names nobody knows, and the first is as good as any.
    return {"kind": "choices", "label": label, "choices": choices, "rest": start + (idle[0] if idle else 0),
            "stays": not idle}  # fmt: skip


def _slider(name: str, i: int, low: float, high: float) -> dict[str, Any]:
    named = _BOXES.get(name, ())
    axes = named[i] if i < len(named) else (f"{i + 1}", *(_AXES[i] if i < len(_AXES) else ("", "")))
    rest = min(max(0.0, low), high)
    return {
        "kind": "slider", "label": axes[0], "low": low, "high": high, "rest": rest,
        "falls": _ARROWS.get(axes[1], ""), "rises": _ARROWS.get(axes[2], ""), "places": [axes[1], axes[2]],
    }  # fmt: skip


def _digit(i: int) -> list[str]:
    return [f"Digit{(i + 1) % 10}"] if i < 10 else []
