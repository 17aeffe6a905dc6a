"""Stage 1, collect: plays an environment, or reads recordings, and writes the episodes to data/episodes.zarr."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from oniris_core.common.artefacts.remote import Location
from oniris_core.config.cli import Settings, place, say, stage
from oniris_core.data.playing.params import CollectParams

SHORT_FRAMES = 48
"""A note says how many episodes have fewer frames: the default's longest clip of 12 latent frames is as long."""


@stage("collect", CollectParams)
def app(
    settings: Settings[CollectParams],
    out: Annotated[Location, place("the episode store to make")] = Path("data/episodes.zarr"),
    inspect: Annotated[
        bool, typer.Option("--inspect", help="only say what the recordings are, and draw a sheet")
    ] = False,
    sheet: Annotated[Path, typer.Option(help="the sheet that --inspect draws")] = Path("reports/recordings.png"),
) -> None:
    """Play episodes of a Gymnasium environment, or read recordings: frames, actions, rewards, flags and states."""
    if inspect:
        _inspect(settings.own, sheet)
        return
    if settings.own.source != "environment":
        _from_recordings(settings, out)
        return
    import os

    import numpy as np

    from oniris_core.collection.collection import collect_episodes, episode_file, load_episode, read_facts
    from oniris_core.common.artefacts.remote import refuse_unwritable_at
    from oniris_core.common.artefacts.runs import refuse_removed, workspace
    from oniris_core.common.memory import refuse_frames
    from oniris_core.common.process import stop_requests
    from oniris_core.common.progress import meter
    from oniris_core.data.episodes.episode import Episode
    from oniris_core.data.episodes.store import write_episodes
    from oniris_core.data.playing.environments import family_of, frame_rate, imported_code, make_env
    from oniris_core.data.playing.flat_actions import describe
    from oniris_core.data.playing.heuristics import heuristic_for
    from oniris_core.data.playing.policies import load_policy, policy_sha256
    from oniris_core.data.playing.rollouts import episode_seed, held_out, longest
    from oniris_core.data.playing.watchers import WatcherMaker
    from oniris_core.data.rows.actions import action_spec

    params, seed = settings.own, settings.common.seed
    env = make_env(params.env_id, params.env_kwargs, params.import_code, params.wrapper_calls, params.import_code)
    refuse_unwritable_at(out)
    at_once = min(params.workers or os.cpu_count() or 1, params.episodes)
    if not params.dask_address:  # the memory there is not ours to know
        refuse_frames(longest(env, params), params.height, params.width, at_once)
    heuristic = heuristic_for(env) if params.heuristic_share else None
    if params.heuristic_share and heuristic is None:
        say(f"note: there is no heuristic for {params.env_id}; its share of episodes is played at random")
    longest_held = params.frames_per_action[1]
    held = heuristic.holds(longest_held, params.frame_skip) if heuristic else longest_held
    if heuristic and (held < longest_held or heuristic.most_noise < params.random_actions):
        say(f"note: the heuristic of {params.env_id} would fail with what is set: it holds an action for at most "
            f"{held} frames and is mixed with at most "
            f"{min(heuristic.most_noise, params.random_actions):.0%} of random actions")  # fmt: skip
    # What does not change the result stays out of the artefact and out of the fingerprint.
    record = {"seed": seed, **params.as_record()}
    code = imported_code(params.env_id, params.wrapper_calls)
    if params.policy:
        code[params.policy] = policy_sha256(params.policy)
    if params.policy.endswith(".pt2"):
        maker = load_policy(params.policy, code[params.policy])
        assert isinstance(maker, WatcherMaker)
        maker.refuse_others(params, env.action_space)

    with workspace("collect", out, params=record, imported=code) as folder, stop_requests() as stop:
        done, left_out = len(list(folder.glob("episode_*.npz"))), list[int]()
        with meter("collect: episodes", params.episodes, done) as progress:
            for outcome in collect_episodes(params, seed, folder, stop, code.get(params.policy, "")):
                progress.advance()
                if outcome.failure:
                    left_out.append(outcome.index)
                    say(f"warning: episode {outcome.index} (reset seed {episode_seed(seed, outcome.index)}) "
                        f"{outcome.failure}; it is left out")  # fmt: skip
        played = sorted(set(range(params.episodes)) - set(left_out))
        files = [episode_file(folder, index) for index in played]
        refuse_removed(files)
        facts = read_facts(files)
        if facts.deterministic is False:
            say(f"warning: {params.env_id} is not deterministic: the same seed and actions gave other frames or actions; "
                "the same parameters will not give the same store")  # fmt: skip
        if facts.said:
            say(f"note: of what {params.env_id} renders, {facts.said}")
        family = family_of(params.env_id)
        attributes = {
            "env_id": params.env_id,
            "env_kwargs": params.env_kwargs,
            "action_spec": action_spec(env.action_space).to_json(),
            "action_meaning": "row i: the action of the step that led to frame i; row 0 of an episode: filler",
            "frame_rate": frame_rate(env, params.frame_skip),
            "screen": list(facts.screen),
            "deterministic": facts.deterministic,
            "left_out": sorted(left_out),
            "imported": code,
            "params": record,
            **({"action_flattened_from": flattened} if (flattened := describe(env)) else {}),
            "versions": _versions(
                "gymnasium", "numpy", "zarr", "pillow", "box2d", "ufal.pybox2d", "pygame-ce", "pygame",
                *([family.package] if family else []),
                *(["torch"] if params.policy.endswith((".pt", ".pt2", ".zip")) else []),
                *(["stable-baselines3"] if params.policy.endswith(".zip") else []),
            ),
        }  # fmt: skip
        with meter("collect: writing", len(files)) as progress:

            def episodes() -> Iterator[Episode]:
                for file in files:
                    stop.raise_if_set()
                    yield load_episode(file)
                    progress.advance()

            split = held_out(params, seed)[played]
            write_episodes(out, episodes(), int(facts.lengths.sum()), split, attributes)
    lengths = facts.lengths
    say(f"{out}: {len(files)} episodes, {lengths.sum()} frames, "
        f"{lengths.min()} to {lengths.max()} (median {int(np.median(lengths))}) an episode")  # fmt: skip
    if short := int((lengths < SHORT_FRAMES).sum()):
        say(f"note: {short} of {len(files)} episodes have fewer than {SHORT_FRAMES} frames; clips longer than an episode skip "
            "it. For longer ones lower collect.frame_skip or frames_per_action, or raise heuristic_share, or max_frames if "
            "that ended them")  # fmt: skip


