"""Trouble other than kills: what vanishes, is full or read-only, two at once, stores that answer badly.

Each is one line, nothing is damaged, and the same command afterwards completes with the bytes of an undisturbed run.
"""

import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from oniris_core.common.artefacts.files import open_artefact, sha256_file, staged_folder
from oniris_core.common.artefacts.remote import Remote
from oniris_core.common.artefacts.runs import workspace
from oniris_core.common.errors import OnirisError, UserError
from oniris_core.data.rows import zarrs
from oniris_core.training.fit.checkpoints import Checkpoints
from oniris_core.training.fit.watch.curves import while_possible
from tests.conftest import Run, tree
from tests.faults import Fault, Faulty
from tests.test_cli import one_error
from tests.test_remote_stores import put, s3, there  # noqa: F401
from tests.test_training import report
from tests.zygote import CHANGES, REMOVALS, WRITES, fork, linux_only, run_stage_as_process


def store_at(place: Path | Remote, seed: int = 0) -> np.ndarray:
    """Write a store of three shards, and return its rows."""
    rows = np.random.default_rng(seed).integers(0, 255, (2100, 2, 2, 3), np.uint8)
    with zarrs.new_store(place, "episodes") as group:
        zarrs.add_rows(group, "data/frames", rows.shape, np.uint8)[:] = rows
        zarrs.finish(group, {})
    return rows


def rows_of(place: Path | Remote) -> Any:
    return zarrs.preload(zarrs.array(zarrs.open_store(place, "episodes", "collect")[0], "data/frames"))


# Two at once.


def test_two_that_make_one_artefact_refuse_each_other(tmp_path: Path) -> None:
    """Whatever else they share or do not: another folder of unfinished work, or a report two outputs have in common."""
    out = tmp_path / "reports/train"
    with staged_folder(out, "report") as folder:
        (folder / "file").write_text("first")
        with (
            pytest.raises(UserError, match=f"another process is already writing {out}; wait for it"),
            staged_folder(out, "report"),
        ):
            raise AssertionError
        (folder / "more").write_text("still here")
    assert set(tree(out)) == {"file", "more", "manifest.json"}
    with staged_folder(out, "report") as folder:  # the lock went with its holder
        (folder / "file").write_text("second")
    open_artefact(out, "report", "train")
    assert (out / "file").read_text() == "second"
    assert list(out.parent.iterdir()) == [out]


def test_what_cannot_be_swept_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is nobody's that writes."""
    stray = tmp_path / "out.partial"
    stray.write_text("a file")
    with pytest.raises(NotADirectoryError, match=r"out\.partial"), staged_folder(tmp_path / "out", "report"):
        raise AssertionError
    stray.unlink()
    (stray / "kept").mkdir(parents=True)

    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(PermissionError, match=r"out\.partial"), staged_folder(tmp_path / "out", "report"):
        raise AssertionError


def test_a_folder_that_cannot_be_locked_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On some disks of other machines: nobody else is writing, and to wait would help nobody."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setenv("ONIRIS_RUNS", str(tmp_path))
    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match=r"cannot lock .*lock: No locks available; the variable ONIRIS_RUNS may name"):
        workspace("train", Path("out")).__enter__()
    store_at(tmp_path / "made.zarr")  # where an artefact is made it is done without


def test_two_servers_that_record_take_other_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from oniris_core.play import recording

    made = recording.Played(np.zeros((5, 32, 32, 3), np.uint8), np.zeros(5, np.int64))
    is_free, others = recording._is_free, list[str]()

    def late(folder: Path, number: str) -> bool:
        if not others:  # the other server is quicker
            others.append("")
            others[0] = recording.save(tmp_path, made, None, 25.0).number
        return is_free(folder, number)

    monkeypatch.setattr(recording, "_is_free", late)
    assert recording.save(tmp_path, made, None, 25.0).number == "0002"
    assert others == ["0001"]
    monkeypatch.setattr(recording, "write_video", full)
    before = tree(tmp_path)
    with pytest.raises(OnirisError, match=r"a recording cannot be written to .*: No space left on device"):
        recording.save(tmp_path, made, made, 25.0)
    assert tree(tmp_path) == before


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# What vanishes.


def test_an_artefact_whose_folder_is_removed_meanwhile_is_not_made_of_the_rest(tmp_path: Path) -> None:
    """Zarr makes folders as it needs them, so what is written afterwards would look like a whole store."""
    out = tmp_path / "data/episodes.zarr"

    def write() -> None:
        with zarrs.new_store(out, "episodes") as group:
            rows = zarrs.add_rows(group, "data/frames", (2048, 2, 2, 3), np.uint8)
            rows[:1024] = 1
            shutil.rmtree(out.parent)
            rows[1024:] = 1
            zarrs.finish(group, {})

    with pytest.raises(
        OnirisError, match=r"episodes\.zarr\.partial was removed while it was written; the same command"
    ):
        write()
    assert not tree(tmp_path)
    store_at(out)


