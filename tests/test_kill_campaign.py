"""The kill campaign, on something quicker than the pipeline: what it counts, that it stops and goes on, whom it kills."""

import importlib
import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
import typer
from typer.testing import CliRunner, Result

from benchmarks import kill_campaign
from benchmarks.kill_campaign import Campaign, Case
from benchmarks.kills.pipelines import STAGES, Pipeline, spans
from benchmarks.kills.processes import aftermath
from benchmarks.kills.programs import Export, Play, Policy, Program
from benchmarks.kills.state import FILE
from benchmarks.kills.subject import Subject
from tests.zygote import linux_only

pytestmark = linux_only


class Toy(Subject):
    """For a while it computes, with a file that it takes away at the end; then it makes one, another if it `forgets`."""

    victims = ("toy",)
    forgets = ""
    script = (
        "import sys, time; from pathlib import Path; again = Path('runs/lock').exists()\n"
        "Path('runs').mkdir(exist_ok=True); Path('runs/lock').touch(); Path('x.partial').touch()\n"
        "while time.process_time() < 0.2: pass\n"
        "Path('made').write_text(sys.argv[1] if again else ''); Path('x.partial').unlink()"
    )

    def prepare(self) -> None:
        super().prepare()
        self.command = [sys.executable, "-S", "-c", self.script, self.forgets]


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    def case(self: Campaign, number: int, _: random.Random) -> Case:
        expected = self._undisturbed(Toy(self.folder / "undisturbed"))
        return Case("toys", Toy(self.folder / f"case_{number}"), expected, ["toy"] * 2)

    monkeypatch.setattr(Campaign, "case", case)
    monkeypatch.setattr("benchmarks.kills.subject.LOOK_S", 0.01)


def campaign(state: Path, *options: str) -> Result:
    app = typer.Typer()
    app.command()(kill_campaign.main)
    return CliRunner().invoke(app, ["--state", str(state), *options])


def counts(result: Result) -> dict[str, int]:
    names, _, values = (re.findall(r"[^|]+", line) for line in result.output.splitlines() if line.startswith("|"))
    return {name.strip(): int(value) for name, value in zip(names[1:], values[1:], strict=True)}


@pytest.mark.parametrize("forgets", ["", "another"])
def test_what_is_counted(forgets: str, toys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "forgets", forgets)
    result = campaign(tmp_path / "state", "--kills", "3")
    assert result.exit_code == (1 if forgets else 0), result.output
    found = counts(result)
    assert found["kills"] == 3
    assert found["cases"] == found["completed"] >= 2
    assert (found["different"] > 0) == bool(forgets)
    assert found["stuck"] == found["orphans"] == found["strays"] == found["broken"] == found["litter"] == 0


