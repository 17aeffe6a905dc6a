"""Frames as files have them, made uint8 [H, W, 3]: grey, with an alpha channel, channels first, real numbers, or encoded."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from oniris_core.collection.recordings.files.recording import MAX_PIXELS
from oniris_core.common.errors import UserError


def picture(data: bytes | Path, where: str) -> np.ndarray:
    """An encoded picture, uint8 [H, W, 3]; it is turned as it says, grey is repeated and an alpha channel dropped.

    Args:
        data: its bytes, or its file.
        where: file and row, for messages.

    Raises:
        UserError: not a picture, damaged, or of absurdly many pixels.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            _refuse_absurd(image, where)
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{where} has pixels of type {image.mode}; pictures of 8 bits a channel are needed")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGBA").convert("RGB"))
    except UserError:
        raise
    except Exception as error:  # a damaged picture fails in many ways
        raise UserError(f"{where} cannot be read as a picture: {' '.join(str(error).split())}") from None


def picture_size(data: bytes | Path, where: str) -> tuple[int, int]:
    """Height and width of an encoded picture, pixels, from its header.

    Raises:
        UserError: not a picture, or of absurdly many pixels.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            _refuse_absurd(image, where)
            turned = image.getexif().get(0x0112, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where} cannot be read as a picture: {' '.join(str(error).split())}") from None


def _refuse_absurd(image: Image.Image, where: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{where} declares {image.height} x {image.width} pixels; at most {MAX_PIXELS} are read")


def array_size(shape: tuple[int, ...], dtype: np.dtype, where: str) -> tuple[int, int]:
    """Height and width of frames in an array [T, H, W], [T, H, W, C] or [T, C, H, W] with 1, 3 or 4 channels.

    Raises:
        UserError: frames of another shape or type.
    """
    size: tuple[int, ...] = ()
    if len(shape) == 3:
        size = shape[1:]
    elif len(shape) == 4 and shape[3] in (1, 3, 4):
        size = shape[1:3]
    elif len(shape) == 4 and shape[1] in (1, 3, 4):
        size = shape[2:]
    if not size or dtype.kind not in "uf" or (dtype.kind == "u" and dtype != np.uint8) or not shape[0]:
        raise UserError(
            f"{where} is {dtype} of shape {shape}, but frames are needed: uint8 [T, H, W, 3], or real numbers"
        )
    if not 0 < size[0] * size[1] <= MAX_PIXELS:
        raise UserError(f"{where} declares frames of {size[0]} x {size[1]}; at most {MAX_PIXELS} pixels are read")
    return size[0], size[1]


def said_of_array(shape: tuple[int, ...], dtype: np.dtype, brightest: float) -> tuple[str, ...]:
    """What `as_rgb` does to such frames that a person may not expect."""
    channels = 1 if len(shape) == 3 else shape[3] if shape[3] in (1, 3, 4) else shape[1]
    said = {1: ("grey is repeated in three channels",), 4: ("the alpha channel is dropped",)}.get(channels, ())
    return (*said, f"real pixels are taken as 0 to {brightest:g}") if dtype.kind == "f" else said


def as_rgb(frame: np.ndarray, brightest: float, where: str) -> np.ndarray:
    """One frame of such an array as uint8 [H, W, 3].

    Args:
        frame: [H, W], [H, W, C] or [C, H, W].
        brightest: what real numbers call white, 1 or 255.
        where: file and row, for messages.

    Raises:
        UserError: real numbers outside 0 to `brightest`.
    """
    if frame.dtype.kind == "f":
        if not ((frame >= 0) & (frame <= brightest)).all():  # false for NaN too
            raise UserError(f"{where} has pixels outside 0 to {brightest:g}: real pixels must be 0 to 1, or 0 to 255")
        frame = np.rint(frame * (255 / brightest)).astype(np.uint8)
    if frame.ndim == 2:
        frame = frame[..., None]
    elif frame.shape[2] not in (1, 3, 4):
        frame = np.moveaxis(frame, 0, 2)
    return np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else np.ascontiguousarray(frame[..., :3])
