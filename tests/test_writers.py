"""Every writer, killed and refused at each of its file operations: readers see the old or the new one, a rerun heals."""

import functools
import itertools
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from oniris_core.collection import collection
from oniris_core.common.artefacts.files import atomic_write, open_artefact
from oniris_core.common.artefacts.runs import workspace
from oniris_core.common.errors import OnirisError, UserError
from oniris_core.config.presets import apply_preset
from oniris_core.data.episodes.episode import Episode
from oniris_core.data.episodes.store import open_episodes, write_episodes
from oniris_core.data.latents.store import LatentStatistics, open_latents, write_latents
from oniris_core.data.rows.actions import action_spec
from oniris_core.encoding import report as latents
from oniris_core.encoding.report import write_latent_report
from oniris_core.evaluation.measures.drift import Dreams
from oniris_core.evaluation.measures.evaluate import Evaluation, Futures
from oniris_core.evaluation.report import renders
from oniris_core.evaluation.rollouts.rollouts import Rollouts
from oniris_core.training.fit.checkpoints import Checkpoints
from oniris_core.training.fit.watch import report as curves
from oniris_core.training.fit.watch.report import write_training_report
from oniris_core.vae.model import Vae, VaeConfig
from oniris_core.vae.store import load_vae, save_vae
from oniris_core.world.averages import snapshot_file, write_snapshot
from oniris_core.world.denoiser import Denoiser, DenoiserConfig
from oniris_core.world.store import load_world, save_world
from oniris_core.world.unet import UNetConfig
from tests.conftest import ROOT, tree
from tests.zygote import fork, full_from, full_in_file_of, kill_before, kill_in_file_of, linux_only

SPEC = action_spec(gym.spaces.Discrete(2)).to_json()


class Writer:
    """Writes state 0 or 1 of something to `<folder>/out`, and reads it.

    With a `stride`, only so many of the operations are tried in an empty folder or on a full disk, and only so many of
    the kills over an old one are followed by a rerun: of the hundreds of a store, all but a few are one as the other.
    Of the kills over an old one, every `kills`-th operation is tried.
    """

    stride = kills = 1
    inside_files = True

    def write(self, folder: Path, state: int) -> None:
        raise NotImplementedError

    def read(self, folder: Path) -> None:
        """Raises UserError where there is nothing; complains of what is not whole."""
        raise NotImplementedError

    def seen(self, folder: Path) -> dict[str, bytes]:
        """What a reader finds."""
        self.read(folder)
        return tree(folder / "out") if (folder / "out").is_dir() else {"": (folder / "out").read_bytes()}


class Episodes(Writer):
    stride, kills = 24, 12  # what writes latents writes them too, and there every operation is tried

    def write(self, folder: Path, state: int) -> None:
        rows, zeros = 3, np.zeros(3, np.float32)
        frames, flags = np.full((rows, 2, 2, 3), state, np.uint8), np.zeros(rows, bool)
        episode = Episode(frames, np.zeros(rows, np.int64), zeros, flags, flags, zeros[:, None], state)
        write_episodes(folder / "out", [episode], rows, np.zeros(1, np.uint8), {"action_spec": SPEC})

    def read(self, folder: Path) -> None:
        open_episodes(folder / "out")


class Latents(Writer):
    stride = 8

    def write(self, folder: Path, state: int) -> None:
        latents = np.full((3, 2, 2, 2), state, np.float16)
        ends, split = np.array([3], np.int64), np.zeros(1, np.uint8)
        attributes = {"action_spec": SPEC, "vae_identity": "x"}
        write_latents(folder / "out", [(latents, *[np.zeros((3, 4), np.int64)] * 3)], ends, ends, split, attributes)

    def read(self, folder: Path) -> None:
        open_latents(folder / "out")


class SavedVae(Writer):
    def write(self, folder: Path, state: int) -> None:
        save_vae(folder / "out", vae(state), {})

    def read(self, folder: Path) -> None:
        load_vae(folder / "out")


@functools.cache
def vae(seed: int) -> Vae:
    torch.manual_seed(seed)
    return Vae(VaeConfig((2, 1), (2, 1), (4, 4), 1, 3, 2))


class SavedWorld(Writer):
    def write(self, folder: Path, state: int) -> None:
        model, mean, kept = denoiser(state), np.zeros(2), folder.parent / f"kept_{state}"
        if not kept.exists():  # before any harm is done
            write_snapshot(snapshot_file(kept, 0.1, 1), model)
        save_world(
            folder / "out", {0.1: model}, model.config, mean, mean, action_spec(gym.spaces.Discrete(2)), "x", {},
            steps=2, snapshots=(1,), kept=kept,
        )  # fmt: skip

    def read(self, folder: Path) -> None:
        load_world(folder / "out")


