"""Frames to h264 and nothing else: no frame is ever read back to be measured."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from oniris_core.common.errors import OnirisError


def write_video(path: Path, frames: Iterator[np.ndarray], frames_per_second: float) -> None:
    """Write frames (uint8 [H, W, 3], both sizes even) as h264 in an mp4 that every browser plays.

    The quality is high (crf 12): small moving things are what this is about. One thread and no stamps of versions, so
    that equal frames are equal files; the colours are converted and labelled as BT.709, which players then undo exactly.

    Raises:
        OnirisError: ffmpeg is missing or fails; nothing is left at `path`.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise OnirisError(f"ffmpeg could not write {path.name}: the package imageio-ffmpeg is missing") from error
    first = next(frames)
    height, width = first.shape[:2]
    try:
        with tempfile.TemporaryFile() as said:
            command = [
                imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
                "-s", f"{width}x{height}", "-r", f"{frames_per_second:g}", "-i", "-", "-an",
                "-vf", "scale=out_color_matrix=bt709:out_range=tv", "-c:v", "libx264", "-crf", "12", "-threads", "1",
                "-pix_fmt", "yuv420p", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709",
                "-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart", str(path),
            ]  # fmt: skip
            # In a group of its own: Ctrl-C is for the stage, which closes the pipe.
            ffmpeg = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, process_group=0
            )
            broken = False
            try:
                with ffmpeg:
                    assert ffmpeg.stdin is not None
                    ffmpeg.stdin.write(first.tobytes())
                    for frame in frames:
                        ffmpeg.stdin.write(frame.tobytes())
            except BrokenPipeError:  # it has ended, and has said why
                broken = True
            if broken or ffmpeg.returncode or not path.is_file() or not path.stat().st_size:
                said.seek(0)
                words = " ".join(said.read(2000).decode(errors="replace").split())[:300]
                raise OnirisError(f"ffmpeg could not write {path.name}: {words or f'exit code {ffmpeg.returncode}'}")
    except (OSError, RuntimeError) as error:  # it is not there, or may not be run
        raise OnirisError(f"ffmpeg could not write {path.name}: {error}") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
