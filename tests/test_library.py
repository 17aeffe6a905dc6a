"""Oniris as a library: the document's example runs, and the wheel needs no checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import oniris_core
from tests.conftest import ROOT, one_thread
from tests.toys import teach

TEXT = (ROOT / "docs/library.md").read_text()


def test_the_documents_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With rewards as if the model had learned some."""
    section = TEXT.partition("## A complete example")[2].partition("\n## ")[0]
    code = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    ") or not line)
    assert "from stable_baselines3 import PPO" in code
    teach(monkeypatch)
    monkeypatch.chdir(ROOT)
    found = dict[str, object]()
    with one_thread():
        exec(code, found)
    assert found["video"].shape == (1, 8, 64, 64, 3)
    assert found["frames"].shape == (1, 4, 64, 64, 3)
    assert len(found["four"]) == 4
    assert found["observations"].shape == (2, 64, 64, 12)
    assert found["seen"].shape == (1, 24, 8, 8)


def test_the_documents_names_are_the_public_ones() -> None:
    table = TEXT.partition("| name in")[2].partition("\n\n")[0]
    named = set(re.findall(r"^\| (.+?) \|", table, re.MULTILINE)) - {"---"}
    named = {name for cell in named for name in re.findall(r"`(\w+)", cell)}
    assert named | {"__version__"} == set(dir(oniris_core))
    for name in named:
        assert getattr(oniris_core, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        oniris_core.lode  # noqa: B018


STEPS = """
import sys
import oniris_core
assert "numpy" not in sys.modules and oniris_core.__file__.startswith(sys.argv[1]), oniris_core.__file__
from importlib.metadata import version
from pathlib import Path
assert version("oniris") == oniris_core.__version__
import gymnasium
demo = Path(sys.argv[2])
envs = gymnasium.make_vec("oniris_core.environment:Oniris/World-v0", num_envs=1, rewards="none", context_latents=1,
    world=str(demo / "world"), vae=str(demo / "vae"), starts=str(demo / "starts.npz"))
envs.reset(seed=0)
assert envs.step([2])[0].shape == (1, 64, 64, 12)
from oniris_core.play.web.server import PAGE
assert sorted(file.name for file in PAGE.iterdir()) == sorted(file.name for file in Path(sys.argv[3]).iterdir())
assert not [name for name in sys.modules if name == "dvc" or name.startswith("stages")]
print("stepped")
"""


def test_the_wheel_needs_no_checkout(tmp_path: Path) -> None:
    source, target, elsewhere = tmp_path / "source", tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(ROOT / "oniris_core", source / "oniris_core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "stages", source / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run(build, check=True, cwd=elsewhere)
    (wheel,) = tmp_path.glob("oniris-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, cwd=elsewhere)
    assert {path.name for path in target.iterdir()} == {"oniris_core", f"oniris-{oniris_core.__version__}.dist-info"}
    assert (target / "oniris_core/py.typed").is_file()
    modules = {path.relative_to(ROOT) for path in (ROOT / "oniris_core").rglob("*.py")}
    assert modules == {path.relative_to(target) for path in (target / "oniris_core").rglob("*.py")}
    command = [sys.executable, "-c", STEPS, str(target), str(ROOT / "demo"), str(ROOT / "oniris_core/play/web/page")]
    environment = {**os.environ, "PYTHONPATH": str(target)}
    ended = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == "stepped", ended.stderr