def _inspect(params: CollectParams, sheet: Path) -> None:
    import importlib

    from oniris_core.collection.recordings.sources import agreed_space, open_source, recognised
    from oniris_core.common.artefacts.files import refuse_unwritable

    refuse_unwritable(sheet.with_name(f".{sheet.name}"))  # one of an earlier look is replaced
    params = recognised(params)
    source = open_source(params)
    # It only looks, so it is loaded by name and is no dependency in dvc.yaml: editing it must not collect anew.
    found = importlib.import_module("oniris_core.previews.inspection").inspect(
        source, agreed_space(source, params), params
    )
    for line in found.lines:
        say(line)
    for line in found.warnings:
        say(f"warning: {line}")
    importlib.import_module("oniris_core.previews.inspection").write(found, sheet)
    say(f"{sheet}: frames, and under each the action that led to it")


def _from_recordings(settings: Settings[CollectParams], out: Location) -> None:
    import numpy as np

    from oniris_core.collection.collection import load_episode
    from oniris_core.collection.recordings.conversion import (
        convert,
        episode_file,
        finished,
        held_out_recordings,
        note_file,
        said_of,
        stored_space,
    )
    from oniris_core.collection.recordings.offsets import probed, warning
    from oniris_core.collection.recordings.sources import agreed_space, file_digests, open_source
    from oniris_core.common.artefacts.files import digest
    from oniris_core.common.artefacts.remote import refuse_unwritable_at
    from oniris_core.common.artefacts.runs import refuse_removed, workspace
    from oniris_core.common.process import stop_requests
    from oniris_core.common.progress import meter
    from oniris_core.data.episodes.episode import Episode
    from oniris_core.data.episodes.store import write_episodes

    params, seed = settings.own, settings.common.seed
    source = open_source(params)
    refuse_unwritable_at(out)
    names = list(source.files.of)
    held_out = held_out_recordings(len(names), params, seed)
    spec = agreed_space(source, params)
    record = {"seed": seed, **params.as_record()}

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
            refuse_removed(note_file(folder, number) for number in range(len(names)))
            notes = [note for number in range(len(names)) if (note := finished(folder, number))]
            files = [[episode_file(folder, number, part) for part in range(note.episodes)]
                     for number, note in enumerate(notes)]  # fmt: skip
            refuse_removed(file for of_one in files for file in of_one)
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
                **({"action_flattened_from": source.flattened_from} if source.flattened_from else {}),
                "versions": _versions("numpy", "zarr", "pillow", "imageio-ffmpeg", "h5py", "minari", "pyarrow"),
            }
            with meter("collect: writing", len(lengths)) as progress:

                def episodes() -> Iterator[Episode]:
                    for of_one in files:
                        for file in of_one:
                            stop.raise_if_set()
                            yield load_episode(file)
                            progress.advance()

                few = probed((load_episode(file) for of_one in files for file in of_one), stored_space(spec, params))
                off = warning(few, params.recording_action_lag, params.frame_skip)
                split = np.repeat(held_out, [len(of_one) for of_one in files]).astype(np.uint8)
                write_episodes(out, episodes(), int(lengths.sum()), split, attributes)
    say(f"{out}: {len(names)} recordings, {len(lengths)} episodes, {lengths.sum()} frames at {rate / params.frame_skip:g} "
        f"a second, {int(held_out.sum())} recordings held out")  # fmt: skip
    if off:
        say(f"warning: {off}")
    say(f"note: of the recordings {said_of(notes)}" + "".join(f"; {note}" for note in source.notes))


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
