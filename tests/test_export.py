"""An exported model: it dreams torch's frames with nothing but numpy and onnxruntime, and equal models are equal bytes."""

import base64
import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oniris_core.common.artefacts.files import open_artefact
from oniris_core.common.errors import OnirisError, UserError
from oniris_core.environment.starts import open_starts
from oniris_core.export import graphs, runtime, schedule
from oniris_core.export.bundle import bundle
from oniris_core.export.description import Description
from oniris_core.export.driver import Dream, noise
from oniris_core.sampling.autoregressive import Sampler
from oniris_core.sampling.schedule import sigma_schedule
from oniris_core.sampling.solver import dpm_solver
from oniris_core.vae.store import load_vae
from oniris_core.world.store import load_world
from tests.conftest import Run, one_thread, run_stage, tree
from tests.exports import ONE_LEVEL, TorchDream, sampler_of, save_small
from tests.project import write_defaults
from tests.test_cli import one_error

pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
pytest.importorskip("onnxscript")

OURS = ("--ema-width", "0.1", "--vae", "vae", "--world", "world", "--starts", "starts.npz", "--out", "out")


@pytest.fixture(scope="module", params=["two levels", "nothing looks back"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_export: Path) -> Path:
    """A folder with a VAE, a world model, starts, and what the stage has exported of them."""
    if request.param == "two levels":
        return small_export
    folder = tmp_path_factory.mktemp("one")
    save_small(folder, ONE_LEVEL, (1, 3))
    write_defaults(folder)
    result = run_stage(folder, "export", *OURS)
    assert result.exit_code == 0, result.output
    return folder


def differences(folder: Path, driver: Dream, latents: int, rows: int) -> tuple[int, float]:
    """Between torch's dream and the driver's: grey levels of the frames, and the latent frames' relative error."""
    found = open_starts(folder / "starts.npz", 9, 2).starts
    starts, seeds = [found[row % len(found)] for row in range(rows)], [3 * 2**32 + row for row in range(rows)]
    ours = TorchDream(folder, sampler_of(folder))
    shown = ours.begin(starts, 4)
    theirs = driver.begin(np.stack([s.frames[:17] for s in starts]), np.stack([s.actions[:17] for s in starts]))
    grey, error = int(np.abs(shown.astype(int) - theirs).max()), 0.0
    rng = np.random.default_rng(0)
    for _ in range(latents):
        actions = np.repeat(rng.integers(0, 4, (rows, 1)), 4, axis=1)
        frames, others = ours.step(actions, seeds), driver.step(actions, seeds)
        x, y = ours.moment.world.clean[:, -1].numpy(), driver.state["state.clean"][:, -1]
        error = max(error, float(np.abs(x - y).max() / np.abs(x).max()))
        grey = max(grey, int(np.abs(frames.astype(int) - others).max()))
    assert frames.std() > 10
    return grey, error


def test_the_driver_dreams_what_torch_dreams(exported: Path) -> None:
    """Exported with two rollouts, run with three, through the window's slots many times over."""
    grey, error = differences(exported, Dream(exported / "out"), latents=50, rows=3)
    assert error < 1e-4
    assert grey <= 1


def test_half_precision_is_seen_by_two_grey_levels_at_most(small_export: Path, tmp_path: Path) -> None:
    shutil.copytree(small_export / "out", tmp_path / "half")
    for file in (tmp_path / "half").glob("*.onnx"):
        file.write_bytes(graphs.halved(file.read_bytes()))
    assert (tmp_path / "half/decode.onnx").stat().st_size < 0.7 * (small_export / "out/decode.onnx").stat().st_size
    grey, error = differences(small_export, Dream(tmp_path / "half"), latents=3, rows=1)
    assert 0 < error < 0.05
    assert grey <= 2


def test_it_dreams_without_torch_and_without_the_project(small_export: Path, tmp_path: Path) -> None:
    shutil.copytree(small_export / "out", tmp_path / "out")
    code = ("import runpy, sys\nfor name in ('torch', 'oniris_core', 'stages'): sys.modules[name] = None\n"
            "runpy.run_path(sys.argv[1], run_name='__main__')")  # fmt: skip
    command = [sys.executable, "-c", code.replace("sys.argv[1]", repr(str(tmp_path / "out/driver.py")))]
    command += ["--frames", "7", "--seed", "5", "--action", "2", "--steps", "2", "--out", str(tmp_path / "dream.npz")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    driver, start = Dream(small_export / "out", steps=2), open_starts(small_export / "starts.npz", 1, 2).starts[0]
    frames = [driver.begin(start.frames[None, :17], start.actions[None, :17])]
    frames += [driver.step(np.full((1, 4), 2), [5]) for _ in range(2)]
    with np.load(tmp_path / "dream.npz") as file:
        assert (file["frames"] == np.concatenate(frames, axis=1)[0]).all()
    assert runpy.run_path(str(tmp_path / "out/driver.py"))["Dream"]  # it is the file that is tested here


def test_equal_models_are_equal_bytes(small_export: Path) -> None:
    from oniris_core.export.parts import Standardising, vae_parts, world_parts

    world, (vae, _) = load_world(small_export / "world"), load_vae(small_export / "vae")
    parts = [*world_parts(world.form), *vae_parts(Standardising(vae, world.mean, world.std), 4, 4)]
    for part in parts:
        if part.name in ("start", "decode"):
            assert graphs.graph(part) == (small_export / f"out/{part.name}.onnx").read_bytes()
    assert {part.name for part in parts} == set(Dream(small_export / "out").parts)


def test_the_description_says_what_its_schema_says(small_export: Path) -> None:
    import onnxruntime

    out = small_export / "out"
    open_artefact(out, "export", made_by="export")
    about = Description.model_validate_json((out / "model.json").read_text())
    assert json.loads((out / "model.schema.json").read_text()) == Description.model_json_schema()
    assert [one.steps for one in about.samplers] == [1, 2]
    assert about.identities.world == open_artefact(small_export / "world", "world", made_by="train").identity
    inputs = {entry.name for entry in onnxruntime.InferenceSession(out / "decode.onnx").get_inputs()}
    assert inputs == {one.name for one in about.decoder} | {"x"}


@pytest.mark.parametrize("steps", [1, 2, 6, 11])
def test_a_samplers_table_is_the_solver(steps: int) -> None:
    def denoise(x: Tensor, sigma: float) -> Tensor:
        return torch.tanh(x) / (1 + sigma)

    sampler = Sampler(steps, 5.0, 0.1, 3.0, 0.07)
    x = torch.randn(100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = dpm_solver(denoise, x, sigma_schedule(steps, 5.0, 0.1, 3.0))
    rows, before = schedule.evaluations(sampler), torch.zeros_like(x)
    assert len(rows) == sampler.steps
    for row in rows:
        denoised = denoise(x, row.sigma)
        x, before = row.a * x + row.b * denoised + row.c * before, denoised
    torch.testing.assert_close(x, wanted, atol=1e-9, rtol=1e-9)


def test_a_solver_that_no_table_describes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def third_order(denoise: Callable[[Tensor, float], Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
        return x + denoise(x, 3.0) + denoise(x, 2.0) + denoise(x, 1.0)

    monkeypatch.setattr(schedule, "dpm_solver", third_order)
    with pytest.raises(ValueError, match="last two"):
        schedule.evaluations(Sampler(3, 5.0, 0.1, 3.0, 0.07))


def test_the_noise_is_gaussian_and_a_function_of_seed_and_number() -> None:
    drawn = np.stack([noise(seed, number, 1001) for seed in (0, 1, 2**32, 2**32 + 1) for number in range(8)])
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.02
    assert abs((drawn**4).mean() - 3) < 0.2
    assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.15
    assert (noise(2**32, 3, 7) == noise(2**32, 3, 1001)[:7]).all()


def test_what_has_no_onnx_form_or_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = nn.Linear(4, 4)
    part = graphs.Part("odd", linear, lambda x: (torch.linalg.eigvals(x),), {"x": torch.ones(2, 4, 4)}, ("y",))
    with pytest.raises(UserError, match=r"odd\.onnx cannot be made of this model: "):
        graphs.graph(part)
    monkeypatch.setattr(graphs, "LARGEST", 10)
    with pytest.raises(UserError, match=r"odd\.onnx would have .* train\.channels is too large"):
        graphs.graph(part)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (["--out", "vae"], r"--out vae exists: remove it or choose another"),
        (["--html", "starts.npz"], r"--html starts\.npz exists"),
        (["--vae", "nothing"], r"nothing is missing"),
        (["--world", "vae"], r"vae holds 'vae', but 'world' is needed"),
        (["--vae", "other"], r"belongs to VAE \w{12}, not to \w{12}: name its own with --vae"),
        (["--runtime", "x.tgz"], r"--runtime is of the page: say --html too"),
        (["--html", "x.html", "--runtime", "x.tgz"], r"--runtime x\.tgz is missing: `npm pack"),
        (["--html", "x.html", "--runtime", "starts.npz"], r"--runtime starts\.npz is no package of npm"),
        (["--html", "x.html", "--runtime", "vae"], r"--runtime vae is not the package onnxruntime-web"),
        (["--html", "x.html"], r"there is no npm to fetch it: install npm \(nodejs\.org\), or name the package"),
        (["--context-latents", "9"], r"starts\.npz: no episode has the 37 frames.*--context-latents"),
        (["--starts", "large.npz"], r"large\.npz has frames of 64 x 64 pixels, the model makes 32 x 32"),
        (["--ema-width", "0.27"], r"0\.27"),
    ],
)
def test_bad_input(
    options: list[str], pattern: str, small_export: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vae", "world"):
        shutil.copytree(small_export / name, tmp_path / name)
    for name in ("starts.npz", "params.yaml"):
        shutil.copy(small_export / name, tmp_path)
    shutil.copy(Path(__file__).parent.parent / "demo/starts.npz", tmp_path / "large.npz")
    if "other" in options:
        from oniris_core.vae.store import save_vae

        save_vae(tmp_path / "other", load_vae(tmp_path / "vae")[0], {"another": True})
    monkeypatch.setenv("PATH", str(tmp_path))
    before = sorted(tmp_path.iterdir())
    one_error(run(tmp_path, "export", *OURS, *options), pattern)
    assert sorted(tmp_path.iterdir()) == before


def test_killed_before_it_has_ended_it_goes_on(
    small_export: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between page and folder, or after both; what is there is never replaced, and taken only if it is the same."""
    for name in ("vae", "world"):
        shutil.copytree(small_export / name, tmp_path / name)
    for name in ("starts.npz", "params.yaml"):
        shutil.copy(small_export / name, tmp_path)
    monkeypatch.setattr("oniris_core.export.store.graph", lambda part: part.name.encode())
    with_page = (*OURS, "--html", "play.html", "--runtime", package(tmp_path / "a.tgz"))
    with monkeypatch.context() as killed, one_thread():
        killed.setattr("oniris_core.common.artefacts.files._exchange", lambda *_: sys.exit(9))
        assert run(tmp_path, "export", *with_page).exit_code == 9
    page = (tmp_path / "play.html").read_bytes()
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("oniris_core.export.store.graph", lambda part: part.name.upper().encode())
    with one_thread():
        one_error(run(tmp_path, "export", *with_page), r"play\.html exists, and is another page: remove it")
        assert not list(tmp_path.glob("out*"))
        monkeypatch.setattr("oniris_core.export.store.graph", lambda part: part.name.encode())
        result = run(tmp_path, "export", *with_page)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "play.html").read_bytes() == page
    whole = tree(tmp_path / "out")
    with one_thread():
        result = run(tmp_path, "export", *with_page)  # as after a kill at the very end
        assert result.exit_code == 0, result.output
        one_error(
            run(tmp_path, "export", *with_page, "--half"),
            r"out exists, and is damaged or of something else: remove it or",
        )
    assert tree(tmp_path / "out") == whole
    (tmp_path / "out/start.onnx").write_bytes(b"another")
    one_error(run(tmp_path, "export", *with_page), r"out exists, and is damaged or of something else")


def test_a_missing_package_is_named(
    small_export: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(small_export / "params.yaml", tmp_path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    one_error(run(tmp_path, "export"), r"needs the package onnxscript: pip install '\.\[export\]'")


def package(path: Path, name: str = "onnxruntime-web") -> Path:
    """A package as npm packs it, with files of the right names."""
    folder = path.with_suffix("") / "package"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": name, "version": "1.2.3"}))
    for files in (runtime._PLAIN, runtime._GPU):
        for file in files:
            (folder / "dist" / file).write_text(f"export default 1;\n//# sourceMappingURL={file}.map\n")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "package")
    return path


def test_the_runtime_is_read_packed_or_unpacked(tmp_path: Path) -> None:
    packed = package(tmp_path / "a.tgz")
    read = runtime.read_runtime(packed)
    assert read == runtime.read_runtime(tmp_path / "a/package")
    assert read.version == "1.2.3"
    assert read.plain.module == b"export default 1;\n\n"
    with pytest.raises(UserError, match="is the package left-pad"):
        runtime.read_runtime(package(tmp_path / "b.tgz", "left-pad"))


def test_npm_is_asked_for_the_pinned_version_and_its_checksum_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = package(tmp_path / "a.tgz")
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    name = f"onnxruntime-web-{runtime.VERSION}.tgz"
    npm.write_text(f'#!/bin/sh\n[ "$2" = onnxruntime-web@{runtime.VERSION} ] || exit 1\ncp {packed} "$5/{name}"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=os.pathsep)
    with pytest.raises(OnirisError, match="SHA-512 is another"):
        runtime.read_runtime(None)
    monkeypatch.setattr(runtime, "SHA512", base64.b64encode(hashlib.sha512(packed.read_bytes()).digest()).decode())
    assert runtime.read_runtime(None).version == "1.2.3"
    npm.write_text("#!/bin/sh\necho 'no network' >&2\nexit 1\n")
    with pytest.raises(OnirisError, match=r"npm could not fetch .*no network"):
        runtime.read_runtime(None)


def test_modules_become_one_script() -> None:
    modules = {
        "a": 'import { two } from "./b.js";\nimport { one } from "./c.js";\nexport const three = one + two;\n',
        "b": 'import { one } from "./c.js";\nexport function two() {}\nexport class Four {}\n', "c": "export const one = 1;\n",
    }  # fmt: skip
    script = bundle(modules, "a")
    assert [line for line in script.splitlines() if line.startswith("const module_")] == [
        f"const module_{name} = (() => {{" for name in "cba"
    ]
    assert "return { two, Four };" in script
    for wrong, said in (("import x from 'y';", "form that is not known"), ('import { x } from "./z.js";', "z.js is missing"),
                        ('import { three } from "./a.js";', "circle")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            bundle({**modules, "c": wrong + "\n"}, "a")
