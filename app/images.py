"""Pictures to tensors, as a model's spec declares it; Pillow does the work."""

import base64
import binascii
import io
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from app.errors import Malformed, TensorMismatch
from variants.runtimes import Tensor
from variants.spec import ImagePreprocess, ModelSpec

MAX_PIXELS = 64_000_000
"""The most that the pictures of one request may have in all."""

FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG"}


class TooManyPixels(TensorMismatch):
    """A picture that is larger than allowed; found from its header, before it is decoded."""


def warm(spec: ModelSpec) -> None:
    """Decode one picture of each format, so that no caller waits for Pillow to load its decoders.

    For a model that takes no pictures there is nothing to do.
    """
    if not isinstance(spec.preprocess, ImagePreprocess):
        return
    for name in FORMATS.values():
        picture = io.BytesIO()
        Image.new(spec.preprocess.mode, (8, 8)).save(picture, name)
        decode(picture.getvalue(), spec, (name,))


def decode(
    data: bytes,
    spec: ModelSpec,
    formats: tuple[str, ...] = ("PNG", "JPEG"),
    *,
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """One picture as float32 `[1, channels, height, width]`, or without the channel axis.

    Values are in [0, 1]. Raises `Malformed` for bytes that are not such a picture,
    `TensorMismatch` for a model that takes none, `TooManyPixels` beyond `max_pixels`.
    """
    return _decode(data, spec, formats, max_pixels)[0]


def decode_base64(texts: list[str], spec: ModelSpec, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Base64 pictures as one batch. Raises as `decode`, naming the picture's index."""
    rows = []
    left = max_pixels
    for index, text in enumerate(texts):
        try:
            data = base64.b64decode(text, validate=True)
            tensor, pixels = _decode(data, spec, ("PNG", "JPEG"), left)
        except (binascii.Error, ValueError) as error:
            raise Malformed(f"inputs[{index}] is not base64: {error}", field="inputs") from error
        except Malformed as error:
            raise Malformed(f"inputs[{index}]: {error}", field="inputs") from error
        rows.append(tensor)
        left -= pixels
    return np.concatenate(rows)


def _decode(
    data: bytes, spec: ModelSpec, formats: tuple[str, ...], max_pixels: int
) -> tuple[Tensor, int]:
    if not isinstance(spec.preprocess, ImagePreprocess):
        takes = "tensors" if spec.preprocess is None else "texts"
        raise TensorMismatch(f"model {spec.name!r} takes {takes}, not pictures", field="inputs")
    *_, height, width = spec.inputs[0].shape
    try:
        with Image.open(io.BytesIO(data), formats=formats) as picture:
            pixels = picture.width * picture.height
            if pixels > max_pixels:
                raise _too_many(f"{picture.width}×{picture.height}")
            if picture.format == "JPEG":
                picture.draft(spec.preprocess.mode, (width, height))
            plain = _plain(picture, spec.preprocess.mode)
    except UnidentifiedImageError as error:
        raise Malformed(f"this is not a {' or '.join(formats)} picture", field="inputs") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many("too many") from error
    except DAMAGED as error:
        raise Malformed(f"the picture is damaged: {error}", field="inputs") from error
    if plain.size != (width, height):
        plain = plain.resize((width, height), Image.Resampling.BILINEAR)
    tensor = np.asarray(plain, dtype=np.float32) / np.float32(255)
    if tensor.ndim == 3:
        tensor = np.ascontiguousarray(tensor.transpose(2, 0, 1))
    return tensor.reshape(1, *spec.inputs[0].shape), pixels


DAMAGED = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)
"""What Pillow raises on files that begin well."""


def _plain(picture: Image.Image, mode: str) -> Image.Image:
    """The pixels in `mode`; transparency is dropped, and 16 bits become 8."""
    if picture.mode.startswith("I"):  # Pillow would clip to 255 what goes up to 65535
        samples = np.asarray(picture).clip(0, 65535).astype(np.uint16)
        return Image.fromarray((samples >> 8).astype(np.uint8)).convert(mode)
    if picture.mode == "P" and "transparency" in picture.info:
        return picture.convert("RGBA").convert(mode)
    return picture.convert(mode)


def _too_many(seen: str) -> TooManyPixels:
    return TooManyPixels(
        f"the picture has {seen} pixels; at most {MAX_PIXELS} are allowed in one request",
        field="inputs",
    )