def test_it_stops_and_goes_on(toys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun is begun again, what was done counts; and a folder belongs to one seed and one code."""
    state, disturb, calls = tmp_path / "state", kill_campaign.disturb, []

    def stopped(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return disturb(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(kill_campaign, "disturb", stopped)
    first = campaign(state, "--kills", "3")
    assert first.exit_code == 130
    assert "goes on from here" in first.output
    before = json.loads((state / FILE).read_bytes())
    assert before["cases"] == 1
    result = campaign(state, "--kills", "3")
    assert result.exit_code == 0, result.output
    assert counts(result)["kills"] == 3
    assert calls[2][0].folder == calls[1][0].folder  # type: ignore[attr-defined]
    for options, code in ((("--seed", "1"), None), ((), "other")):
        if code:
            monkeypatch.setattr("benchmarks.kills.state.code", lambda code=code: code)
        refused = campaign(state, *options)
        assert refused.exit_code == 2
        assert re.fullmatch(
            r"oniris: error: .* is a campaign of (seed|code) \S+, this would be \S+: name .*\n", refused.output
        )
    (tmp_path / "others").mkdir()
    (tmp_path / "others/file").touch()
    assert "something else than a campaign" in campaign(tmp_path / "others").output


def test_who_is_dvc_who_a_stage_and_who_a_rank(tmp_path: Path) -> None:
    """A tree of processes as dvc has one; whoever is killed, the others end as their parents do."""
    rank = [sys.executable, "-S", "-c", "input()", "stages.train"]
    stage = f"import subprocess; ranks = [subprocess.Popen({rank}) for _ in range(2)]; [rank.wait() for rank in ranks]"
    dvc = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {stage!r}, 'stages.train'])"
    pipeline = Pipeline(tmp_path, 2)
    with psutil.Popen([sys.executable, "-S", "-c", dvc], stdin=subprocess.PIPE) as root:
        while pipeline.victim(root, "rank") is None:
            time.sleep(0.01)
        found = {
            kind: pipeline.victim(root, kind) for kind in ("dvc", "stage", "rank", "stage of train", "rank of train")
        }
        assert found["dvc"] == root.pid
        assert found["stage"] == found["stage of train"] == root.children()[0].pid
        assert found["rank"] == found["rank of train"] in {one.pid for one in root.children()[0].children()}
        assert pipeline.victim(root, "stage of render") is None
        root.stdin.close()
    assert not aftermath(tmp_path).survivors


def test_where_victims_are_in_a_clone_that_runs_one_stage() -> None:
    found = {f"stage of {name}": (10.0 * i + 1, 10.0 * i + 9) for i, name in enumerate(STAGES)}
    found |= {"dvc": (0.0, 51.0), "rank of train": (33.0, 38.0)}
    assert spans(found, None) == {"dvc": (0.0, 51.0), "stage": (1.0, 49.0), "rank": (33.0, 38.0)}
    assert spans(found, "train") == {"dvc": (0.0, 11.0), "stage": (1.0, 9.0), "rank": (3.0, 8.0)}


def test_a_clone_lacks_what_is_to_be_run(tiny_params: Path, tmp_path: Path) -> None:
    like, folder = tmp_path / "like", tmp_path / "clone"
    for path in (
        "data/episodes.zarr",
        "models/vae",
        "models/world",
        "reports/train",
        "renders",
        ".dvc/tmp",
        "runs/train",
    ):
        (like / path).mkdir(parents=True)
    for path in ("data/latents.zarr", "reports/train_vae", "reports/encode", "reports/render"):
        (like / path).mkdir(parents=True)
    shutil.copy(tiny_params / "params.yaml", like)
    shutil.copy(Path(__file__).parent.parent / "dvc.yaml", like)
    (like / "dvc.lock").write_text("stages:\n" + "".join(f"  {name}: {{}}\n" for name in STAGES))
    for name in STAGES:
        entry = like / f".dvc/cache/runs/{name[:2]}/{name}/value"
        entry.parent.mkdir(parents=True)
        entry.write_text(f"cmd: exec python -m stages.{name}\n")
    Pipeline(folder, 2, like, "train").prepare()
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir() or path.name == "value"}
    assert {"data/latents.zarr", "models/vae", "reports/encode"} < left
    assert not {"models/world", "reports/train", "renders", "runs", ".dvc/tmp", ".dvc/cache/runs/tr/train"} & left
    assert ".dvc/cache/runs/re/render/value" in left
    assert "train:" not in (folder / "dvc.lock").read_text().replace("train_vae", "")
    assert "processes: 2" in (folder / "params.yaml").read_text()


@pytest.mark.parametrize("make", [Policy, partial(Export, runtime=Path("ort")), Play], ids=["policy", "export", "play"])
def test_programs_have_the_options_with_which_they_are_called(make: Callable[[Path, Path], Program]) -> None:
    program = make(Path("folder"), Path("like"))
    app = importlib.import_module(f"stages.{program.name}").app
    known = {name for option in typer.main.get_command(app).params for name in option.opts}
    used = {argument.partition("=")[0] for argument in program.arguments() if argument.startswith("--")}
    assert used - known == set()
