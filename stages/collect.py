"""Stage 1, collect: plays an environment, or reads recordings, and writes the episodes to data/episodes.zarr."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

from oniris_core.common.remote import Location
from oniris_core.config.collect import CollectParams
from stages.cli import Settings, place, say, stage


@stage("collect", CollectParams)
def app(
    settings: Settings[CollectParams],
    out: Annotated[Location, place("the episode store to make")] = Path("data/episodes.zarr"),
) -> None:
    """Play episodes of a Gymnasium environment, or read recordings: frames, actions, rewards, flags and states."""
    if settings.own.source != "environment":
        _from_recordings(settings, out)
        return
    import numpy as np

    from oniris_core.common.process import stop_requests
    from oniris_core.common.progress import meter
    from oniris_core.common.remote import refuse_unwritable_at
    from oniris_core.common.runs import workspace
    from oniris_core.data.actions import action_spec
    from oniris_core.data.collection import collect_episodes, episode_file, load_episode
    from oniris_core.data.environments import frame_rate, heuristic_policy, make_env
    from oniris_core.data.episode import Episode
    from oniris_core.data.episodes import write_episodes
    from oniris_core.data.rollouts import held_out

    params, seed = settings.own, settings.common.seed
    env = make_env(params.env_id, params.env_kwargs, params.import_env_module)
    refuse_unwritable_at(out)
    if params.heuristic_share and heuristic_policy(env) is None:
        say(f"note: Gymnasium ships no heuristic for {params.env_id}; its share of episodes is played at random")
    # What does not change the result stays out of the artefact and out of the fingerprint.
    record = {"seed": seed, **params.record()}

    with workspace("collect", out, params=record) as folder, stop_requests() as stop:
        done = len(list(folder.glob("episode_*.npz")))
        with meter("collect: episodes", params.episodes, done) as progress:
            for _ in collect_episodes(params, seed, folder, stop):
                progress.advance()
        files = [episode_file(folder, index) for index in range(params.episodes)]
        lengths = np.array([len(np.load(file)["rewards"]) for file in files])
        attributes = {
            "env_id": params.env_id,
            "env_kwargs": params.env_kwargs,
            "action_spec": action_spec(env.action_space).to_json(),
            "action_meaning": "row i: the action of the step that led to frame i; row 0 of an episode: filler",
            "frame_rate": frame_rate(env, params.frame_skip),
            "params": record,
            "versions": _versions("gymnasium", "numpy", "zarr", "pillow", "box2d", "pygame-ce", "pygame"),
        }
        with meter("collect: writing", params.episodes) as progress:

            def episodes() -> Iterator[Episode]:
                for file in files:
                    stop.raise_if_set()
                    yield load_episode(file)
                    progress.advance()

            write_episodes(out, episodes(), int(lengths.sum()), held_out(params, seed), attributes)
    say(f"{out}: {params.episodes} episodes, {lengths.sum()} frames, "
        f"{lengths.min()} to {lengths.max()} (median {int(np.median(lengths))}) an episode")  # fmt: skip


def _from_recordings(settings: Settings[CollectParams], out: Location) -> None:
    import numpy as np

    from oniris_core.common.files import digest
    from oniris_core.common.process import stop_requests
    from oniris_core.common.progress import meter
    from oniris_core.common.remote import refuse_unwritable_at
    from oniris_core.common.runs import workspace
    from oniris_core.data.collection import load_episode
    from oniris_core.data.episode import Episode
    from oniris_core.data.episodes import write_episodes
    from oniris_core.data.recordings.conversion import convert, finished, held_out_recordings, stored_space
    from oniris_core.data.recordings.sources import agreed_space, file_digests, open_source

    params, seed = settings.own, settings.common.seed
    source = open_source(params)
    refuse_unwritable_at(out)
    names = list(source.files.of)
    held_out = held_out_recordings(len(names), params, seed)
    spec = agreed_space(source, params)
    record = {"seed": seed, **params.record()}

    with stop_requests() as stop:
        digests = dict[str, str]()
        with meter("collect: checking files", len(source.files.all)) as progress:
            for name, found in file_digests(source):
                stop.raise_if_set()
                digests[name] = found
                progress.advance()
        with workspace("collect", out, params=record, files=digests) as folder:
            done = sum(finished(folder, number) is not None for number in range(len(names)))
            with meter("collect: recordings", len(names), done) as progress:
                for _ in convert(source, spec, params, folder, stop):
                    progress.advance()
            files = [finished(folder, number) or [] for number in range(len(names))]
            lengths = np.array([len(np.load(file)["rewards"]) for of_one in files for file in of_one])
            rate = params.recording_frame_rate or source.frame_rate or 30.0
            attributes = {
                "source": params.source,
                "source_identity": digest(digests),
                "source_files": digests,
                "recordings": {name: len(of_one) for name, of_one in zip(names, files, strict=True)},
                "action_spec": stored_space(spec, params).to_json(),
                "action_meaning": "row i: the action of the step that led to frame i; row 0 of an episode: filler",
                "frame_rate": rate / params.frame_skip,
                "params": record,
                "versions": _versions("numpy", "zarr", "pillow", "imageio-ffmpeg", "h5py", "minari", "pyarrow"),
            }
            with meter("collect: writing", len(lengths)) as progress:

                def episodes() -> Iterator[Episode]:
                    for of_one in files:
                        for file in of_one:
                            stop.raise_if_set()
                            yield load_episode(file)
                            progress.advance()

                split = np.repeat(held_out, [len(of_one) for of_one in files]).astype(np.uint8)
                write_episodes(out, episodes(), int(lengths.sum()), split, attributes)
    say(f"{out}: {len(names)} recordings, {len(lengths)} episodes, {lengths.sum()} frames at {rate / params.frame_skip:g} "
        f"a second, {int(held_out.sum())} recordings held out")  # fmt: skip


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    app()
