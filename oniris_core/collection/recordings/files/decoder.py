"""Frames of video files with the times they are shown at, by the ffmpeg that imageio-ffmpeg brings; read as they come.

Every frame in the file is given once: none is repeated or left out for the sake of a frame rate. Rotation is applied, an
alpha channel dropped, and pixels that are not square are made so by stretching the width.
"""

import re
import subprocess
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import IO

import imageio_ffmpeg
import numpy as np

from oniris_core.collection.recordings.files.recording import MAX_PIXELS
from oniris_core.common.errors import UserError

# A playlist that calls itself .mp4 could make ffmpeg open other files or the network: the ending decides what is tried.
DEMUXERS = {
    ".mp4": "mov", ".m4v": "mov", ".mov": "mov", ".3gp": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi",
    ".gif": "gif", ".flv": "flv", ".wmv": "asf", ".asf": "asf", ".mpg": "mpeg", ".mpeg": "mpeg", ".ts": "mpegts",
    ".mts": "mpegts", ".m2ts": "mpegts", ".ogv": "ogg", ".nut": "nut", ".mxf": "mxf", ".y4m": "yuv4mpegpipe",
}  # fmt: skip
SQUARE = "scale=trunc(iw*sar+0.5):ih,setsar=1"
PATIENCE_S = 60.0
SHOWN = re.compile(rb"showinfo.*?\] n: *\d+ pts: *(\S+) +pts_time:.* sar:(\d+)/(\d+) s:(\d+)x(\d+)")
TICK = re.compile(rb"showinfo.*\] config in time_base: (\d+)/(\d+)")
RATE = re.compile(rb"Stream #.*: Video: .* ([0-9.]+k?) fps")


@dataclass(frozen=True)
class Header:
    """What a video says of itself: height and width in pixels, frames per second, and whether its pixels are square."""

    size: tuple[int, int]
    rate: float
    square: bool


def is_video(path: Path) -> bool:
    """Whether the ending, in whatever case, is that of a video."""
    return path.suffix.lower() in DEMUXERS


def probe(path: Path) -> Header:
    """The header of a video, after its first frame could be decoded.

    Raises:
        UserError: not a video, or of absurdly many pixels.
    """
    command = [*_command(path), "-frames:v", "1", "-f", "null", "-"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{path} took ffmpeg more than {PATIENCE_S:g} s to open: record it again or remove it"
        ) from None
    shown, rate = SHOWN.search(done.stderr), RATE.search(done.stderr)
    if done.returncode or not shown or not rate or b"Invalid pixel size" in done.stderr:
        raise UserError(f"{path} cannot be read as a {path.suffix.lower()} video: record it again or remove it")
    sar = int(shown[2]) / int(shown[3]) if int(shown[2]) and int(shown[3]) else 1.0
    width, height = int(int(shown[4]) * sar + 0.5), int(shown[5])
    fps = float(rate[1].rstrip(b"k")) * (1000 if rate[1].endswith(b"k") else 1)
    if not 0 < width * height <= MAX_PIXELS or not fps > 0:
        raise UserError(
            f"{path} declares frames of {height} x {width} at {fps:g} a second; {MAX_PIXELS} pixels at most"
        )
    return Header((height, width), fps, sar == 1.0)


def decoded(path: Path) -> Generator[tuple[float, np.ndarray], None, None]:
    """(time in seconds, uint8 [H, W, 3]) for every frame in the file, in the order of showing.

    Raises:
        UserError: not a video, damaged, or of frames that change size.
    """
    header = probe(path)
    height, width = header.size
    command = [*_command(path), "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    log = _Log(process.stderr)
    try:
        first, count = None, 0
        while data := process.stdout.read(height * width * 3):
            time, screen = log.next_frame(path)
            first = first or screen
            if screen != first:
                raise UserError(f"{path}, frame {count} is of {screen[1]} x {screen[0]} pixels, those before of "
                                f"{first[1]} x {first[0]}: bring them to one size first")  # fmt: skip
            if len(data) < height * width * 3:
                raise UserError(f"{path} is damaged: it ends within frame {count}")
            yield time, np.frombuffer(data, np.uint8).reshape(height, width, 3)
            count += 1
        if process.wait() or not count:
            raise UserError(f"{path} is damaged after {count} frames: {log.last}")
    finally:
        process.kill()
        process.wait()
        log.join()
        process.stdout.close()
        process.stderr.close()


def _command(path: Path) -> list[str]:
    return [
        imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-nostats", "-f", DEMUXERS[path.suffix.lower()],
        "-protocol_whitelist", "file", "-max_pixels", str(MAX_PIXELS), "-copyts", "-i", f"file:{path.resolve()}",
        "-map", "0:V:0", "-vf", f"showinfo=checksum=0,{SQUARE}", "-fps_mode", "passthrough",
    ]  # fmt: skip


class _Log(threading.Thread):
    """What ffmpeg writes beside the frames: the time and the size of each, and trouble."""

    def __init__(self, pipe: IO[bytes]):
        super().__init__(daemon=True)
        self._pipe, self._shown, self._tick = pipe, Queue[tuple[float, tuple[int, int]]](), 0.0
        self.last = "nothing can be decoded"
        self.start()

    def run(self) -> None:
        """Read to the end, so that ffmpeg never waits for us."""
        for line in self._pipe:
            if found := SHOWN.search(line):
                time = float("nan") if found[1] == b"NOPTS" else int(found[1]) * self._tick
                self._shown.put((time, (int(found[4]), int(found[5]))))
            elif found := TICK.search(line):
                self._tick = int(found[1]) / int(found[2])
            elif b"rror" in line or b"nvalid" in line:
                self.last = " ".join(line.decode(errors="replace").split())

    def next_frame(self, path: Path) -> tuple[float, tuple[int, int]]:
        try:
            return self._shown.get(timeout=PATIENCE_S)
        except Empty:
            raise UserError(f"{path} is damaged: {self.last}") from None
