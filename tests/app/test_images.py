"""Pictures to tensors as Pillow decodes them, and refusals before anything large is decoded."""

import base64
import io
import struct
import zlib
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from app import images
from app.errors import Malformed, TensorMismatch
from tests import models

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))
Mode = Literal["L", "RGB"]


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


def by_pillow(data: bytes, mode: Mode, side: int) -> NDArray[np.float32]:
    picture: Image.Image = Image.open(io.BytesIO(data))
    picture.draft(mode, (side, side))  # for JPEG: gray is its own channel, not a mix of three
    picture = picture.convert(mode)
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.float32) / np.float32(255)
    return pixels[None, None] if mode == "L" else pixels.transpose(2, 0, 1)[None]


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(), size=SIZES, bands=st.sampled_from([0, 3, 4]), mode=st.sampled_from(["L", "RGB"])
)
def test_png_pixels_are_pillows(
    data: st.DataObject, size: tuple[int, int], bands: int, mode: Mode
) -> None:
    shape = size if bands == 0 else (*size, bands)
    png = encoded(Image.fromarray(data.draw(arrays.arrays(np.uint8, shape))))
    found = images.decode(png, models.picture_spec(mode=mode))
    np.testing.assert_array_equal(found, by_pillow(png, mode, 8))
    assert found.dtype == np.float32 and found.flags.c_contiguous


@settings(max_examples=50, deadline=None)
@given(data=st.data(), mode=st.sampled_from(["L", "RGB"]))
def test_jpeg_pixels_are_pillows(data: st.DataObject, mode: Mode) -> None:
    pixels = data.draw(arrays.arrays(np.uint8, (8, 8, 3)))
    jpeg = encoded(Image.fromarray(pixels), "JPEG")
    found = images.decode(jpeg, models.picture_spec(mode=mode))
    np.testing.assert_array_equal(found, by_pillow(jpeg, mode, 8))


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    samples = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
    found = images.decode(encoded(Image.fromarray(samples)), models.picture_spec())
    np.testing.assert_array_equal(found[0, 0], (samples >> 8).astype(np.float32) / 255)


def test_a_batch_is_the_pictures_in_order() -> None:
    pictures = [encoded(Image.new("L", (3, 3), shade)) for shade in (0, 51, 255)]
    texts = [base64.b64encode(data).decode() for data in pictures]
    found = images.decode_base64(texts, models.picture_spec())
    assert found.shape == (3, 1, 8, 8)
    assert found[:, 0, 0, 0].tolist() == pytest.approx([0, 0.2, 1])


def promised(width: int, height: int) -> bytes:
    """A PNG that promises this many pixels and has none."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", b""), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.parametrize("side", [8001, 10_000, 13_000, 30_000, 2**31 - 1])
def test_a_bomb_is_refused_from_its_header(side: int) -> None:
    with pytest.raises(images.TooManyPixels):
        images.decode(promised(side, side), models.picture_spec())


def test_the_limit_counts_all_pictures_of_a_request() -> None:
    text = base64.b64encode(encoded(Image.new("L", (10, 10)))).decode()
    assert len(images.decode_base64([text] * 3, models.picture_spec(), max_pixels=300)) == 3
    with pytest.raises(images.TooManyPixels):
        images.decode_base64([text] * 3, models.picture_spec(), max_pixels=299)


def test_a_model_without_preprocessing_takes_no_picture() -> None:
    with pytest.raises(TensorMismatch, match="takes tensors"):
        images.decode(encoded(Image.new("L", (8, 8))), models.tiny_spec())


@settings(max_examples=600, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG"]))
def test_damage_is_a_refusal_or_a_picture(data: st.DataObject, kind: str) -> None:
    whole = WHOLE[kind]
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = images.decode(bytes(damaged), models.picture_spec(), (kind,))
    except (Malformed, TensorMismatch) as error:
        assert str(error)
    else:
        assert found.shape == (1, 1, 8, 8)


WHOLE = {
    kind: encoded(Image.effect_noise((24, 24), 60).convert("RGB"), kind) for kind in ("PNG", "JPEG")
}


def test_every_cut_of_a_picture_is_a_refusal_or_a_picture() -> None:
    for kind, whole in WHOLE.items():
        for end in range(len(whole)):
            try:
                found = images.decode(whole[:end], models.picture_spec(), (kind,))
            except Malformed:
                continue
            assert found.shape == (1, 1, 8, 8)
