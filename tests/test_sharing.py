"""docs/sharing.md does what it says: its own commands, run one after another with a folder as the remote."""

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT, tree
from tests.project import Project

pytestmark = pytest.mark.pipeline

MADE = ("data/episodes.zarr", "data/latents.zarr", "models", "renders", "reports")


def test_push_clone_pull_and_render_as_the_document_says(tiny_pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    mine = Project(tmp_path / "mine")
    for name in MADE:
        shutil.copytree(tiny_pipeline / name, mine.folder / name)
    mine("dvc", "commit", "--force")  # what `dvc repro` leaves behind, without running the stages once more

    commands = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/sharing.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(commands) == 3
    push, pull, render = ("set -ex\n" + block for block in commands)
    mine("sh", "-c", push)
    files = [p for p in (tmp_path / "shared").rglob("*") if p.is_file()]
    assert len(files) > 20
    output = mine("sh", "-c", pull)
    assert "Data and pipelines are up to date" in output
    theirs = tmp_path / "theirs"
    for name in MADE:
        assert tree(theirs / name, without=".gitignore") == tree(mine.folder / name, without=".gitignore"), name

    mine.folder = theirs
    assert mine.ran(mine("dvc", "repro")) == []
    assert mine.ran(mine("sh", "-c", render)) == ["render"]
    assert tree(theirs / "renders") != tree(tiny_pipeline / "renders")

    # What comes damaged from a remote is reported: one bit of a pulled file.
    file = max((theirs / "data/latents.zarr").rglob("c/*/*/*/*"), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()
    file.write_bytes(bytes(data))
    output = mine("python", "-m", "stages.render", fails=True)
    assert "data/latents.zarr is damaged" in output
    assert "Traceback" not in output
