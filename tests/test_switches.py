"""Parameters that are true or false are switches on the command line: `--compile`, `--no-compile`."""

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from oniris_core.config.cli import Settings, stage
from oniris_core.data.playing.params import CollectParams
from oniris_core.sampling.params import RenderParams
from oniris_core.training.fit.params import FitParams
from oniris_core.training.vae.params import TrainVaeParams
from oniris_core.training.world.params import TrainParams
from tests.conftest import APPS, Run, run_stage, tree
from tests.project import defaults
from tests.test_cli import one_error

MODELS = {"collect": CollectParams, "train_vae": TrainVaeParams, "train": TrainParams, "render": RenderParams}
SWITCHES = [
    (name, field)
    for name, model in MODELS.items()
    for field, info in model.model_fields.items()
    if info.annotation is bool
]


def settings_of(name: str, folder: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Settings[Any]:
    """What a stage `name` that does nothing would have run with."""
    found: list[Settings[Any]] = []

    def main(settings: Settings[Any], look: Annotated[bool, typer.Option("--look", help="only look")] = False) -> None:
        found.append(settings)

    monkeypatch.setitem(APPS, "pretended", stage(name, MODELS[name])(main))
    result = run_stage(folder, "pretended", *arguments)
    assert result.exit_code == 0, result.output
    return found[0]


def test_there_are_switches() -> None:
    assert {field for _, field in SWITCHES} >= {"import_code", "compile", "tensorboard"}
    assert "compile" in FitParams.model_fields


@pytest.mark.parametrize(("name", "field"), SWITCHES)
def test_a_switch_sets_its_parameter_and_says_so_to_other_processes(
    name: str, field: str, params_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = field.replace("_", "-")
    for said, value in ((f"--{option}", True), (f"--no-{option}", False)):
        settings = settings_of(name, params_only, [said], monkeypatch)
        assert getattr(settings.own, field) is value
        assert said in settings.arguments
        again = settings_of(name, params_only, list(settings.arguments), monkeypatch)
        assert (again.own, again.common) == (settings.own, settings.common)
    unsaid = settings_of(name, params_only, [], monkeypatch)
    assert getattr(unsaid.own, field) is defaults()[MODELS[name].section_of(field, name)][field]
    assert not [argument for argument in unsaid.arguments if option in argument]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--import-code", "true"], r"--import-code is a switch and takes no value \('true'\): say .* or --no-import-code"),
        (["--import-code=false"], r"--import-code is a switch and takes no value \('false'\)"),
        (["--no-import-code", "perhaps"], r"--no-import-code is a switch .* \('perhaps'\)"),
        (["--inspect", "yes"], r"--inspect is a switch and takes no value \('yes'\): say --inspect$"),
        (["--import-code", "--episodes", "0"], r"collect.episodes = 0 should be"),  # the next option is not swallowed
    ],
)  # fmt: skip
def test_a_switch_takes_no_value(arguments: list[str], complaint: str, params_only: Path, run: Run) -> None:
    before = tree(params_only, "runs")
    one_error(run(params_only, "collect", *arguments), complaint)
    assert tree(params_only, "runs") == before


def test_help_shows_how_a_switch_is_turned_off(params_only: Path, run: Run) -> None:
    shown = " ".join(run(params_only, "collect", "--help").output.replace("│", " ").split())
    assert "(params.yaml: False; off: --no-import-code)" in shown
    assert "module:Env" in shown
