"""The whole pipeline as its users run it: `dvc repro` in a clone, then again, then an experiment."""

import csv
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from tests.project import Project

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("clone"))


def test_repro_then_nothing_to_do_then_an_experiment(project: Project) -> None:
    # `make repro` without its set-up, which is what runs this test.
    (project.folder / ".venv").symlink_to(sys.prefix)
    output = project("make", "repro", "-o", ".venv/.ready")
    assert project.ran(output) == ["collect", "train_vae", "encode", "train", "render"]
    assert output.splitlines()[-1].startswith("Done: open reports/render/index.html")

    videos = list((project.folder / "renders").glob("rollout_*.mp4"))
    assert len(videos) == 1
    frames = iio.imread(videos[0])
    assert frames.shape[0] == (2 + 2) * 4  # context and horizon, in frames
    assert frames.std() > 1
    sheet = iio.imread(project.folder / "renders/contact_sheet.png")
    assert sheet.ndim == 3
    metrics = json.loads((project.folder / "reports/render/metrics.json").read_text())
    assert {"rollout/psnr@4", "copy_last/psnr@8", "vae/psnr@8"} <= set(metrics)
    assert not list(project.folder.glob("runs/*/*/step_*"))

    assert project.ran(project("dvc", "repro")) == []
    assert "up to date" in project("dvc", "status")

    output = project("dvc", "exp", "run", "-S", "train.lr=0.00003", "--name", "slow")
    assert project.ran(output) == ["train", "render"]
    shown = {row["Experiment"]: row for row in csv.DictReader(io.StringIO(project("dvc", "exp", "show", "--csv")))}
    assert float(shown["repro"]["train.lr"]) == 0.01
    assert float(shown["slow"]["train.lr"]) == 0.00003
    assert "train_vae" in project("dvc", "dag")
    assert "error@0.3" in project("dvc", "metrics", "diff", "repro")
    assert "index.html" in project("dvc", "plots", "diff", "repro")
    shutil.rmtree(project.folder / "dvc_plots")
    for name in ("repro", "slow"):
        assert float(shown[name]["rollout/psnr@4"]) > 0
        assert float(shown[name]["error@0.3"]) > 0
    changed = project("git", "status", "--porcelain").split()
    assert changed == ["M", "params.yaml", "??", "dvc.lock"]  # what stages make is DVC's, not git's

    output = project("dvc", "exp", "run", "--temp", "-S", "render.solver_steps=3")
    assert project.ran(output) == ["render"]  # the rest comes from the cache
    assert "error@0.3" in project("dvc", "metrics", "show")


def test_editing_a_part_reruns_what_uses_it(project: Project) -> None:
    def would_run(file: str) -> list[str]:
        path = project.folder / file
        before = path.read_bytes()
        path.write_bytes(before + b"\n# edited\n")
        status = json.loads(project("dvc", "status", "--json"))
        path.write_bytes(before)
        return sorted(name for name, why in status.items() if file.split("/")[1] in json.dumps(why))

    assert would_run("oniris_core/sampling/solver.py") == ["render"]
    assert would_run("oniris_core/world/unet.py") == ["render", "train"]


def test_bad_input_through_dvc_is_one_line(project: Project) -> None:
    file = project.folder / "params.yaml"
    before = file.read_bytes()
    file.write_bytes(before.replace(b"solver_steps: 2", b"solver_steps: 0"))
    output = project("dvc", "repro", fails=True)
    file.write_bytes(before)
    assert "oniris: error: params.yaml: render.solver_steps = 0 should be greater than or equal to 1" in output
    assert "Traceback" not in output


def test_an_archive_without_git_works_and_so_does_git_when_it_comes(tmp_path: Path) -> None:
    project = Project(tmp_path, git=False)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    # What stages do, the other tests show.
    made = {"cmd": "mkdir -p models && touch models/made", "outs": ["models/made"]}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {"touch": made}}))
    output = project("make", "repro", "-o", ".venv/.ready")
    assert (tmp_path / "models/made").exists()
    assert "note: not kept as experiment 'repro'; experiments need a commit in git" in output
    assert "ERROR" not in output
    project("git", "init", "-q")
    project("git", "add", "-A")
    project("git", "commit", "-qm", "begun with an archive")
    output = project("make", "repro", "-o", ".venv/.ready")
    assert "Stage 'touch' didn't change" in output
    assert "note:" not in output
    assert project("git", "for-each-ref", "refs/exps").count("/repro\n") == 1


def test_the_videos_show_the_truth(tiny_pipeline: Path) -> None:
    """The left panel of the decoded video is the recorded episode, frame for frame."""
    from oniris_core.data.episodes.groups import group_rows
    from oniris_core.data.episodes.store import open_episodes
    from oniris_core.evaluation.report.pictures import side_by_side_layout

    store = open_episodes(tiny_pipeline / "data/episodes.zarr")
    (video,) = (tiny_pipeline / "renders").glob("rollout_*.mp4")
    seed = int(video.stem.split("_")[1])
    start, _ = store.bounds(int(np.flatnonzero(store.episode_seed == seed)[0]))
    truth = store.frames[start:][group_rows(0, 4, 4)]
    rows, columns = side_by_side_layout((32, 32), upscale=8).area(0)
    panel = iio.imread(video)[:, rows, columns]
    shown = panel.reshape(len(panel), 32, 8, 32, 8, 3).mean((2, 4))
    assert np.abs(shown - truth).mean() < 3
    assert np.abs(shown[1:] - truth[:-1]).mean() > np.abs(shown[1:] - truth[1:]).mean()


def processes_in(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended, or is not ours to look at
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_killing_dvc_leaves_no_stage_behind_and_the_rerun_goes_on(tiny_pipeline: Path, tmp_path: Path) -> None:
    project = Project(tmp_path)
    params = tmp_path / "params.yaml"
    text = params.read_text()
    assert text.count("  steps: 6 ") == 2 or text.count("  steps: 6\n") == 2
    params.write_text(text.replace("  steps: 6", "  steps: 2000", 1))
    shutil.copytree(tiny_pipeline / "data/episodes.zarr", tmp_path / "data/episodes.zarr")
    command = ["dvc", "repro", "--single-item", "train_vae"]
    with subprocess.Popen(command, cwd=tmp_path, env=project.environment(), stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as dvc:  # fmt: skip
        while not list(tmp_path.glob("runs/train_vae/*/*/step_*.json")):
            assert dvc.poll() is None
            time.sleep(0.05)
        assert any("stages.train_vae" in line for line in processes_in(tmp_path))
        dvc.kill()
    patience = time.monotonic() + 60  # two seconds of a quiet machine; the stage finishes its step and a checkpoint
    while processes_in(tmp_path) and time.monotonic() < patience:
        time.sleep(0.1)
    assert processes_in(tmp_path) == []
    assert not (tmp_path / "models/vae").exists()
    # The rerun takes up the checkpoint; that the bytes are those of an undisturbed run is tested elsewhere.
    with subprocess.Popen(command, cwd=tmp_path, env=project.environment(), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as dvc:  # fmt: skip
        assert dvc.stdout is not None
        said = []
        for line in dvc.stdout:
            said.append(line)
            if "going on from step" in line:
                break
        dvc.kill()
    assert "going on from step" in said[-1], said
