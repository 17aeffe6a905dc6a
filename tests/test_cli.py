"""Wrong input: one clear line, exit code 2, nothing written, no traceback."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import Result

from tests.conftest import APPS, ROOT, Run, tree
from tests.project import defaults, project_files
from tests.test_project import models

STAGES = ("collect", "train_vae", "encode", "train", "render")


def one_error(result: Result, pattern: str, exit_code: int = 2) -> None:
    errors = [line for line in result.output.splitlines() if line.startswith("oniris: error: ")]
    assert result.exit_code == exit_code, result.output
    assert len(errors) == 1, result.output
    assert "Traceback" not in result.output
    assert re.search(pattern, errors[0]), errors[0]


@pytest.mark.parametrize("stage", [*STAGES, "play", "policy"])
def test_help_shows_parameters_with_their_values_and_those_that_few_need_when_asked(
    stage: str, params_only: Path, run: Run
) -> None:
    plain, everything = (run(params_only, stage, option) for option in ("--help", "--help-all"))
    assert plain.exit_code == everything.exit_code == 0
    sections = ("common", "fit", stage) if stage.startswith("train") else ("common", stage)
    advanced = {name for section in sections for name in models()[section].ADVANCED}
    for name in [name for section in sections for name in defaults()[section]]:
        option = f"--{name.replace('_', '-')} "
        assert option in everything.output
        assert (option in plain.output) == (name not in advanced), name
    assert len(set(re.findall(r"^. (--[\w-]+)", plain.output, re.MULTILINE))) <= 25
    assert ("--help-all shows" in plain.output) == ("Advanced: " in everything.output)
    assert "params.yaml:" in plain.output


@pytest.mark.parametrize("stage", [*STAGES, "play", "policy", "export"])
def test_help_and_bad_input_do_not_import_torch(stage: str, params_only: Path) -> None:
    code = (f"import sys; from stages.{stage} import app\n"
            "for arguments in sys.argv[1:]:\n  try: app(arguments.split())\n"
            "  except SystemExit as e: print('ended:', 'torch' in sys.modules, e.code)")  # fmt: skip
    command = [sys.executable, "-c", code, "--help", "--nonsense", "--seed x", "--out /dev/null/x"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=params_only, env=environment, capture_output=True, text=True, check=True)
    told = [line for line in ended.stdout.splitlines() if line.startswith("ended: ")]
    assert told == ["ended: False 0", *["ended: False 2"] * 3], ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("stage", "options", "pattern"),
    [
        ("collect", ["--env-id", "LunarLander"], r"no version; there are: LunarLander-v3"),
        ("collect", ["--env-id", "LunarLandr-v3"], r"unknown environment id.*did you mean 'LunarLander-v3'"),
        ("collect", ["--env-id", "os:Env-v0"], r"would import the code of a module"),
        ("collect", ["--env-id", "Taxi-v9"], r"unknown environment id 'Taxi-v9'; did you mean 'Taxi-v"),
        ("collect", ["--env-id", "CartPole-v1", "--env-kwargs", "{nonsense: 1}"], r"cannot be made: .*nonsense"),
        ("collect", ["--env-kwargs", "[1"], r"not a value YAML can read"),
        ("collect", ["--episods", "3"], r"No such option.*--episodes"),
        ("collect", ["--episodes", "0"], r"collect.episodes = 0 should be greater than or equal to 1"),
        ("collect", ["--episodes", "three"], r"collect.episodes = 'three' should be a valid integer"),
        ("collect", ["--episodes", "2.5"], r"collect.episodes = 2.5 should be a valid integer"),
        ("collect", ["--held-out-share", "1.5"], r"collect.held_out_share = 1.5 should be less than or equal to 1"),
        ("collect", ["--held-out-share", ".nan"], r"collect.held_out_share = nan should be"),
        ("collect", ["--policy-share", "0.9"], r"heuristic_share and policy_share must add up to at most 1, not 1.5"),
        ("collect", ["--size", "64"], r"collect.size = 64 should be a valid tuple"),
        ("collect", ["--device", "tpu"], r"common.device = 'tpu' should be 'auto', 'cpu' or 'cuda'"),
        ("collect", ["--params", "nowhere.yaml"], r"nowhere.yaml is missing"),
        ("train_vae", [], r"data/episodes.zarr is missing: run `dvc repro collect`"),
        ("encode", [], r"models/vae is missing: run `dvc repro train_vae`"),
        ("train", [], r"data/latents.zarr is missing: run `dvc repro encode`"),
        ("render", [], r"models/vae is missing: run `dvc repro train_vae`"),
        ("train_vae", ["--clip-frames", "6"], r"clip_frames = 6 must be a multiple of the time compression 4"),
        ("train_vae", ["--crop", "12"], r"crop = 12 must be a multiple of the space compression 8, or 0"),
        ("train_vae", ["--channels", "8,16,32"], r"one entry per level"),
        ("train_vae", ["--adversarial-weight", "2"], r"adversarial_weight = 2 should be less than or equal to 1"),
        ("train_vae", ["--perceptual-path", "no.st"], r"perceptual_path = no.st does not exist"),
        ("train", ["--channels", "8,12"], r"channels must be multiples of the first of them, not \[8, 12\]"),
        ("render", ["--ema-width", "0.3"], r"render.ema_width = 0.3 should be less than 0.28"),
        ("train", ["--head-channels", "7"], r"head_channels must be even"),
        ("train", ["--forecast-ages", "[1]"], r"forecast_ages must be 1 and at least one more, rising, .*, not \[1\]"),
        (
            "train",
            ["--forecast-ages", "[1, 4, 2]"],
            r"forecast_ages must be 1 and at least one more, .*, not \[1, 4, 2\]",
        ),
        ("train", ["--head-channels", "6"], r"head_channels = 6 must divide the 16 channels"),
        ("train", ["--precision", "half"], r"fit.precision = 'half' should be 'auto', 'float32' or 'bfloat16'"),
        ("render", ["--sigma-max", "0.01"], r"render.sigma_max = 0.01 should be greater than or equal to 0.05"),
    ],
)
def test_bad_options(stage: str, options: list[str], pattern: str, params_only: Path, run: Run) -> None:
    before = tree(params_only, "runs")
    one_error(run(params_only, stage, *options), pattern)
    assert tree(params_only, "runs") == before


@pytest.mark.parametrize(
    ("old", "new", "pattern"),
    [
        ("  episodes: 8\n", "  episods: 8\n", r"unknown parameter collect.episods; did you mean 'episodes'"),
        ("  episodes: 8\n", "", r"collect.episodes is missing \(episodes to play\)"),
        ("  episodes: 8\n", "  episodes: 8\n  episodes: 9\n", r"line 1\d: found duplicate key .episodes"),
        ("  episodes: 8\n", "  episodes: [8\n", r"params.yaml, line \d+: "),
        ("  episodes: 8\n", "  episodes: !!python/object:os.system 8\n", r"params.yaml, line \d+: "),
        ("  episodes: 8\n", "  episodes: '8'\n", r"collect.episodes = '8' should be a valid integer"),
        ("  episodes: 8\n", "  episodes: true\n", r"collect.episodes = True should be a valid integer"),
        ("\ncollect:", "\ncolect:", r"unknown section 'colect'; did you mean 'collect'"),
        ("\ncollect:", "\ncollect: 3\nencode_:", r"unknown section 'encode_'|must hold 'name: value'"),
    ],
)
def test_bad_parameter_files(old: str, new: str, pattern: str, params_only: Path, run: Run) -> None:
    file = params_only / "params.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    before = tree(params_only, "runs")
    one_error(run(params_only, "collect"), pattern)
    assert tree(params_only, "runs") == before


def test_a_parameter_that_is_gone_is_named_with_what_to_do(params_only: Path, run: Run) -> None:
    file = params_only / "params.yaml"
    file.write_text(file.read_text().replace("  solver_steps:", "  autoguidance: 1.6\n  solver_steps:", 1))
    one_error(
        run(params_only, "render"), r"render.autoguidance is gone: generation follows the whole model.*leave it out"
    )


def test_a_parameter_that_both_trainings_share_is_looked_for_in_one_place(params_only: Path, run: Run) -> None:
    file = params_only / "params.yaml"
    before = file.read_text()
    file.write_text(before.replace("\ntrain:\n", "\ntrain:\n  compile: true\n"))
    one_error(run(params_only, "train"), r"train.compile is gone: it is fit.compile now")
    file.write_text(before.replace("\nfit: ", "\nfit_: "))
    one_error(run(params_only, "train"), r"unknown section 'fit_'; did you mean 'fit'")
    file.write_text(before.replace("  compile: false", "  compile: 3", 1))
    one_error(run(params_only, "train"), r"fit.compile = 3 should be a valid boolean")


def test_empty_parameter_file(params_only: Path, run: Run) -> None:
    (params_only / "params.yaml").write_text("")
    one_error(run(params_only, "collect"), "must hold the sections")


def test_numbers_that_dvc_writes_as_strings_are_numbers() -> None:
    from oniris_core.config.reader import build
    from oniris_core.training.world.params import TrainParams

    values = defaults()["fit"] | defaults()["train"]
    assert build(TrainParams, "train", {**values, "lr": "3e-05"}, "x").lr == 3e-05
    assert build(TrainParams, "train", {**values, "lr": 1}, "x").lr == 1.0


@pytest.mark.parametrize("stage", STAGES)
def test_a_place_for_unfinished_work_that_cannot_be_written(stage: str, pipeline: Path, run: Run) -> None:
    shutil.rmtree(pipeline / "runs")
    (pipeline / "runs").write_text("")
    one_error(run(pipeline, stage), rf"cannot write runs/{stage}/\w+: Not a directory; .*ONIRIS_RUNS")


def test_outputs_that_cannot_be_written(params_only: Path, run: Run) -> None:
    one_error(run(params_only, "collect", "--out", params_only / "params.yaml"), "a file is in the way")
    one_error(run(params_only, "collect", "--out", params_only / "params.yaml/x/y"), "cannot write")
    (params_only / "mine").mkdir()
    (params_only / "mine/precious.txt").write_text("x")
    one_error(run(params_only, "collect", "--out", params_only / "mine"), "was not made by Oniris")
    assert (params_only / "mine/precious.txt").read_text() == "x"


class Damage:
    """One way each to spoil an artefact of the tiny pipeline, and what the person must be told."""

    @staticmethod
    def flipped_byte(folder: Path) -> tuple[str, list[str], str]:
        file = folder / "data/episodes.zarr/data/frames/c/0/0/0/0"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        return "train_vae", [], r"data/episodes.zarr is damaged: data/frames/c/0/0/0/0 has changed"

    @staticmethod
    def missing_chunk(folder: Path) -> tuple[str, list[str], str]:
        (folder / "data/latents.zarr/data/latents/c/0/0/0/0").unlink()
        return "train", [], r"data/latents.zarr is damaged: data/latents/c/0/0/0/0 is missing"

    @staticmethod
    def foreign_file(folder: Path) -> tuple[str, list[str], str]:
        (folder / "models/vae/extra.bin").write_bytes(b"x")
        return "encode", [], r"extra.bin does not belong there"

    @staticmethod
    def no_manifest(folder: Path) -> tuple[str, list[str], str]:
        (folder / "data/episodes.zarr/manifest.json").unlink()
        return "train_vae", [], r"not complete \(it has no manifest.json\)"

    @staticmethod
    def broken_manifest(folder: Path) -> tuple[str, list[str], str]:
        (folder / "models/world/manifest.json").write_text("{")
        return "render", [], r"models/world/manifest.json is damaged"

    @staticmethod
    def old_world(folder: Path) -> tuple[str, list[str], str]:
        config = folder / "models/world/config.json"
        about = json.loads(config.read_text())
        del about["format"]
        config.write_text(json.dumps(about))
        sign(folder / "models/world")
        return (
            "render",
            [],
            r"models/world is a world model of format 1, .* reads format 4: train it again with `dvc repro",
        )

    @staticmethod
    def wrong_kind(folder: Path) -> tuple[str, list[str], str]:
        return "train", ["--latent-store", "data/episodes.zarr"], r"holds 'episodes', but 'latents' is needed"

    @staticmethod
    def pickle_as_model(folder: Path) -> tuple[str, list[str], str]:
        (folder / "model.pt").write_bytes(b"\x80\x04N.")
        return "encode", ["--vae", "model.pt"], r"model.pt is a file, but a folder of kind 'vae' is needed"

    @staticmethod
    def incomplete_store(folder: Path) -> tuple[str, list[str], str]:
        store = folder / "data/episodes.zarr"
        about = json.loads((store / "zarr.json").read_text())
        del about["attributes"]["complete"]
        (store / "zarr.json").write_text(json.dumps(about))
        sign(store)
        return "train_vae", [], r"is not complete"

    @staticmethod
    def other_architecture(folder: Path) -> tuple[str, list[str], str]:
        config = folder / "models/vae/config.json"
        about = json.loads(config.read_text())
        about["architecture"]["channels"] = [8, 24]
        config.write_text(json.dumps(about))
        sign(folder / "models/vae")
        return "encode", [], r"belongs to another architecture: 'decoder\.\S+' has shape"

    @staticmethod
    def not_safetensors(folder: Path) -> tuple[str, list[str], str]:
        (folder / "models/vae/weights.safetensors").write_bytes(b"\x80\x04N.")
        sign(folder / "models/vae")
        return "encode", [], r"cannot be read as safetensors"

    @staticmethod
    def other_vae(folder: Path) -> tuple[str, list[str], str]:
        config = folder / "models/vae/config.json"
        config.write_text(config.read_text() + "\n")
        sign(folder / "models/vae")
        return "render", [], r"data/latents.zarr belongs to VAE \w{12}, but models/vae is \w{12}"

    @staticmethod
    def clip_too_long(folder: Path) -> tuple[str, list[str], str]:
        return "train", ["--clip-latents", "900"], r"asks for clips of 900, but the longest of \d+ episodes has \d+"

    @staticmethod
    def frame_clip_too_long(folder: Path) -> tuple[str, list[str], str]:
        return "train_vae", ["--clip-frames", "4000"], r"clip_frames = 4000 .* the longest of \d+ episodes has"

    @staticmethod
    def indivisible(folder: Path) -> tuple[str, list[str], str]:
        options = ["--space-compression", "5,2", "--crop", "0"]
        return "train_vae", options, r"32 x 32 are not divisible by the space compression 10.*30 x 30"

    @staticmethod
    def crop_too_large(folder: Path) -> tuple[str, list[str], str]:
        return (
            "train_vae",
            ["--crop", "40"],
            r"train_vae.crop = 40 is larger than the frames of 32 x 32: choose at most 32",
        )

    @staticmethod
    def unet_too_deep(folder: Path) -> tuple[str, list[str], str]:
        options = ["--channels", "8,8,8,8", "--video-attention", "[false,false,false,true]",
                   "--frame-attention", "[false,false,false,false]"]  # fmt: skip
        return "train", options, r"latents of 4 x 4 cannot be halved 3 times"

    @staticmethod
    def horizon_too_long(folder: Path) -> tuple[str, list[str], str]:
        return "render", ["--horizon", "400"], r"render.horizon = 400 is longer than every held-out episode"

    @staticmethod
    def ragged_horizon(folder: Path) -> tuple[str, list[str], str]:
        return "render", ["--horizon", "6"], r"horizon = 6 must be a multiple of the time compression 4"

    @staticmethod
    def unknown_average(folder: Path) -> tuple[str, list[str], str]:
        return (
            "render",
            ["--ema-width", "0.2"],
            r"ema_width = 0.2 is out of reach of .* missed by \d+%; choose one from 0.0\d+ to 0.1",
        )

    @staticmethod
    def no_cuda(folder: Path) -> tuple[str, list[str], str]:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has CUDA")
        return "encode", ["--device", "cuda"], r"torch sees no CUDA device"


def sign(folder: Path) -> None:
    """Make the manifest fit a folder that was tampered with."""
    from oniris_core.common.artefacts.files import MANIFEST, _describe

    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "files": _describe(folder)}))


@pytest.mark.parametrize("damage", [name for name in vars(Damage) if not name.startswith("_")])
def test_damaged_or_unfit_artefacts(damage: str, pipeline: Path, run: Run) -> None:
    stage, options, pattern = getattr(Damage, damage)(pipeline)
    before = tree(pipeline, "runs")
    one_error(run(pipeline, stage, *options), pattern)
    assert tree(pipeline, "runs") == before


def test_render_says_that_there_are_fewer_episodes_than_it_was_asked_for(pipeline: Path, run: Run) -> None:
    result = run(pipeline, "render", "--episodes", "50", "--action-contexts", "3")
    assert result.exit_code == 0, result.output
    assert "render.episodes asks for 50 held-out episodes; the 1 that are longer than the context" in result.output
    assert json.loads((pipeline / "reports/render/metrics.json").read_text())["episodes"] == 1


@pytest.mark.parametrize(("stage", "out"), [("encode", "data/latents.zarr"), ("train", "models/world")])
def test_a_second_process_on_the_same_output_is_refused(stage: str, out: str, pipeline: Path, run: Run) -> None:
    code = ("import sys\nfrom pathlib import Path\nfrom oniris_core.common.artefacts.runs import workspace\n"
            f"with workspace({stage!r}, Path({out!r})):\n  print('held', flush=True); sys.stdin.read()")  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=pipeline, env=environment, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        one_error(run(pipeline, stage), rf"process {holder.pid} is already writing {out}; wait for it")
        holder.communicate("")
    assert run(pipeline, stage).exit_code == 0  # the lock went with its holder


def test_an_option_that_differs_is_announced_and_recorded(pipeline: Path, run: Run) -> None:
    result = run(pipeline, "train", "--lr", "3e-3", "--steps", "2", "--out", "other", "--report", "report")
    assert result.exit_code == 0, result.output
    assert "note: train.lr = 0.003 (params.yaml has 0.01); `dvc repro` will follow params.yaml" in result.output
    assert json.loads((pipeline / "other/config.json").read_text())["params"]["train"]["lr"] == 0.003


@pytest.mark.parametrize("stage", APPS)
def test_another_python_than_the_projects_is_told_in_a_line(stage: str) -> None:
    """A dvc of the system's runs the first `python` that there is: it ended with a traceback."""
    other = subprocess.run([sys.executable, "-S", "-m", f"stages.{stage}"], cwd=ROOT, capture_output=True, text=True)
    assert other.returncode == 2
    assert re.fullmatch(
        r"oniris: error: \S*python\S* has no typer: use the project's own environment.*\n", other.stderr
    )


def test_every_stage_is_listed() -> None:
    assert (
        set(STAGES) | {"preset", "play", "policy", "export"}
        == set(APPS)
        == {p.stem for p in project_files("stages/[a-z]*.py")}
    )
