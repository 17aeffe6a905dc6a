"""How fast is each layout read, and does a longer recording need more memory? Frames a second and peak memory, by length.

    python -m benchmarks.recording_speed

The samples are those of the tests: frames of 32 x 48 pixels, two recordings of each length. Each is read in a process of its
own, once for the actions and once for the frames; what is measured is that process's largest resident size
(Linux only).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.harness import print_table
from tests.layouts import LAYOUTS

CHOSEN = [name for name in LAYOUTS if name != "mixed_videos"]
CHILD = """
import json, re, sys, time
from pathlib import Path
from benchmarks.recording_speed import read
started = time.perf_counter()
frames = read(sys.argv[1], sys.argv[2])
spent = time.perf_counter() - started
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])  # ru_maxrss counts the parent too
print(json.dumps([frames, spent, peak / 1024]))
"""


def read(name: str, folder: str) -> int:
    """Read a sample as `collect` would; how many frames it has."""
    from oniris_core.collection.recordings.sources import agreed_space, open_source
    from oniris_core.config.reader import build, read_yaml
    from oniris_core.data.playing.params import CollectParams

    _, layout, options = LAYOUTS[name]
    changed = {"source": layout, "recordings": folder, "recording_camera": options[1] if options else ""}
    content = read_yaml(Path(__file__).parent.parent / "params.yaml")["collect"]
    params = build(CollectParams, "collect", {**content, **changed}, "benchmark")
    source = open_source(params)
    agreed_space(source, params)
    return sum(1 for recording in source.files.of for _ in source.read(recording).frames)


def main(
    lengths: Annotated[str, typer.Option(help="frames of a recording, separated by commas")] = "300,6000",
    only: Annotated[str, typer.Option(help="samples, separated by commas; empty: all")] = "",
) -> None:
    """Print frames a second and peak memory of each layout, and the memory's ratio to that of the first length."""
    rows = []
    for name in only.split(",") if only else CHOSEN:
        first = 0.0
        for length in map(int, lengths.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder) / "sample"
                LAYOUTS[name][0](root, (length, length))
                done = subprocess.run(
                    [sys.executable, "-c", CHILD, name, str(root)], check=True, stdout=subprocess.PIPE
                )
            frames, spent, peak = json.loads(done.stdout)
            first = first or peak
            rows.append([name, str(length), f"{frames / spent:,.0f}", f"{peak:.0f}", f"{peak / first:.2f}"])
    print_table(["sample", "frames", "frames/s", "peak memory, MiB", "x first"], rows)


if __name__ == "__main__":
    typer.run(main)
