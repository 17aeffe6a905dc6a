"""The program for GPUs, rehearsed on the CPU: the same steps and files, nothing lost when it is cut off or killed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.gpu import __main__ as program
from benchmarks.gpu.results import Results, read_rows
from demo.pack import pack
from oniris_core import vae, world
from oniris_core.training.fit.machine.distributed import Ranks
from oniris_core.training.fit.machine.graphs import Replayed
from tests.project import ROOT

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def begin(out: Path, *options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--size", "tiny", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *map(str, options)], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)  # fmt: skip


@pytest.mark.pipeline
def test_all_steps_and_what_is_taken_home(tiny_pipeline: Path, tmp_path: Path) -> None:
    """With far more minutes than the 0.5 it takes on a quiet machine: it ends when it is done."""
    base, out = tiny_pipeline / "params.yaml", tmp_path / "out"
    options = ("--minutes", 12, "--episodes", tiny_pipeline / "data/episodes.zarr", "--params", base)
    with begin(out, *options) as process:
        said, trouble = process.communicate()
    assert process.returncode == 0, said + trouble
    found = json.loads((out / "kept/results.json").read_bytes())["steps"]
    assert [found[step]["status"] for step in program.STEPS] == ["done"] * 3, said + trouble
    assert {row["kept"] for row in found["correct"]["rows"]} == {True}
    assert sum("gradients" in row["what"] for row in found["correct"]["rows"]) >= 4
    measured = {row["what"]: row["value"] for row in found["fast"]["rows"]}
    assert measured["tiny, eager: model FLOP utilisation"] > 0
    assert measured["clips of 8: attention computed by blocks, against needed, 16 pixels"] > 1
    assert [row["what"] for row in found["learned"]["rows"][:3]] == ["train_vae", "encode", "train"]
    assert f"## learned: done, {found['learned']['used_s']} s" in (out / "results.md").read_text()
    kept = {file.name for file in (out / "kept").iterdir()}
    assert kept == {
        "results.json", "results.md", "metrics.json", "comparison.png", "rollout.gif", "vae.zip", "world.zip"
    }  # fmt: skip
    assert world.load(out / "weights/world").vae_identity == vae.load(out / "weights/vae").identity
    with Image.open(out / "rollout.gif") as film:
        assert film.n_frames > 4
        assert film.width % (3 * 32) == 0
        assert film.height == 3 * 2 * 32


def test_killed_in_the_middle_it_leaves_what_was_known(tiny_params: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with begin(out, "--minutes", 4, "--steps", "correct,fast", "--params", tiny_params / "params.yaml") as process:
        while len(read_rows(out, "correct")) < 4:  # of the last of them the table may not know yet
            assert process.poll() is None
            time.sleep(0.02)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children = [int(pid) for pid in workers.read_text().split()] if workers.exists() else []
        process.send_signal(signal.SIGKILL)
    rows = read_rows(out, "correct")
    assert len(rows) >= 3
    assert (out / "correct.md").read_text().count("\n") >= 2 + 3
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in children):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_a_step_ends_where_its_time_does(tiny_params: Path, tmp_path: Path) -> None:
    tmp_path.joinpath("out").mkdir()
    base, episodes = tiny_params / "params.yaml", Path("no")
    about = program._one("fast", 0.5, tmp_path / "out", "cpu", "tiny", episodes, base)
    assert about["status"] == "cut off: its time was up"
    assert about["used_s"] < 5
    program._write(tmp_path / "out", {"fast": about}, "cpu")
    assert json.loads((tmp_path / "out/results.json").read_bytes())["steps"]["fast"]["rows"] == []


def test_a_folder_named_from_where_one_is_gets_the_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Steps run in the checkout: they wrote into a folder of that name there."""
    commands = list[list[str]]()

    class Step(contextlib.nullcontext["Step"]):
        def __init__(self, command: list[str], **_: Any):
            super().__init__(self)
            commands.append(command)

        def wait(self, _: float) -> int:
            return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program.subprocess, "Popen", Step)
    program._one("fast", 0.5, Path("out"), "cpu", "tiny", Path("episodes.zarr"), Path("params.yaml"))
    places = [
        word for word in commands[0][1:] if word.endswith(("out", ".zarr", ".yaml")) and not word.startswith("--")
    ]
    assert places == [str(tmp_path / name) for name in ("out", "episodes.zarr", "params.yaml")]


def test_the_options_follow_what_was_found_wrong(tmp_path: Path) -> None:
    results = Results(tmp_path, "correct", 1.0)
    assert results.at_most("attention", 1e-3, 1e-2)
    assert program._what_is_right(results, tmp_path) == {}
    assert not results.at_most("compiled against eager", float("nan"), 1e-2)
    options = program._what_is_right(Results(tmp_path, "learned", 1.0), tmp_path)
    assert options == {"train_vae": ["--no-compile"], "train": ["--no-compile"]}
    assert "not compiled" in read_rows(tmp_path, "learned")[0]["value"]


