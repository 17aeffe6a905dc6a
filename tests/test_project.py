"""The house: dvc.yaml tells the truth, the lock fits pyproject, presets are complete, README's commands exist."""

import ast
import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ruamel.yaml import YAML

from oniris_core.config.gone import GONE
from oniris_core.config.presets import apply_preset
from oniris_core.config.reader import SECTIONS, load_section, read_yaml
from tests.conftest import APPS, ROOT
from tests.imports import closure
from tests.project import default_text, defaults, project_files

YAML_FILE = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = YAML_FILE["stages"]


def models():
    from oniris_core.config.common import CommonParams
    from oniris_core.data.playing.params import CollectParams
    from oniris_core.encoding.params import EncodeParams
    from oniris_core.play.params import PlayParams
    from oniris_core.policy.params import PolicyParams
    from oniris_core.sampling.params import RenderParams
    from oniris_core.training.fit.params import FitParams
    from oniris_core.training.vae.params import TrainVaeParams
    from oniris_core.training.world.params import TrainParams

    return {
        "common": CommonParams, "collect": CollectParams, "fit": FitParams, "train_vae": TrainVaeParams, "encode": EncodeParams,
        "train": TrainParams, "render": RenderParams, "play": PlayParams, "policy": PolicyParams,
    }  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_what_the_stage_really_imports(stage: str) -> None:
    code = {ROOT / dep for dep in STAGES[stage]["deps"] if dep.startswith(("oniris_core", "stages"))}
    imported = closure(ROOT / f"stages/{stage}.py")
    assert all(dep.exists() for dep in code)
    uncovered = {f for f in imported if not any(f == dep or dep in f.parents for dep in code)}
    unused = {dep for dep in code if not any(f == dep or dep in f.parents for f in imported)}
    assert not uncovered, f"add to dvc.yaml: {sorted(str(p.relative_to(ROOT)) for p in uncovered)}"
    assert not unused, f"remove from dvc.yaml: {sorted(str(p.relative_to(ROOT)) for p in unused)}"
    files = {dep for dep in code if not dep.is_dir()}
    assert files == {ROOT / f"stages/{stage}.py"}, "beside its own file a stage names rooms, not files"
    assert len(code - files) <= 8


IN_ONE_PIECE = ("common", "config")
"""Rooms that everything rests on: all stages rerun for any file of them."""

WIDER = {
    "data/rows/clips.py": {"collect", "encode"},
    "data/episodes/clips.py": {"collect", "encode"},
    "data/episodes/groups.py": {"collect"},
    "data/latents/clips.py": {"encode", "render"},
    "evaluation/fidelity/vae_pictures.py": {"render"},
    "sampling/video.py": {"render"},
    "vae/codec.py": {"train_vae", "encode"},
    "vae/discriminator.py": {"encode", "render"},
    "vae/losses.py": {"encode", "render"},
    "vae/perceptual.py": {"encode", "render"},
    "vae/stepping.py": {"train_vae", "encode"},
    "vae/streaming.py": {"train_vae"},
    "world/loss.py": {"render"},
}
"""Files of other rooms, and the stages that rerun for them though they do not import them: too few for a room of their own."""


def test_rooms_are_cut_where_the_pipeline_is_cut() -> None:
    needless = dict[str, set[str]]()
    for stage in STAGES:
        imported = closure(ROOT / f"stages/{stage}.py")
        for dep in STAGES[stage]["deps"]:
            for file in (ROOT / dep).glob("**/*.py") if dep.startswith("oniris_core") else ():
                name = file.relative_to(ROOT / "oniris_core").as_posix()
                if file not in imported and file.name != "__init__.py" and name.split("/")[0] not in IN_ONE_PIECE:
                    needless.setdefault(name, set()).add(stage)
    assert needless == WIDER


def test_rooms_are_small_and_say_what_they_are() -> None:
    files = project_files("oniris_core/**/*.py")
    for room in {file.parent for file in files}:
        assert len([file for file in files if file.parent == room and file.name != "__init__.py"]) <= 12, room
        said = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
        assert 3 <= len(said.splitlines()) <= 5, f"{room}: what lives there, and what may be asked of it?"
    for file in files + project_files("stages/*.py"):
        assert len(file.read_text().splitlines()) <= 300, file


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_itself_and_follows_its_own_parameters(stage: str) -> None:
    assert STAGES[stage]["cmd"] == f"exec python -m stages.{stage}"
    model = models()[stage]
    shared = [f"{section}.{name}" for section, part in model.SHARED.items()
              for name in sorted(set(part.model_fields) - part.OPERATIONAL)]  # fmt: skip
    assert STAGES[stage]["params"] == ["common", stage, *shared]
    assert STAGES[stage]["desc"]


