"""Stores at URLs: the same bytes and the same contract as on this disk. S3 is a server of the test's own."""

import contextlib
import io
import logging
import os
import shutil
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from oniris_core.common.artefacts import remote
from oniris_core.common.artefacts.remote import Remote, location
from oniris_core.common.errors import Interrupted, OnirisError, UserError
from oniris_core.common.process import stop_requests
from oniris_core.data.episodes.store import EpisodeStore, open_episodes
from oniris_core.data.latents.store import open_latents
from tests.conftest import Run, tree


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a server that acts as S3, holding an empty bucket `oniris`."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with contextlib.redirect_stdout(io.StringIO()):
        server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in credentials(address).items():
            patch.setenv(name, value)
        # All such servers of a process are one: what another file's tests have left is there.
        urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset", method="POST")).close()
        fsspec.filesystem("s3").mkdir("oniris")
        yield address
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


def credentials(address: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip


@pytest.fixture(params=["s3", "memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder of its own at a URL of each kind."""
    if request.param == "file":
        yield f"file://{tmp_path}/elsewhere"
        return
    if request.param == "s3":
        request.getfixturevalue("s3")
    yield f"{request.param}://oniris/{tmp_path.name}"
    files, path = remote.storage(Remote(f"{request.param}://oniris/{tmp_path.name}"))
    with contextlib.suppress(FileNotFoundError):
        files.rm(path, recursive=True)


def there(url: str) -> dict[str, bytes]:
    """Every object of a folder, like `tree` of one on this disk."""
    files, path = remote.storage(Remote(url))
    return {name.removeprefix(path).lstrip("/"): files.cat_file(name) for name in files.find(path)}


def put(url: str, local: Path) -> None:
    files, path = remote.storage(Remote(url))
    for name, data in tree(local).items():
        files.pipe_file(f"{path}/{name}", data)


def test_the_pipeline_runs_on_stores_elsewhere(tiny_pipeline: Path, tmp_path: Path, run: Run, url: str) -> None:
    shutil.copy(tiny_pipeline / "params.yaml", tmp_path)
    shutil.copytree(tiny_pipeline / "models", tmp_path / "models")
    episodes, latents = f"{url}/episodes.zarr", f"{url}/latents.zarr"
    if url.startswith("s3"):
        assert run(tmp_path, "collect", "--out", episodes).exit_code == 0
    else:  # to spare time, another store is there already, which is replaced
        put(episodes, tiny_pipeline / "data/episodes.zarr")
        with remote.staged_at(location(episodes), "episodes") as folder:
            shutil.copytree(tiny_pipeline / "data/episodes.zarr", folder, dirs_exist_ok=True)
            (folder / "manifest.json").unlink()
    assert there(episodes) == tree(tiny_pipeline / "data/episodes.zarr")  # the same bytes as on a disk
    result = run(tmp_path, "encode", "--episode-store", episodes, "--out", latents)
    assert result.exit_code == 0, result.output
    assert there(latents) == tree(tiny_pipeline / "data/latents.zarr")
    if url.startswith("s3"):
        result = run(tmp_path, "render", "--episode-store", episodes, "--latent-store", latents)
        assert result.exit_code == 0, result.output
        assert tree(tmp_path / "renders") == tree(tiny_pipeline / "renders")
    assert not list((tmp_path / "runs/upload").iterdir())  # nothing of the upload stays on this disk


@pytest.mark.parametrize("kept", [remote.KEEP_BYTES, 0])
def test_readers_see_what_a_disk_would_show(
    kept: int, tiny_pipeline: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "KEEP_BYTES", kept)
    monkeypatch.setattr("oniris_core.data.rows.zarrs.PRELOAD_BYTES", kept)
    put(f"{url}/episodes.zarr", tiny_pipeline / "data/episodes.zarr")
    put(f"{url}/latents.zarr", tiny_pipeline / "data/latents.zarr")
    here, far = open_episodes(tiny_pipeline / "data/episodes.zarr"), open_episodes(location(f"{url}/episodes.zarr"))
    assert far.identity == here.identity
    assert far.attributes == here.attributes
    np.testing.assert_array_equal(far.frames[3:9], here.frames[3:9])
    np.testing.assert_array_equal(far.actions, here.actions)
    a, b = open_latents(tiny_pipeline / "data/latents.zarr"), open_latents(location(f"{url}/latents.zarr/"))
    np.testing.assert_array_equal(a.latents[:], b.latents[:])


def test_damage_is_reported_and_never_read(tiny_pipeline: Path, url: str) -> None:
    place = Remote(f"{url}/episodes.zarr")
    put(place.url, tiny_pipeline / "data/episodes.zarr")
    files, path = remote.storage(place)
    whole = there(place.url)

    def says(part: str) -> None:
        with pytest.raises(UserError, match=part) as error:
            open_episodes(place)
        assert "\n" not in str(error.value)
        assert place.url in str(error.value)
        for name in touched:
            files.pipe_file(f"{path}/{name}", whole[name])

    touched = ["manifest.json"]
    open_episodes(place)
    for name in ("data/frames/c/0/0/0/0", "zarr.json", "meta/split/c/0"):
        data, touched = bytearray(whole[name]), [name]
        data[len(data) // 2] ^= 1
        files.pipe_file(f"{path}/{name}", bytes(data))
        says(f"{name} has changed")
        files.pipe_file(f"{path}/{name}", whole[name][:-1])
        says(f"{name} has changed")
        files.rm_file(f"{path}/{name}")
        says(f"{name} is missing")
    touched = ["manifest.json"]
    files.pipe_file(f"{path}/manifest.json", b"{")
    says("manifest.json is damaged")
    files.rm_file(f"{path}/manifest.json")
    says("is not complete")
    with pytest.raises(UserError, match="holds 'episodes', but 'latents' is needed"):
        open_latents(place)
    files.pipe_file(f"{path}/stray", b"")
    says("stray does not belong there")
    files.rm(path, recursive=True)
    with pytest.raises(UserError, match=r"is missing: run `python -m stages\.collect"):
        open_episodes(place)


class Killed(BaseException):
    pass


def open_or_none(place: Remote) -> EpisodeStore | None:
    """The store if it is whole, None if it is refused as not complete; anything else is an error."""
    try:
        return open_episodes(place)
    except UserError as error:
        if "is not complete" not in str(error):
            raise
        return None


def test_an_upload_killed_anywhere_is_refused_and_made_again(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer dies before each of its operations in turn: readers find the old store, the new one, or none."""
    place = Remote(f"memory://oniris/{tmp_path.name}/episodes.zarr")
    built = tmp_path / "built"
    files, path = remote.storage(place)
    real: dict[str, Callable[..., Any]] = {name: getattr(files, name) for name in ("pipe_file", "rm_file", "put_file")}
    budget = 0

    def limited(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal budget
            budget -= 1
            if budget < 0:
                raise Killed
            return real[name](*args, **options)

        return call

    old, done = tree(tiny_pipeline / "data/episodes.zarr"), False
    for name in real:
        monkeypatch.setattr(files, name, limited(name))
    monkeypatch.setattr(remote, "storage", lambda _: (files, path))
    seen = set()
    for operations in range(2 * len(old) + 4):
        for name, data in old.items():
            real["pipe_file"](f"{path}/{name}", data)
        shutil.copytree(tiny_pipeline / "data/episodes.zarr", built)
        budget = operations
        try:
            remote._upload(built, place)
            done = True
        except Killed:
            pass
        finally:
            shutil.rmtree(built)
        budget = 10**6
        whole = open_or_none(place) is not None
        seen.add(whole)
        remote.refuse_unwritable_at(place)  # what was left may be replaced
    assert done
    assert seen == {True, False}


def test_ctrl_c_stops_an_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONIRIS_RUNS", str(tmp_path))
    place = Remote(f"memory://oniris/{tmp_path.name}/stopped.zarr")
    files, _ = remote.storage(place)
    monkeypatch.setattr(files, "put_file", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    monkeypatch.setattr(remote, "storage", lambda _: (files, "/" + place.url.partition("://")[2]))
    with stop_requests(), pytest.raises(Interrupted), remote.staged_at(place, "episodes") as folder:
        (folder / "file").write_bytes(b"x")
    with pytest.raises(UserError, match="is not complete"):
        open_episodes(place)


def test_trouble_with_urls_is_one_line(
    tiny_pipeline: Path, params_only: Path, run: Run, s3: str, tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def says(url: str, *parts: str, code: int = 2) -> None:
        for stage, option in (("collect", "--out"), ("encode", "--episode-store"), ("train", "--latent-store")):
            if stage == "encode":
                shutil.copytree(tiny_pipeline / "models", params_only / "models", dirs_exist_ok=True)
            result = run(params_only, stage, option, url)
            assert result.exit_code == code, result.output
            (line,) = [line for line in result.output.splitlines() if "error" in line]
            for part in (url.rstrip("/"), *parts):
                assert part in line, line

    says("nosuch://bucket/episodes.zarr", "is not a URL that can be opened")
    says("s3://oniris", "names no folder")
    says("s3://no-such-bucket/episodes.zarr", "is there such a bucket?")
    fsspec.filesystem("s3").pipe_file("oniris/mine/photo.jpg", b"x")
    result = run(params_only, "collect", "--out", "s3://oniris/mine")
    assert "was not made by Oniris" in result.output
    assert result.exit_code == 2
    assert fsspec.filesystem("s3").cat_file("oniris/mine/photo.jpg") == b"x"

    monkeypatch.setattr(fsspec, "url_to_fs", lambda *_, **__: (_ for _ in ()).throw(ImportError("Install s3fs")))
    says("s3://oniris/episodes.zarr", "the package for s3:// is missing: pip install '.[remote]'")
    monkeypatch.undo()

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in credentials(s3).items():
        if "KEY" not in name:
            monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    says("s3://oniris/episodes.zarr", "no credentials; set AWS_ACCESS_KEY_ID")
    fsspec.filesystem("s3").clear_instance_cache()


def test_a_server_that_is_away_is_one_line(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(OnirisError, match="cannot read s3://oniris/x") as error:
        open_episodes(Remote("s3://oniris/x"))
    assert "\n" not in str(error.value)
    fsspec.filesystem("s3").clear_instance_cache()
