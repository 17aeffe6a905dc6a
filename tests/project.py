"""The project as the tests take it: its code as it stands, without what somebody has made or set in this checkout.

Results, changed parameters, notes, experiments, remotes and variables are the user's; no test may see them. What a test
needs of the project's parameters it asks here, and what runs `dvc` or `git` does so in a `Project`.
"""

import configparser
import copy
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from oniris_core.config.presets import apply_preset
from oniris_core.config.reader import read_yaml

ROOT = Path(__file__).resolve().parent.parent

PARTS = (".dvc/.gitignore", ".dvcignore", ".gitignore", "Makefile", "data/.gitignore", "dvc.yaml", "oniris_core", "presets",
         "requirements.lock", "stages")  # fmt: skip
"""What the pipeline needs, but for what a person changes in use: params.yaml and .dvc/config."""

USERS_PREFIXES = ("AWS_", "DVC_", "DVCLIVE_", "GIT_", "ONIRIS_", "TORCHELASTIC_")
USERS_VARIABLES = {
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",  # of a launcher
    "MAKEFLAGS", "MFLAGS", "MAKELEVEL",  # of the `make test` that runs this
    "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "PYTHONWARNINGS", "MPLBACKEND",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY",
}  # fmt: skip


def forget_the_users_variables() -> None:
    """Remove from the environment what would change what stages, dvc, git and make do or say."""
    for name in [name for name in os.environ if name.upper() in USERS_VARIABLES or name.startswith(USERS_PREFIXES)]:
        del os.environ[name]


def ask_git(*arguments: str) -> str | None:
    """What git says of this checkout; None where there is no git, no repository or no such thing in it."""
    try:
        ended = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return None if ended.returncode else ended.stdout


def project_files(pattern: str) -> list[Path]:
    """The project's own files: those git knows, so that a file somebody has put beside them is none; else all there are."""
    known = ask_git("ls-files", "--", f":(glob){pattern}")
    return sorted(path for path in ROOT.glob(pattern) if not known or str(path.relative_to(ROOT)) in known.splitlines())


@functools.cache
def default_text(name: str) -> str:
    """A parameter file: keys and comments as they stand, but the values that are committed, and not those somebody has set.

    A key that is not committed yet has the value it stands with, as all have where there is no git.
    """
    committed = ask_git("show", f"HEAD:./{name}")
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "params.yaml"
        shutil.copyfile(ROOT / name, file)
        if committed is not None:
            file.with_name("head.yaml").write_text(committed)
            stands = read_yaml(file)
            values = {
                section: {key: value for key, value in content.items() if key in stands.get(section, {})}
                for section, content in read_yaml(file.with_name("head.yaml")).items()
            }
            file.with_name("committed.yaml").write_text(json.dumps(values))
            apply_preset("committed", file.parent, file)
        if name == "params.yaml":  # which follows this preset, as .ci/run sees to
            apply_preset("cpu", ROOT / "presets", file)
        return file.read_text()


def write_defaults(folder: Path) -> None:
    """Write the default parameters to `folder`."""
    (folder / "params.yaml").write_text(default_text("params.yaml"))


@functools.cache
def _sections(name: str) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "params.yaml"
        file.write_text(default_text(name))
        return read_yaml(file)


def defaults(name: str = "params.yaml") -> dict[str, dict[str, Any]]:
    """The sections of a parameter file of the project with their default values."""
    return copy.deepcopy(_sections(name))


def dvc_config() -> configparser.ConfigParser:
    """What the project sets in .dvc/config, without the remotes, caches and the like of whoever works here."""
    found = configparser.ConfigParser()
    found.read(ROOT / ".dvc/config")
    core = {key: found["core"][key] for key in ("analytics", "check_update", "autostage")}
    found.clear()
    found["core"] = core
    return found


class Project:
    """A fresh clone with the tiny preset, and a way to run commands in it."""

    def __init__(self, folder: Path, git: bool = True):
        self.folder = folder
        for part in PARTS:
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / part, folder / part)
        with (folder / ".dvc/config").open("w") as file:
            dvc_config().write(file)
        write_defaults(folder)
        if git:
            self("git", "init", "-q")
            self("git", "add", "-A")
            self("git", "commit", "-qm", "clone")
        self("python", "-m", "stages.preset", "tiny")

    def environment(self) -> dict[str, str]:
        identity = {
            f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        nobodys = str(self.folder / ".dvc/tmp/nobody")
        environment = {
            **os.environ,
            **identity,
            "PATH": path,
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "DVC_GLOBAL_CONFIG_DIR": nobodys,
            "DVC_SYSTEM_CONFIG_DIR": nobodys,
            "DVC_NO_ANALYTICS": "1",
            "SHELL": "/bin/sh",  # what DVC falls back to; some such shells stay beside the command they start
        }
        environment.pop("ONIRIS_RUNS", None)
        return environment

    def __call__(self, *command: str, fails: bool = False) -> str:
        ended = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )
        output = ended.stdout + ended.stderr
        assert (ended.returncode != 0) == fails, output
        return output

    def ran(self, output: str) -> list[str]:
        stages = ("collect", "train_vae", "encode", "train", "render")
        return [stage for stage in stages if f"Running stage '{stage}'" in output]