def test_bad_input_is_one_line(tiny_params: Path, tmp_path: Path) -> None:
    with begin(tmp_path / "out", "--params", tiny_params / "params.yaml", "--minutes", "0.1") as process:
        said, trouble = process.communicate()
    assert process.returncode == 2, said + trouble
    assert trouble == "oniris: error: --minutes 0.1 is less than the checks need: give at least 0.25\n"


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"out": None}, "--out is missing"),
        ({"device": "tpu"}, "--device is cuda or cpu, not 'tpu'"),
        ({"size": "huge"}, "--size is gpu64 or tiny, not 'huge'"),
        ({"steps": ["correct", "fats"]}, "--steps: there is no 'fats'"),
        ({"options": ["train.batsch=3"]}, "there is no parameter 'train.batsch'"),
        ({"options": ["train.batch"]}, "give SECTION.KEY=VALUE"),
        ({"episodes": Path("nowhere.zarr")}, "nowhere.zarr is missing"),
    ],
)
def test_what_can_be_known_before_is_refused_before(
    changed: dict[str, Any], complaint: str, tiny_params: Path, tmp_path: Path
) -> None:
    right = {"out": tmp_path / "out", "minutes": 1.0, "device": "cpu", "size": "tiny", "episodes": Path("no"),
             "steps": ["learned"], "options": [], "base": tiny_params / "params.yaml"}  # fmt: skip
    with pytest.raises(program.UserError, match=re.escape(complaint)):
        program.run(**{**right, **changed})
    assert not (tmp_path / "out").exists()


def test_folders_stores_and_cards_that_do_not_fit(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, store = tiny_pipeline / "params.yaml", tiny_pipeline / "data/episodes.zarr"

    def complaint(out: Path = tmp_path / "out", device: str = "cpu", size: str = "tiny", store: Path = store) -> str:
        with pytest.raises(program.UserError) as found:
            program.run(out, 1.0, device, size, store, ["learned"], [], base)
        return str(found.value)

    assert "exists already: name a folder to be made" in complaint(out=tmp_path)
    assert "has frames of 32 x 32, the preset asks for 64 x 64" in complaint(size="gpu64")
    if not torch.cuda.is_available():
        assert "torch sees no CUDA device" in complaint(device="cuda")
    (tmp_path / "half").mkdir()
    assert "is not complete" in complaint(store=tmp_path / "half")
    monkeypatch.setattr("oniris_core.common.devices.pick_device", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: type("Card", (), {"total_memory": 2 * 2**30}))
    preset = program._parameters(base, "gpu64", [])
    with pytest.raises(
        program.UserError, match=r"this card has 2\.0 GiB, 96 clips a step need 6\.0: lower them with --option"
    ):
        program._check_card("cuda", preset)
    program._check_card("cuda", program._parameters(base, "gpu64", ["train.batch=16"]))


def test_weights_in_half_precision_are_half_the_size_and_still_fit_each_other(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    for half in (False, True):
        pack(tiny_pipeline / "models", tmp_path / str(half), half)
    sizes = [(tmp_path / str(half) / "vae/weights.safetensors").stat().st_size for half in (False, True)]
    assert sizes[1] < 0.65 * sizes[0]
    codecs, frames = (
        [vae.load(tmp_path / str(half) / "vae") for half in (False, True)],
        np.zeros((8, 32, 32, 3), np.uint8),
    )
    assert np.abs(codecs[0].encode(frames) - codecs[1].encode(frames)).max() < 0.05
    assert world.load(tmp_path / "True/world").vae_identity == codecs[1].identity != codecs[0].identity


@needs_gpu
def test_a_training_step_never_waits_for_the_card(tiny_pipeline: Path, tmp_path: Path) -> None:
    from oniris_core.data.latents.clips import LatentClips
    from oniris_core.data.latents.store import open_latents
    from oniris_core.data.rows.clips import TRAIN
    from oniris_core.training.world.trainer import WorldTrainer, denoiser_config
    from tests.conftest import train_params

    params = train_params(clip_latents=3, channels=(16,), video_attention=(True,), frame_attention=(False,),
                          head_channels=16, forecast_only_share=0.0)  # fmt: skip
    store = open_latents(tiny_pipeline / "data/latents.zarr")
    clips = LatentClips(store, TRAIN, 3, "a clip", params.forecast_ages[-1])
    trainer = WorldTrainer(params, denoiser_config(params, store), clips, 0, torch.device("cuda"), None, Ranks())

    def passes(batch):
        outcome = trainer.objective(batch)
        outcome.loss.backward()
        return outcome

    replayed = Replayed(passes, trainer.denoiser)
    for step in range(200):
        torch.cuda.set_sync_debug_mode("error" if step > 2 and (step + 1) & step else "default")  # a refit may wait
        outcome = replayed(trainer.batch(step, 0))
        trainer.state.optimizer.step()
        trainer.after_step([outcome.kept])
    torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_what_is_replayed_is_what_would_have_been_launched(tmp_path: Path) -> None:
    from benchmarks.gpu import correct

    assert correct._replayed(Results(tmp_path, "replayed", 60.0), torch.device("cuda"))
