"""The weights in demo/: small, fitting each other, and enough to render a fresh clone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from oniris_core.environment.parts import assemble
from oniris_core.world.store import load_world
from tests.project import ROOT, defaults

DEMO = ROOT / "demo"
yaml = YAML(typ="safe")
SMALL = {
    "collect": {"episodes": 8, "max_frames": 40, "held_out_share": 0.5},
    "render": {
        "episodes": 2, "horizon": 8, "samples": 2, "action_contexts": 1, "dreams": 1, "dream_frames": 8, "probe_steps": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize(("folder", "most"), [(DEMO, 32e6), (DEMO / "control", 4e6)])
def test_the_weights_are_small_and_fit_each_other_and_their_starts(folder: Path, most: float) -> None:
    files = [file for kind in ("vae", "world") for file in (folder / kind).rglob("*") if file.is_file()]
    assert max(file.stat().st_size for file in files) < 16 * 2**20
    assert sum(file.stat().st_size for file in files) < most
    parts = assemble(folder / "world", folder / "vae", folder / "starts.npz")
    assert all(len(start.frames) == 33 for start in parts.starts.starts)


def test_control_is_what_its_preset_says_and_knows_rewards() -> None:
    params, preset = (
        yaml.load((ROOT / path).read_text()) for path in ("demo/control/params.yaml", "presets/control.yaml")
    )
    for section, values in preset.items():
        assert {name: params[section][name] for name in values} == values
    assert load_world(DEMO / "control/world").has_outcomes


@pytest.mark.pipeline
def test_make_demo_renders_without_training(tmp_path: Path) -> None:
    params, changed = tmp_path / "params.yaml", defaults("demo/params.yaml")
    for section, values in SMALL.items():
        changed[section] |= values
    params.write_text(json.dumps(changed))
    command = ["make", "demo", "-o", ".venv/.ready", f"BIN={Path(sys.executable).parent}", f"DEMO=--params {params}"]
    result = subprocess.run([*command, f"DEMO_OUT={tmp_path / 'out'}"], cwd=ROOT, capture_output=True, text=True, check=False,
                            env={**os.environ, "ONIRIS_RUNS": str(tmp_path / "runs")})  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/report/index.html").is_file()
    assert list((tmp_path / "out/renders").glob("rollout_*.mp4"))
