"""Memory foreseen: what the machine has left, and a refusal before more than that is asked for.

The system would rather kill a process without a word than refuse it memory, so estimates are made first. They are low ones:
what is refused cannot fit; what is not refused may still not.
"""

from pathlib import Path

from oniris_core.common.errors import UserError

GIB = 2**30


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that new work may take on this machine and in this container; None where nothing says so.

    Args:
        root: where /proc and /sys are.
    """
    found = []
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith(("MemAvailable:", "SwapFree:")):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        return None
    if not found:
        return None
    limits = [sum(found)]
    # What a container has cached can be given back, so its limit counts as a whole and not what is left of it.
    for limit in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int((root / limit).read_text()))
        except (OSError, ValueError):
            continue
    return min(limits)


def refuse_beyond(need: int, available: int | None, what: str, fits: str) -> None:
    """Raise UserError if more memory is needed than there is.

    Args:
        need: bytes, estimated low.
        available: bytes, or None where nobody knows.
        what: that needs it, with the parameters that make it so large.
        fits: what would fit.
    """
    if available is not None and need > available:
        raise UserError(
            f"{what} needs at least {need / GIB:,.1f} GiB of memory, but only {available / GIB:,.1f} GiB are there: {fits}"
        )


def refuse_frames(frames: int, height: int, width: int, at_once: int) -> None:
    """Raise UserError if the episodes that `collect` holds at once do not fit.

    Args:
        frames: of the longest of them.
        height, width: pixels of a frame.
        at_once: episodes held at the same time.
    """
    frame, available = height * width * 3, available_memory()
    copies = 2  # frames one by one, then as one array
    most = (available or 0) // (copies * at_once * frame)
    side = int(((available or 0) / (copies * at_once * frames * 3)) ** 0.5)
    fits = f"at most {most} frames of this size fit (max_frames), or" if most > 1 else "what fits is"
    refuse_beyond(
        copies * at_once * frames * frame, available,
        f"collect.size = [{height}, {width}], {frames} frames an episode, {at_once} at once,",
        f"{fits} frames of up to {side} x {side} pixels",
    )  # fmt: skip


def refuse_batch(clip: int, clips: int, available: int | None, section: str, batch: int) -> None:
    """Raise UserError if the clips of a training step do not fit.

    Args:
        clip: bytes that one takes, estimated low.
        clips: held at once.
        available: bytes where they are computed.
        section: of the parameters.
        batch: clips of a step as they are set.
    """
    if available is None or clip * clips <= available:
        return
    fits = available // clip * batch // clips
    parts = -(-clip * clips // max(available, 1))
    better = f"lower batch to at most {fits}, or raise accumulate {parts} times" if fits else "lower the clips' size"
    refuse_beyond(clip * clips, available, f"{section}.batch = {batch}", better)