@pytest.mark.parametrize("kept", [zarrs.PRELOAD_BYTES, 0])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("gone", r"data/frames/c/1/0/0/0 is damaged \(.*No such file"),
        ("empty", r"data/frames/c/1/0/0/0 is damaged \("),
        ("half", r"data/frames/c/1/0/0/0 is damaged \("),
        ("flipped", r"data/frames/c/1/0/0/0 is damaged \(.*Zstd"),
    ],
)
def test_what_is_gone_or_damaged_after_the_check_is_no_zeros(
    damage: str, said: str, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store too large for memory is read while a training runs."""
    monkeypatch.setattr(zarrs, "PRELOAD_BYTES", kept)
    place = tmp_path / "episodes.zarr"
    true, rows = store_at(place), rows_of(place)
    file = place / "data/frames/c/1/0/0/0"
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.unlink()
    if damage != "gone":
        file.write_bytes({"empty": b"", "half": bytes(data[: len(data) // 2]), "flipped": bytes(data)}[damage])
    assert np.array_equal(rows[:1024], true[:1024])
    if kept:
        assert np.array_equal(rows[:], true)
        return
    with pytest.raises(OnirisError, match=said) as error:
        rows[1000:2050]
    assert str(place) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.pipeline
def test_collected_episodes_that_are_removed_meanwhile_are_not_left_out(
    params_only: Path, tiny_pipeline: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oniris_core.collection import collection

    inner = collection.collect_episodes

    def vanishing(*given: Any) -> Iterator[Any]:
        outcomes = inner(*given)
        yield next(outcomes)
        shutil.rmtree(params_only / "runs")
        yield from outcomes

    with monkeypatch.context() as patch:
        patch.setattr(collection, "collect_episodes", vanishing)
        one_error(run(params_only, "collect"), r"episode_00000\d.npz was finished and has been removed", exit_code=1)
    assert not (params_only / "data/episodes.zarr").exists()
    assert run(params_only, "collect").exit_code == 0
    assert tree(params_only / "data/episodes.zarr") == tree(tiny_pipeline / "data/episodes.zarr")


@pytest.mark.pipeline
@pytest.mark.parametrize("what", ["runs", "one bit of a snapshot"])
def test_a_training_whose_folders_vanish_is_finished_by_the_same_command(
    what: str, pipeline: Path, tiny_pipeline: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the checkpoint is there and what it needs beside it is not: that would never be found again."""
    save = Checkpoints.save

    def vanishing(self: Checkpoints, step: int, tensors: Any) -> None:
        save(self, step, tensors)
        if step == 4:
            if what.startswith("one"):
                file = sorted(pipeline.glob("runs/*/*/*/snapshots/*.safetensors"))[0]
                data = bytearray(file.read_bytes())
                data[-1] ^= 1
                file.write_bytes(data)
            for folder in pipeline.glob(what):
                shutil.rmtree(folder)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", vanishing)
        result = run(pipeline, "train")
    one_error(result, r"snapshots/ema_.* is gone or damaged; the same command trains from the", exit_code=1)
    result = run(pipeline, "train")
    assert result.exit_code == 0, result.output
    assert re.search(r"train: .* is gone or damaged; starting from the beginning", result.output)
    assert tree(pipeline / "models/world") == tree(tiny_pipeline / "models/world")
    assert report(pipeline / "reports/train") == report(tiny_pipeline / "reports/train")
    assert not list(pipeline.glob("runs/*/*/*/*"))


@pytest.mark.pipeline
def test_unfinished_work_that_vanishes_at_the_end_is_no_trouble(
    pipeline: Path, tiny_pipeline: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oniris_core.encoding import report as latents

    inner = latents.write_latent_report

    def vanishing(*given: Any) -> Any:
        shutil.rmtree(pipeline / "runs")
        return inner(*given)

    monkeypatch.setattr(latents, "write_latent_report", vanishing)
    result = run(pipeline, "encode")
    assert result.exit_code == 0, result.output
    assert tree(pipeline / "data/latents.zarr") == tree(tiny_pipeline / "data/latents.zarr")


@pytest.mark.parametrize("what", ["gone", "one bit"])
def test_a_part_of_a_policys_training_that_is_lost_is_trained_again(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oniris_core.policy import ppo

    for point in (1, 2, 3):
        file = tmp_path / f"{point}.zip"
        file.write_bytes(bytes([point]) * 100)
        note = {"figures": {"inside": float(point)}, "sha256": {file.name: sha256_file(file)}}
        file.with_suffix(".json").write_text(json.dumps(note))
    assert [figures["inside"] for figures in ppo._done(tmp_path)] == [1, 2, 3]
    if what == "gone":
        file.unlink()
    else:
        file.write_bytes(bytes([3]) * 99 + bytes([2]))
    assert [figures["inside"] for figures in ppo._done(tmp_path)] == [1, 2]
    (tmp_path / "1.zip").unlink()  # nobody needs it any more
    assert len(ppo._done(tmp_path)) == 2


# What is full or cannot be written.


def test_an_output_on_a_mount_point_is_refused_before_any_work(
    params_only: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume mounted right there cannot be replaced, which would be found out when all is done."""
    (params_only / "data/episodes.zarr").mkdir(parents=True)
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "episodes.zarr")
    one_error(run(params_only, "collect"), r"cannot write data/episodes.zarr: it is a mount point, .* a path inside it")
    assert not (params_only / "runs").exists()


def test_curves_that_cannot_be_written_end_no_training(tmp_path: Path) -> None:
    said, points = list[str](), list[int]()

    def write(step: int, _: Any) -> None:
        points.append(step)
        if step == 2:
            full()

    attempt = while_possible(write, said.append)
    for step in range(5):
        attempt(step, {})
    assert points == [0, 1, 2]
    assert said == ["note: no more live curves: their folder: No space left on device; training goes on"]


@pytest.mark.pipeline
@linux_only
@pytest.mark.parametrize("below", ["data", "models", "runs"])
def test_a_disk_that_turns_read_only_is_one_line_and_changes_nothing(
    below: str, pipeline: Path, tmp_path: Path
) -> None:
    stage = "encode" if below in ("data", "runs") else "train"
    said, before = tmp_path / "said.txt", tree(pipeline)
    process = fork(read_only, pipeline, below, stage, said)
    process.join()
    assert process.exitcode in (1, 2)
    (line,) = (line for line in said.read_text().splitlines() if "error" in line)
    assert re.fullmatch(rf"oniris: error: .*{below}.*: Read-only file system.*", line)
    assert "Traceback" not in said.read_text()
    apart = ("runs/", "reports/") if below == "models" else "runs/"  # the report comes before the model
    after = tree(pipeline)
    assert {
        name for name in after | before if after.get(name) != before.get(name) and not name.startswith(apart)
    } == set()


def read_only(pipeline: Path, below: str, stage: str, said: Path) -> None:
    """Run a stage that may change nothing below a folder."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in CHANGES | REMOVALS or (event == "open" and arguments[2] & WRITES)
        path = arguments[0] if changes and not isinstance(arguments[0], int) else ""
        if pipeline / below in (pipeline / os.fsdecode(path)).parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(path))

    sys.addaudithook(refuse)
    run_stage_as_process(pipeline, stage, (), said)


# Object stores.


@pytest.fixture
def faulty(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:  # noqa: F811
    """A store that misbehaves, asked as seldom as can be."""
    proxy = Faulty(s3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 2)
    fsspec.filesystem("s3").clear_instance_cache()
    yield proxy
    fsspec.filesystem("s3").clear_instance_cache()
    proxy.close()


def one_piece(fault: str) -> Fault:
    """What goes wrong, always, with one file of a store."""
    return lambda method, path: fault if "/c/1/" in path else ""


def once(fault: str) -> Fault:
    """What goes wrong the first time with everything."""
    seen = set[tuple[str, str]]()

    def first(method: str, path: str) -> str:
        known = (method, path) in seen
        seen.add((method, path))
        return "" if known else fault

    return first


@pytest.mark.parametrize("fault", ["503", "reset", "half"])
def test_a_store_that_answers_badly_is_one_line_and_then_asked_again(
    fault: str, faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONIRIS_RUNS", str(tmp_path))
    place = Remote(f"s3://oniris/{tmp_path.name}/episodes.zarr")

    def fails(work: Callable[[Remote], Any], doing: str) -> None:
        with pytest.raises(OnirisError, match=f"cannot {doing} {place}: ") as error:
            work(place)
        assert "\n" not in str(error.value)

    if fault != "half":  # no answer to an upload is that long
        faulty.fault = one_piece(fault)
        fails(store_at, "write")
        faulty.fault = lambda method, path: ""
        with pytest.raises(UserError, match=r"is not complete"):
            rows_of(place)
    true = store_at(place)
    assert not list((tmp_path / "upload").iterdir())
    faulty.fault = one_piece(fault)
    fails(rows_of, "read")
    faulty.fault = once(fault)
    assert np.array_equal(rows_of(place), true)  # what fails once is asked for again

    faulty.fault = lambda method, path: ""
    for where in ("oniris_core.common.artefacts.remote.KEEP_BYTES", "oniris_core.data.rows.zarrs.PRELOAD_BYTES"):
        monkeypatch.setattr(where, 0)  # as for one too large to be kept
    rows = rows_of(place)
    faulty.fault = one_piece(fault)
    fails(lambda _: rows[1000:1100], "read")
    faulty.fault = lambda method, path: ""
    assert np.array_equal(rows[1000:1100], true[1000:1100])