@functools.cache
def denoiser(seed: int) -> Denoiser:
    torch.manual_seed(seed)
    unet = UNetConfig(4, (1, 1), 1, (False, True), (False, False), 4, 4)
    return Denoiser(DenoiserConfig(unet, 2, 2, 2, 2, 0.3, 4, (1, 2)))


class Report(Writer):
    def read(self, folder: Path) -> None:
        open_artefact(folder / "out", "report", made_by="train")


class TrainingReport(Report):
    def write(self, folder: Path, state: int) -> None:
        picture, history = np.full((4, 4, 3), state, np.uint8), {"loss": torch.full((3,), float(state))}
        write_training_report(folder / "out", {"x": state}, history, {"picture": picture}, {"table": f"{state}\n"})


class LatentReport(Report):
    def write(self, folder: Path, state: int) -> None:
        write_latent_report(folder / "out", LatentStatistics(np.zeros(2), np.ones(2) + state, 0.1), 3)


@functools.cache
def evaluation(state: int) -> Evaluation:
    frames, actions, one = (
        np.full((1, 8, 16, 16, 3), 100 * state, np.uint8),
        np.zeros((1, 8), np.int64),
        np.ones(1, bool),
    )
    rollouts = Rollouts(
        frames, frames, frames[None], np.array([0]), frames, actions, np.zeros(1, np.int64), 4, np.ones((1, 8), bool), one
    )  # fmt: skip
    futures = Futures(frames[None], ["0"])
    dreams = Dreams([], np.zeros(1), one, frames[0], actions[0])
    figures = {"horizons": Figure(figsize=(0.1, 0.1))}  # drawing takes long and is no file operation
    return Evaluation({"x": state}, {}, rollouts, futures, dreams, None, None, {"horizons": f"{state}\n"}, figures)


class RenderReport(Report):
    def write(self, folder: Path, state: int) -> None:
        made = renders.Renders([], [], None)
        renders.write_render_report(folder / "out", evaluation(state), {"seeds": [state]}, "Made-v0", made)


class Renders(Writer):
    inside_files = False  # ffmpeg writes them, and where it fails the rest is kept: see tests/test_pictures.py

    def write(self, folder: Path, state: int) -> None:
        made = renders.make_renders(folder / "out", evaluation(state), 1, 2, 10.0, None, lambda: None)
        if made.trouble:
            raise made.trouble

    def read(self, folder: Path) -> None:
        open_artefact(folder / "out", "renders", made_by="render")


class File(Writer):
    def write(self, folder: Path, state: int) -> None:
        atomic_write(folder / "out", bytes([state]) * 2000)

    def read(self, folder: Path) -> None:
        if not (folder / "out").exists():
            raise UserError("missing")


class Preset(File):
    def write(self, folder: Path, state: int) -> None:
        if not (folder / "out").exists():
            atomic_write(folder / "out", (ROOT / "presets/cpu.yaml").read_bytes())
        if state:
            apply_preset("tiny", ROOT / "presets", folder / "out")


class CollectedEpisode(File):
    def write(self, folder: Path, state: int) -> None:
        frames = np.full((2, 4, 4, 3), state, np.uint8)
        flags, states = np.zeros(2, bool), np.zeros((2, 0), np.float32)
        episode = Episode(frames, np.zeros(2, np.int64), np.zeros(2, np.float32), flags, flags, states, state)
        atomic_write(
            collection.episode_file(folder / "out", 0), collection.dump_episode(episode, screen=np.array([4, 4]))
        )

    def seen(self, folder: Path) -> dict[str, bytes]:
        file = collection.episode_file(folder / "out", 0)
        if not file.exists():
            raise UserError("missing")
        collection.load_episode(file)
        return {"": file.read_bytes()}


class Training(Writer):
    """Checkpoints of a training that goes on to step 2, or 4."""

    def write(self, folder: Path, state: int) -> None:
        (folder / "out").mkdir(exist_ok=True)
        checkpoints = Checkpoints(folder / "out")
        for step in range(self.step(checkpoints) + 1, 2 + 2 * state + 1):
            checkpoints.save(step, {"x": torch.full((500,), float(step))})

    def step(self, checkpoints: Checkpoints) -> int:
        said = list[str]()
        found = checkpoints.load_last(said.append)
        assert said == []
        if found is None:
            return 0
        assert found[1]["x"].unique().numel() == 1
        return int(found[1]["x"][0])

    def seen(self, folder: Path) -> dict[str, bytes]:
        if not self.step(Checkpoints(folder / "out")):
            raise UserError("missing")
        return {}  # any whole checkpoint is as good