def test_what_must_not_rerun_what() -> None:
    def watches(stage: str, file: str) -> bool:
        return any(file == dep or file.startswith(dep + "/") for dep in STAGES[stage]["deps"])

    assert [s for s in STAGES if watches(s, "oniris_core/sampling/solver.py")] == ["render"]
    assert [s for s in STAGES if watches(s, "oniris_core/world/unet.py")] == ["train", "render"]
    assert [s for s in STAGES if watches(s, "oniris_core/vae/losses.py")] == ["train_vae", "encode", "render"]


def test_importing_a_package_imports_nothing_else() -> None:
    """So that `--help` is fast and `tests/imports.py` may take a package for nothing."""
    standard = {"collections.abc", "pathlib", "typing"}
    for file in project_files("oniris_core/**/__init__.py"):
        # Gymnasium knows an environment once something has registered it, and has no other way of finding it.
        allowed = standard | ({"gymnasium"} if file.parent.name == "environment" else set())
        for node in ast.parse(file.read_text()).body:
            assert isinstance(node, ast.Assign | ast.Expr | ast.FunctionDef | ast.ImportFrom | ast.If), file
            assert not isinstance(node, ast.Assign) or ast.literal_eval(node.value), file
            assert not isinstance(node, ast.ImportFrom) or node.module in allowed, file
            assert not isinstance(node, ast.If) or ast.unparse(node.test) == "TYPE_CHECKING", file


def test_params_file_holds_every_parameter_and_a_comment_for_units() -> None:
    content = defaults()
    assert tuple(content) == SECTIONS
    text = (ROOT / "params.yaml").read_text()
    for section, model in models().items():
        load_section(model, section, content, ROOT / "params.yaml", {})
        for name, field in model.model_fields.items():
            assert field.description, f"{section}.{name} says nothing of itself"
        own = {name for name in model.model_fields if model.section_of(name, section) == section}
        assert set(content[section]) == own
        assert own >= model.ADVANCED
        (lines,) = re.findall(rf"^{section}:.*\n((?:  .*\n)+)", text, re.MULTILINE)
        commented = set(re.findall(r"^  (\w+): .*#", lines, re.MULTILINE))  # whoever works here may drop one
        assert set(re.findall(r"^  (\w+): .*# \+ ", lines, re.MULTILINE)) == model.ADVANCED & commented


def test_there_are_few_parameters_and_none_that_is_gone() -> None:
    content = defaults()
    assert sum(map(len, content.values())) <= 95
    assert not [(section, name) for section, name in GONE if name in content[section]]


def test_presets_set_the_same_parameters_and_are_valid(tmp_path: Path) -> None:
    presets = {path.stem: read_yaml(path) for path in project_files("presets/*.yaml")}
    keys = {name: {(s, k) for s, v in sections.items() for k in v} for name, sections in presets.items()}
    assert set(keys) == {"control", "cpu", "csgo", "gpu", "gpu64", "tiny"}
    assert all(of_one == keys["cpu"] for of_one in keys.values())
    file, before = tmp_path / "params.yaml", default_text("params.yaml")
    file.write_text(before)
    # That params.yaml as committed is the preset cpu, .ci/run looks at: whoever works here may have committed another.
    assert apply_preset("cpu", ROOT / "presets", file) == []
    for name in ("gpu", "control", "csgo", "tiny", "cpu"):
        assert apply_preset(name, ROOT / "presets", file)
        content = read_yaml(file)
        for section, model in models().items():
            load_section(model, section, content, file, {})
        assert file.read_text().count("#") == before.count("#")
    assert file.read_text() == before


def test_the_gpu_preset_is_the_headline_setting() -> None:
    from oniris_core.vae.model import VaeConfig
    from oniris_core.world.denoiser import Denoiser, DenoiserConfig
    from oniris_core.world.unet import UNetConfig

    gpu = read_yaml(ROOT / "presets/gpu.yaml")
    v, t = gpu["train_vae"], gpu["train"]
    vae = VaeConfig(
        tuple(v["time_compression"]),
        tuple(v["space_compression"]),
        tuple(v["channels"]),
        v["blocks"],
        3,
        v["latent_channels"],
    )
    assert gpu["collect"]["size"] == [256, 256]
    assert (vae.group, vae.space, vae.latent_channels, vae.compression) == (4, 4, 8, 24)
    assert t["channels"] == [16, 32, 64, 128]
    assert t["clip_latents"] * vae.group == 32
    unet = UNetConfig(16, (1, 2, 4, 8), t["blocks"], tuple(t["video_attention"]),
                      tuple(t["frame_attention"]), t["head_channels"], 64)  # fmt: skip
    config = DenoiserConfig(unet, 8, 64, 64, 16, 0.3, 64, (1, 2))
    parameters = sum(p.numel() for p in Denoiser(config).unet.parameters())
    assert 7e6 < parameters < 9e6


