"""Which reader reads what; what all recordings of a source must agree on; the digest of its files."""

from collections.abc import Callable, Iterator
from pathlib import Path

from oniris_core.collection.recordings.files.recording import Source
from oniris_core.collection.recordings.files.spaces import fitted, given_space, inferred_space
from oniris_core.collection.recordings.layouts.counter_strike import CounterStrike
from oniris_core.collection.recordings.layouts.layouts import layouts_in
from oniris_core.collection.recordings.layouts.lerobot import LeRobot
from oniris_core.collection.recordings.layouts.minari import Minari
from oniris_core.collection.recordings.layouts.npz_episodes import NpzEpisodes
from oniris_core.collection.recordings.layouts.pictures import Pictures
from oniris_core.collection.recordings.layouts.robomimic import Robomimic
from oniris_core.collection.recordings.layouts.videos import Videos
from oniris_core.collection.recordings.layouts.zarr_buffer import ZarrBuffer
from oniris_core.common.artefacts.files import sha256_file
from oniris_core.common.errors import UserError
from oniris_core.data.playing.params import CollectParams
from oniris_core.data.rows.actions import ActionSpec


def recognised(params: CollectParams) -> CollectParams:
    """The parameters with the layout that the folder has, where they name an environment.

    Raises:
        UserError: no such folder, or it has no layout that is known, or several.
    """
    if params.source != "environment":
        return params
    found = layouts_in(_folder(params))
    if len(found) != 1:
        what = f"several layouts, {' and '.join(found)}" if found else "no layout that is known: see docs/recordings.md"
        raise UserError(f"{params.recordings} holds {what}")
    return params.model_copy(update={"source": found[0]})


def open_source(params: CollectParams) -> Source:
    """The recordings that `params` name.

    Raises:
        UserError: no such folder, or it does not have the layout of `params.source`.
    """
    root = _folder(params)
    if params.max_frames < 2:
        raise UserError("collect.max_frames = 1 leaves no step between two frames: recordings need at least 2")
    key, camera, layout = params.recording_action_key, params.recording_camera, params.source
    if key and layout in ("counter_strike", "minari"):
        raise UserError(f"collect.recording_action_key = {key}: the source {layout} has actions of a fixed name")
    if camera and layout in ("videos", "pictures", "counter_strike"):
        raise UserError(f"collect.recording_camera = {camera}: the source {layout} has no cameras to choose from")
    there = layouts_in(root)
    if len(there) > 1:
        raise UserError(f"{root} holds several layouts, {' and '.join(there)}: name a folder with only one of them")
    if there and there[0] != layout:
        raise UserError(f"{root} has the layout {there[0]}, not {layout}: set collect.source: {there[0]}")
    readers: dict[str, Callable[[], Source]] = {
        "videos": lambda: Videos(root, key),
        "pictures": lambda: Pictures(root, key),
        "npz": lambda: NpzEpisodes(root, key, camera),
        "zarr": lambda: ZarrBuffer(root, key, camera),
        "robomimic": lambda: Robomimic(root, key, camera),
        "lerobot": lambda: LeRobot(root, key, camera),
        "minari": lambda: Minari(root, camera),
        "counter_strike": lambda: CounterStrike(root),
    }
    return readers[layout]()


def _folder(params: CollectParams) -> Path:
    root = Path(params.recordings)
    if not params.recordings:
        raise UserError(f"collect.source = {params.source}: recordings need a folder, set collect.recordings")
    if not root.exists():
        raise UserError(f"collect.recordings = {root} does not exist: name the folder with the recordings")
    if not root.is_dir():
        raise UserError(f"collect.recordings = {root} is a file: name the folder it is in")
    return root


def agreed_space(source: Source, params: CollectParams) -> ActionSpec:
    """The action space of all recordings: given, declared by the source, or inferred from every action.

    Raises:
        UserError: frames of two sizes, or actions that fit no common space or not the given one.
    """
    names = list(source.files.of)
    sizes = {name: source.size(name) for name in names}
    for name in names:
        if sizes[name] != sizes[names[0]]:
            raise UserError(
                f"{source.files.of[names[0]][-1 if params.source == 'lerobot' else 0]} has frames of {_by(sizes[names[0]])}, "
                f"{source.files.of[name][-1 if params.source == 'lerobot' else 0]} of {_by(sizes[name])} pixels: "
                "bring them to one size first"
            )
    spec = given_space(params.recording_action_space) if params.recording_action_space else source.declared
    if spec is None:
        return inferred_space((name, source.actions(name)) for name in names)
    if spec != source.declared:  # what a source declares is checked when its recordings are read
        for name in names:
            fitted(source.actions(name), spec, name)
    return spec


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def file_digests(source: Source) -> Iterator[tuple[str, str]]:
    """(path below the source's folder, SHA-256 of the file) for every file, one by one: this reads them all."""
    for path in source.files.all:
        yield path.relative_to(source.files.root).as_posix(), sha256_file(path)
