"""Which layout a folder has, by what it looks like, without reading much of it."""

from collections.abc import Callable
from pathlib import Path

from oniris_core.collection.recordings.files.checks import visible
from oniris_core.collection.recordings.files.decoder import is_video
from oniris_core.collection.recordings.files.hdf5 import open_hdf5
from oniris_core.collection.recordings.files.numpy_files import Npz
from oniris_core.collection.recordings.layouts.npz_episodes import FRAMES
from oniris_core.collection.recordings.layouts.pictures import is_picture
from oniris_core.collection.recordings.layouts.zarr_buffer import buffers
from oniris_core.common.errors import UserError


def layouts_in(root: Path) -> list[str]:
    """The values of `collect.source` whose layout is found in a folder."""
    if (root / "meta/info.json").is_file():
        return ["lerobot"]
    if (root / "data/metadata.json").is_file() or (root / "main_data.hdf5").is_file():
        return ["minari"]
    found, rest = set[str](), visible(root)
    if own := buffers(root):
        found.add("zarr")
        rest = [path for path in rest if not any(path.is_relative_to(buffer) for buffer in own)]
    kinds: dict[str, Callable[[Path], bool]] = {"videos": is_video, "pictures": is_picture}
    found |= {name for name, fits in kinds.items() if any(fits(path) for path in rest)}
    hdf5 = next((path for path in rest if path.suffix.lower() in (".hdf5", ".h5")), None)
    if hdf5:
        found |= _kind_of_hdf5(hdf5)
    films = {path.with_suffix("") for path in rest if is_video(path)} | {
        path.parent for path in rest if is_picture(path)
    }
    alone = (p for p in rest if p.suffix.lower() == ".npz" and p.with_suffix("") not in films and p.parent not in films)
    archive = next(alone, None)
    if archive and _has_frames(archive):
        found.add("npz")
    return sorted(found)


def _kind_of_hdf5(path: Path) -> set[str]:
    try:
        with open_hdf5(path) as file:
            return {"robomimic"} if "data" in file else {"counter_strike"} if "frame_0_x" in file else set()
    except UserError:
        return set()  # whichever is asked for says what is wrong with it


def _has_frames(path: Path) -> bool:
    try:
        with Npz(path) as file:
            return bool(set(FRAMES) & set(file.names))
    except UserError:
        return False