def test_the_lock_fits_the_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(re.findall(r"^([\w.\-]+)==(\S+)(?: ;.*)?$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), line
    assert not [
        name for name in pinned if name.startswith("nvidia") and name != "nvidia-ml-py"
    ]  # torch itself brings its CUDA where it has one


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_every_python_has_a_box2d(python: str) -> None:
    """Box2D has no wheel for Python 3.14, and no source: `make` failed there."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    names = [found.name for found in pinned if not found.marker or found.marker.evaluate({"python_version": python})]
    assert [name for name in names if "box2d" in name.lower()] == ["ufal.pybox2d" if python == "3.14" else "Box2D"]


def test_what_is_pinned_runs_on_the_first_python_that_is_promised() -> None:
    """Not only on a later 3.11: Debian 12 has 3.11.2."""
    pins = re.findall(r"^([\w.\-]+)==(\S+)(?: ;.*)?$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    here = {name: distribution(name) for name, version in pins if _installed(name) == version}
    assert len(here) > 100
    # Of another class where somebody has imported the package of this name: its metadata raise for a name that is not there.
    wants = {name: found.metadata.get("Requires-Python") or "" for name, found in here.items()}
    assert not {name: python for name, python in wants.items() if not SpecifierSet(python).contains("3.11.0")}


def _installed(name: str) -> str | None:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


def test_readme_names_commands_and_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"\bmake ([a-z]+)", text):
        assert target in targets
    for name in re.findall(r"python -m stages\.(\w+)", text):
        assert name in APPS
    for key in re.findall(r"-S ([\w.]+)=", text + (ROOT / "docs/recipe.md").read_text()):
        section, _, name = key.partition(".")
        assert name in defaults()[section]
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), link
    for picture in re.findall(r'src="([^"]+)"', text):
        assert (ROOT / picture).exists(), picture


TEXTS = ("*.md", "*.toml", "*.yaml", "Makefile", "benchmarks/**/*.md", "benchmarks/**/*.py", "demo/*.md", "docs/*.md",
         "oniris_core/**/*.py", "presets/*.yaml", "stages/*.py", "tests/*.py")  # fmt: skip
DESIGN = ROOT / "docs/design.md"


def test_documents_that_are_cited_exist() -> None:
    """By anybody: docstrings, comments, messages and other documents. Names in capitals are of documents too."""
    sections = set(re.findall(r"^## (\d+)\. ", DESIGN.read_text(), re.MULTILINE))
    found = set[str]()
    for file in (file for pattern in TEXTS for file in project_files(pattern)):
        text = file.read_text()
        for name in re.findall(r"(?:docs/)[\w-]+\.md|\b[A-Z]{4,}\.md", text):
            assert (ROOT / name).exists() or (file.parent / name).exists(), f"{file} cites {name}"
            found.add(name)
        for numbers in re.findall(r"docs/design\.md, sections? (\d+(?: and \d+)*)", text):
            assert set(numbers.split(" and ")) <= sections, f"{file} cites section {numbers} of docs/design.md"
        if file.suffix == ".md":
            for link in re.findall(r"\]\(([^)#:]+)\)", text):
                assert (file.parent / link).exists(), f"{file} links to {link}"
    assert {"docs/design.md", "docs/recordings.md", "README.md"} <= found


def test_the_design_names_files_functions_and_parameters_that_exist() -> None:
    text = DESIGN.read_text()
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert len(named) > 40
    inner = [file.relative_to(ROOT).as_posix() for file in project_files("oniris_core/**/*.py")]
    for name in named:
        assert (ROOT / name).exists() or any(f"/{file}".endswith(f"/{name}") for file in inner), name
    for section, key in re.findall(r"`(collect|train_vae|encode|train|render)\.(\w+)`", text):
        assert key in defaults()[section], f"{section}.{key}"
    code = {file: ast.parse(file.read_text()) for file in project_files("tests/*.py")}
    tests = {node.name for tree in code.values() for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert set(re.findall(r"`(test_\w+)`", text)) <= tests


def test_a_frames_journey_passes_functions_that_exist() -> None:
    """Each is defined in the file that the table names beside it."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \| `([\w/]+\.py)` \|", DESIGN.read_text(), re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) > 20
    for number, names, file in rows:
        body = ast.parse((ROOT / "oniris_core" / file).read_text()).body
        known = {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for name in re.findall(r"`([\w.]+)`", names):
            outer, _, method = name.partition(".")
            assert outer in known, f"row {number}: there is no {name} in {file}"
            methods = {node.name for node in known[outer].body if isinstance(node, ast.FunctionDef)}
            assert not method or method in methods, f"row {number}: there is no {name} in {file}"