class Workspace(Writer):
    """Unfinished work (state 0), and that the run which finishes it removes all or nothing of it."""

    def write(self, folder: Path, state: int) -> None:
        os.environ["ONIRIS_RUNS"] = str(folder / "out")
        try:
            with workspace("train", Path("out")) as unfinished:
                if not state:
                    for name in ("checkpoint", "snapshot"):
                        (unfinished / name).write_text(name)
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass

    def seen(self, folder: Path) -> dict[str, bytes]:
        if not (folder / "out/train").exists():
            raise UserError("missing")
        return {name: data for name, data in content(folder / "out").items() if ".removed/" not in name}


WRITERS: dict[str, type[Writer]] = {
    writer.__name__: writer
    for writer in (Episodes, Latents, SavedVae, SavedWorld, TrainingReport, LatentReport, RenderReport, Renders, File,
                   Preset, CollectedEpisode, Training, Workspace)
}  # fmt: skip
TOLD, STRANGE = 3, 4


def content(folder: Path) -> dict[str, bytes]:
    """Every file but locks, which hold process ids."""
    return {name: data for name, data in tree(folder).items() if Path(name).name != "lock"}


def apart(work: Callable[[], None], said: Path) -> int:
    """The exit code of `work` in a process of its own, which ends the moment it is done."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        code = STRANGE
        work()
        code = 0
    except (OSError, OnirisError):
        code = TOLD
    except BaseException:
        said.write_text(traceback.format_exc())
    os._exit(code)


def every(stride: int) -> Iterator[int]:
    return itertools.count(0, stride)


def sizes(_: int) -> Iterator[int]:
    return (16**power for power in itertools.count())


FAULTS: dict[str, tuple[Callable[[int, Path], None], Callable[[int], Iterator[int]]]] = {
    "killed before operation": (kill_before, every),
    "killed in a file at byte": (kill_in_file_of, sizes),
    "disk full from operation": (full_from, every),
    "disk full in a file at byte": (full_in_file_of, sizes),
}


def harm(name: str, root: Path, said: Path) -> None:
    """Let a writer meet every fault until it finishes in spite of it: in an empty folder, and in one with the old state."""
    torch.set_num_threads(1)
    for module, figure in ((curves, "curve_figure"), (latents, "_figure")):
        setattr(module, figure, lambda *_: Figure(figsize=(0.1, 0.1)))  # drawing takes long and is no file operation
    writer, folder = WRITERS[name](), root / "work"
    for state in (0, 1):
        (root / str(state)).mkdir()
        writer.write(root / str(state), state)
    old, new, whole = writer.seen(root / "0"), writer.seen(root / "1"), content(root / "1")

    def meet(fault: Callable[[int, Path], None], place: int) -> None:
        fault(place, folder)
        writer.write(folder, 1)

    def prepare(from_old: bool) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(root / "0", folder) if from_old else folder.mkdir()

    def look(from_old: bool, killed: bool) -> dict[str, bytes] | None:
        seen = None
        try:
            seen = writer.seen(folder)
            assert seen in (old, new), "neither old nor new"
        except UserError:
            assert not from_old, "the old one is gone"
        assert killed or not [path for path in content(folder) if ".partial" in path or ".replaced" in path], "strays"
        return seen

    def heal() -> None:
        writer.write(folder, 1)
        assert content(folder) == whole, "the rerun made something else"

    for (what, (fault, places)), from_old in itertools.product(FAULTS.items(), (False, True)):
        if ("full" in what and not from_old) or (
            "in a file" in what and not writer.inside_files
        ):  # little is different
            continue
        thorough = what == "killed before operation" and from_old
        prepare(from_old)
        for trial, place in enumerate(places(writer.kills if thorough else writer.stride)):
            code = apart(lambda: meet(fault, place), said)  # noqa: B023
            where = f"{what} {place}, {'over an old one' if from_old else 'into an empty folder'}"
            if code == 0:
                assert content(folder) == whole, where
                break
            killed = code in (-signal.SIGKILL, -signal.SIGXFSZ)
            assert killed or (code == TOLD and "full" in what), f"{where}: {code}"
            try:
                seen = look(from_old, killed)
                if not thorough or trial % writer.stride == 0:
                    heal()
                    seen = None
                if thorough and seen == old:
                    shutil.rmtree(folder / "out.partial", ignore_errors=True)  # nothing else can have changed
                else:
                    prepare(from_old)
            except Exception as error:
                raise AssertionError(where) from error
        assert place, f"{where}: there was nothing to go wrong"


def harmed(name: str, root: Path, said: Path) -> None:
    try:
        harm(name, root, said)
    except BaseException:
        said.write_text(traceback.format_exc())
        raise SystemExit(1) from None


@linux_only
@pytest.mark.parametrize("name", WRITERS)
def test_killed_or_refused_at_every_file_operation(name: str, tmp_path: Path) -> None:
    said = tmp_path / "said.txt"
    process = fork(harmed, name, tmp_path, said)
    process.join()
    assert process.exitcode == 0, said.read_text() if said.exists() else ""
