"""Nothing lost: the tiny pipeline and the programs around it, killed again and again, against undisturbed runs.

    python -m benchmarks.kill_campaign --kills 300

SIGKILL hits dvc, the stage it runs, or one of the two processes in which every third pipeline trains, at random moments; and,
after every third pipeline, one of the programs outside of it, by turns. The same command is given again until it has come to
its end. Ctrl-C stops the campaign; the same command goes on. Only Linux has what is looked at here.
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.harness import print_table
from benchmarks.kills.pipelines import STAGES, TRAININGS, Pipeline, spans
from benchmarks.kills.processes import marked
from benchmarks.kills.programs import Environment, Export, Gpu, Play, Policy, Program
from benchmarks.kills.state import State, take_up
from benchmarks.kills.subject import Subject, disturb, measure
from oniris_core.common.errors import OnirisError, UserError
from oniris_core.common.process import exclusive

PIPELINES = 3
"""In a row, then a program."""
PIPELINE_KILLS, PROGRAM_KILLS = 2, 3
"""Of one pipeline, and of one program, at most: 300 kills are in over 100 pipelines."""
WHOLE_EVERY = 10
"""Of so many pipelines one is run from nothing; in the others one stage is."""
STATE = Path(tempfile.gettempdir()) / "oniris_kills"
COUNTED = "completed", "different", "stuck", "orphans", "starved", "strays", "broken", "litter", "healed"
WRONG = "different", "stuck", "orphans", "strays", "broken"


@dataclass
class Case:
    """A subject, in which row of the table it counts, what is expected of it, and whom to kill, one after another."""

    row: str
    subject: Subject
    expected: dict[str, Any]
    kinds: Sequence[str]


class Campaign:
    """What comes next; undisturbed runs are made when they are needed first, and stay in `folder`."""

    def __init__(self, folder: Path, state: State):
        self.folder, self.state = folder, state

    def case(self, number: int, draw: random.Random) -> Case:
        """The one of this number, in a folder that is to be made."""
        turn, place = divmod(number, PIPELINES + 1)
        folder = self.folder / f"case_{number}"
        if place == PIPELINES:
            return self._program(turn, folder)
        return self._pipeline(turn * PIPELINES + place, folder, draw)

    def _pipeline(self, number: int, folder: Path, draw: random.Random) -> Case:
        ranks = 2 if number % 3 == 2 else 1
        like, found = self._undisturbed_pipeline(ranks)
        names = TRAININGS if ranks > 1 else STAGES  # the others are the same in either
        lengths = [found["spans"][f"stage of {name}"][1] - found["spans"][f"stage of {name}"][0] for name in names]
        only = None if number % WHOLE_EVERY == WHOLE_EVERY - 1 else draw.choices(names, lengths)[0]
        victims = ("dvc", "stage", "rank")[: 1 + ranks]
        kinds = [victims[(number // 3 + i) % len(victims)] for i in range(PIPELINE_KILLS)]
        expected = {**found, "spans": spans(found["spans"], only)}
        return Case(f"pipelines of {ranks}", Pipeline(folder, ranks, like, only), expected, kinds)

    def _undisturbed_pipeline(self, ranks: int) -> tuple[Path, dict[str, Any]]:
        like = self.folder / f"pipeline_{ranks}"
        before = self._undisturbed_pipeline(1)[0] if ranks > 1 else None
        return like, self._undisturbed(Pipeline(like, ranks, before))

    def _program(self, number: int, folder: Path) -> Case:
        like, _ = self._undisturbed_pipeline(1)
        makers: list[Callable[[Path], Program]] = [
            lambda at: Policy(at, like), lambda at: Export(at, like, self._runtime()), lambda at: Play(at, like),
            lambda at: Environment(at, like), lambda at: Gpu(at, like),
        ]  # fmt: skip
        make = makers[number % len(makers)]
        subject = make(folder)
        expected = self._undisturbed(make(self.folder / f"undisturbed_{subject.name}"))
        return Case(subject.name, subject, expected, [subject.name] * PROGRAM_KILLS)

    def _runtime(self) -> Path | None:
        """onnxruntime-web as npm brings it, once; None where it cannot be had."""
        from oniris_core.export.runtime import PACKAGE, VERSION, fetch

        file = self.folder / f"{PACKAGE}-{VERSION}.tgz"
        try:
            return file if file.is_file() else fetch(self.folder)
        except (UserError, OnirisError) as error:
            print(f"exports are made without a page: {error}")
            return None

    def _undisturbed(self, subject: Subject) -> dict[str, Any]:
        name, expected = subject.folder.name, self.state.expected
        if name not in expected:
            print(f"{name} ...", flush=True)
            subject.prepare()
            expected[name] = measure(subject)
            self.state.save(self.folder)
        return dict(expected[name])


def report(state: State) -> bool:
    """Print the table; whether all is as promised."""
    total = sum(state.counts.values(), Counter[str]())
    print(
        f"\n{state.kills} kills in {state.seconds / 3600:.1f} hours, {state.seconds / max(state.kills, 1):.0f} s each\n"
    )
    rows = [
        [name, *(str(counts[of]) for of in ("cases", "kills", *COUNTED))]
        for name, counts in sorted(state.counts.items())
    ]
    print_table(["", "cases", "kills", *COUNTED], rows)
    victims = ", ".join(f"{total[kind]} {kind}" for kind in ("dvc", "stage", "rank") if total[kind])
    stages = ", ".join(f"{total[f'in {name}']} in {name}" for name in (*STAGES, "all") if total[f"in {name}"])
    print(f"\nIn pipelines: {victims}; {stages}")
    return not any(total[name] for name in WRONG)


def main(
    kills: Annotated[int, typer.Option(help="how often to kill, in all")] = 300,
    seed: Annotated[int, typer.Option(help="of the moments and victims")] = 0,
    state: Annotated[
        Path, typer.Option(help="the folder in which the campaign is kept, so that the same command goes on")
    ] = STATE,
) -> None:
    """Count what random kills change in what pipelines and programs make: nothing."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder, working = state.resolve(), Path()
    try:
        with exclusive(folder, f"a campaign in {folder}"):
            found = take_up(folder, seed)
            campaign = Campaign(folder, found)
            while found.kills < kills:
                begun, number = time.monotonic(), found.cases
                draw = random.Random(f"{seed}/{number}")
                case = campaign.case(number, draw)
                working, told = case.subject.folder, list[str]()
                counts = disturb(case.subject, case.expected, case.kinds[: kills - found.kills], draw, told.append)
                if isinstance(case.subject, Pipeline):
                    counts[f"in {case.subject.only or 'all'}"] += counts["kills"]
                found.counts.setdefault(case.row, Counter()).update(counts)
                found.told += [f"case {number}, {case.row}: {line}" for line in told]
                found.cases, found.seconds = number + 1, found.seconds + time.monotonic() - begun
                found.save(folder)
                for line in told:
                    print(f"  {line}")
                took = time.monotonic() - begun
                print(f"{found.kills} of {kills} kills: case {number}, {case.row}, {took:.0f} s", flush=True)
                if not any(counts[name] for name in WRONG):
                    case.subject.remove()
            right = report(found)
    except UserError as error:
        print(f"oniris: error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        for pid in marked(working):
            os.kill(pid, signal.SIGKILL)
        print(f"stopped after {found.kills} kills; the same command goes on from here")
        raise typer.Exit(130) from None
    if not right:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
