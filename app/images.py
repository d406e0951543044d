"""Pictures to tensors, as a model's spec declares it; Pillow does the work."""

import base64
import binascii
import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from app.errors import Malformed, TensorMismatch
from variants.runtimes import Tensor
from variants.spec import ModelSpec

MAX_PIXELS = 64_000_000
FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG"}


def decode(data: bytes, spec: ModelSpec, formats: tuple[str, ...] = ("PNG", "JPEG")) -> Tensor:
    """One picture as float32 `[1, channels, height, width]` in [0, 1].

    Raises `Malformed` for bytes that are not such a picture, `TensorMismatch` for a model that
    takes none or a picture of more than `MAX_PIXELS` pixels.
    """
    if spec.preprocess is None:
        raise TensorMismatch(f"model {spec.name!r} takes tensors, not pictures", field="inputs")
    _, height, width = spec.inputs[0].shape
    try:
        with Image.open(io.BytesIO(data), formats=formats) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise TensorMismatch(
                    f"the picture has {picture.width}×{picture.height} pixels; "
                    f"at most {MAX_PIXELS} are allowed",
                    field="inputs",
                )
            if picture.format == "JPEG":
                picture.draft(spec.preprocess.mode, (width, height))
            plain = picture.convert(spec.preprocess.mode)
    except UnidentifiedImageError as error:
        raise Malformed(f"this is not a {' or '.join(formats)} picture", field="inputs") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Malformed(f"the picture is damaged: {error}", field="inputs") from error
    if plain.size != (width, height):
        plain = plain.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(plain, dtype=np.float32) / np.float32(255)
    if pixels.ndim == 2:
        return pixels[np.newaxis, np.newaxis]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))[np.newaxis]


def decode_base64(texts: list[str], spec: ModelSpec) -> Tensor:
    """Base64 pictures as one batch. Raises as `decode`, naming the picture's index."""
    rows = []
    for index, text in enumerate(texts):
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Malformed(f"inputs[{index}] is not base64: {error}", field="inputs") from error
        try:
            rows.append(decode(data, spec))
        except Malformed as error:
            raise Malformed(f"inputs[{index}]: {error}", field="inputs") from error
    return np.concatenate(rows)
