"""Minari data sets whose actions are no flat row of numbers: read as an environment's are, or refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests import recordings as made
from tests.conftest import Run
from tests.layouts import collect, refused


def test_unbounded_minari_actions_get_their_bounds_from_the_data(params_only: Path, run: Run) -> None:
    from gymnasium.spaces import Box

    def played(actions: np.ndarray) -> list[np.ndarray]:
        return [np.float32([action]) for action in actions]

    made.minari(params_only / "in", space=Box(-np.inf, np.inf, (1,), np.float32), played=played)
    store = collect(run, params_only, "minari", params_only / "in")
    assert (store.action_spec.kind, store.action_spec.low, store.action_spec.high) == ("box", (0.0,), (3.0,))


def test_minari_actions_of_other_shapes_are_flattened_as_an_environments_are(params_only: Path, run: Run) -> None:
    """Rows are what Gymnasium's `flatten` makes of each action, and `unflatten` gives the actions back."""
    from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple, flatten, unflatten

    from oniris_core.data.playing.flat_actions import described

    def one(action: int) -> np.ndarray:
        return np.float32([[action, 0.25], [-action, 1]])

    nested = Dict({"turn": Tuple([Discrete(5), MultiBinary(2)]), "a": Box(-4, 4, (2, 2), np.float32)})
    cases: list[tuple[Any, str, Any, Any]] = [
        (Box(-4, 4, (2, 2), np.float32), "box", one, list), (Box(0, 4, (), np.float32), "box", np.float32, list),
        (MultiDiscrete([[4, 2], [2, 5]]), "multi_discrete", lambda a: np.array([[a, 1], [0, a]]), list),
        (nested, "box", lambda a: {"turn": (a, np.int8([a % 2, 1])), "a": one(a)},
         lambda all_: {"turn": ([x["turn"][0] for x in all_], [x["turn"][1] for x in all_]), "a": [x["a"] for x in all_]}),
    ]  # fmt: skip
    for number, (space, kind, action, together) in enumerate(cases):
        root = params_only / f"in{number}"
        taken = made.minari(root, space=space, played=lambda a, of=action, one=together: one([of(int(i)) for i in a]))
        store = collect(run, params_only, "minari", root)
        assert store.action_spec.kind == kind
        original = described(store.attributes["action_flattened_from"])
        assert original == space
        for episode, actions in enumerate(taken):
            rows = store.actions[slice(*store.bounds(episode))]
            assert not rows[0].any()
            for row, key in zip(rows[1:], actions[:-1].tolist(), strict=True):
                wanted = action(key)
                assert row.tolist() == (flatten(space, wanted) if space is nested else np.ravel(wanted)).tolist()
                if space is nested:
                    again = unflatten(original, row)
                    assert int(again["turn"][0]) == key
                    assert again["a"].tolist() == wanted["a"].tolist()


def test_bad_minari_actions_of_other_shapes_are_one_line(params_only: Path, run: Run) -> None:
    import h5py
    from gymnasium.spaces import Box, Dict, Discrete

    root = params_only / "in"
    space = Dict({"turn": Discrete(4), "pull": Box(-1, 1, (2,), np.float32)})
    made.minari(root, space=space, played=lambda a: {"turn": a.tolist(), "pull": [np.zeros(2, np.float32)] * len(a)})
    path = root / "data/main_data.hdf5"
    good = path.read_bytes()
    for name, value, why in [
        ("turn", np.array([0, 1, 7, 0, 0, 0, 0, 0]), "episode_1, row 2: the action {"),
        ("pull", np.full((8, 2), np.nan, np.float32), "episode_1, row 0: the action {"),
        ("pull", np.zeros((8, 3), np.float32), "is outside of the action space Dict("),
        ("pull", np.zeros((5, 2), np.float32), "the parts of its actions have [5, 8] rows"),
        ("pull", None, "has no 'episode_1/actions/pull'"),
    ]:
        with h5py.File(path, "a") as file:
            del file[f"episode_1/actions/{name}"]
            if value is not None:
                file[f"episode_1/actions/{name}"] = value
        message = refused(run, params_only, "minari", root)
        path.write_bytes(good)
        assert why in message, message
    metadata = root / "data/metadata.json"
    described = json.loads(metadata.read_text())
    text = json.dumps({"type": "Dict", "subspaces": {"say": {
        "type": "Text", "max_length": 3, "min_length": 1, "charset": "abc"}}})  # fmt: skip
    metadata.write_text(json.dumps({**described, "action_space": text}))
    assert "unsupported action space Text" in refused(run, params_only, "minari", root)
    metadata.write_text(json.dumps({**described, "action_space": json.dumps(
        {"type": "Box", "dtype": "float32", "shape": [2, 2], "low": [[0, 0]] * 2, "high": [[4, 4]] * 2})}))  # fmt: skip
    made.minari(
        params_only / "rank",
        space=Box(0, 4, (3, 2), np.float32),
        played=lambda a: [np.ones((3, 2), np.float32)] * len(a),
    )
    shutil.copy(params_only / "rank/data/main_data.hdf5", path)
    assert "actions of shape (11, 3, 2), but the action space is Box(0.0, 4.0, (2, 2), float32)" in refused(
        run, params_only, "minari", root
    )
