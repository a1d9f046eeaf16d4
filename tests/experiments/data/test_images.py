"""Image files become the pixels that were written, or one sentence that names the file."""

import importlib.util
import io
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from experiments.common.errors import UserError
from experiments.data import images
from experiments.data.images import common_shape, read_headers, read_pixels

RNG = np.random.default_rng(0)
SCENE = RNG.integers(0, 256, (5, 7, 3), np.uint8)


def read(*files: Path) -> NDArray[np.uint8]:
    return read_pixels(files, common_shape(files, read_headers(files)))


def saved(file: Path, image: Image.Image, **options: Any) -> Path:
    image.save(file, **options)
    return file


def test_pixels_of_every_format(tmp_path: Path) -> None:
    image = Image.fromarray(SCENE)
    np.testing.assert_array_equal(read(saved(tmp_path / "x.png", image))[0], SCENE)
    lossless = saved(tmp_path / "x.WebP", image, lossless=True)
    np.testing.assert_array_equal(read(lossless)[0], SCENE)
    # A JPEG keeps an image of one colour nearly.
    flat = Image.new("RGB", (7, 5), (10, 100, 200))
    found = read(saved(tmp_path / "x.jpeg", flat))[0]
    assert np.abs(found - np.array([10.0, 100, 200])).max() <= 2
    # As phones write one, with a second picture inside.
    other = {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (7, 5))]}
    two = saved(tmp_path / "x.jpg", flat, **other)
    np.testing.assert_array_equal(read(two), read(tmp_path / "x.jpeg"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "16-bit RGB", "tRNS"])
def test_modes(tmp_path: Path, mode: str) -> None:
    gray, alpha = SCENE[..., 0], SCENE[..., 1]
    opacity, file = alpha[..., None] / 255, tmp_path / "x.png"
    options: dict[str, Any] = {}
    expected: NDArray[Any]
    if mode == "1":
        image, expected = Image.fromarray(gray > 99), 255 * (gray > 99)[..., None]
    elif mode == "L":
        image, expected = Image.fromarray(gray), gray[..., None]
    elif mode == "LA":
        image = Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)])
        expected = gray[..., None] * opacity + 255 * (1 - opacity)
    elif mode == "P":
        image = Image.fromarray(gray % 4)
        image.putpalette(SCENE.ravel()[:12].tolist())
        expected = SCENE.ravel()[:12].reshape(4, 3)[gray % 4]
    elif mode == "RGB":
        image, expected = Image.fromarray(SCENE), SCENE
    elif mode == "RGBA":
        image = Image.fromarray(np.dstack([SCENE, alpha]))
        expected = SCENE * opacity + 255 * (1 - opacity)
    elif mode == "I;16":
        image = Image.fromarray(gray.astype(np.uint16) * 256 + 77)
        expected = gray[..., None]
    elif mode == "16-bit RGB":
        file.write_bytes(png_of_16_bits(SCENE.astype(np.uint16) * 256 + 77))
        image, expected = None, SCENE
    else:
        image, expected = Image.fromarray(gray), np.where(gray == gray[2, 3], 255, gray)[..., None]
        options["transparency"] = int(gray[2, 3])
    if image is not None:
        image.save(file, **options)
    found = read(file)[0]
    assert found.shape == expected.shape
    # Pillow rounds what shines through.
    assert np.abs(found - expected).max() <= (1 if mode in ("LA", "RGBA") else 0)


def png_of_16_bits(pixels: NDArray[Any]) -> bytes:
    height, width, _ = pixels.shape

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def test_gray_and_colour_together(tmp_path: Path) -> None:
    gray, scene = Image.fromarray(SCENE[..., 0]), Image.fromarray(SCENE)
    first, second = saved(tmp_path / "0.png", gray), saved(tmp_path / "1.png", scene)
    found = read(first, second)
    np.testing.assert_array_equal(found[0], SCENE[..., :1].repeat(3, axis=-1))
    np.testing.assert_array_equal(found[1], SCENE)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_photographs_are_turned(tmp_path: Path, orientation: int, suffix: str) -> None:
    # EXIF, tag 0x0112: which sides of the picture its first row and its first column are.
    upright: dict[int, Callable[[Any], Any]] = {
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
        8: lambda x: np.rot90(x),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"x.{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    saved(file, Image.fromarray(SCENE), exif=exif, **options)
    np.testing.assert_array_equal(read(file)[0], upright.get(orientation, lambda x: x)(SCENE))


def test_a_broken_exif_says_nothing(tmp_path: Path) -> None:
    file = saved(tmp_path / "x.png", Image.fromarray(SCENE), exif=b"Exif\0\0nonsense")
    np.testing.assert_array_equal(read(file)[0], SCENE)


def test_the_middle_is_taken(tmp_path: Path) -> None:
    stripes = np.zeros((40, 80, 3), np.uint8)
    stripes[:, 20:60] = (10, 100, 200)
    for name, pixels in (("wide", stripes), ("high", stripes.swapaxes(0, 1))):
        file = saved(tmp_path / f"{name}.png", Image.fromarray(pixels))
        found = read_pixels([file], (10, 10, 3))[0]
        np.testing.assert_array_equal(found[2:-2, 2:-2], np.broadcast_to((10, 100, 200), (6, 6, 3)))


def test_sizes_that_differ(tmp_path: Path) -> None:
    first = saved(tmp_path / "0.png", Image.fromarray(SCENE))
    second = saved(tmp_path / "1.png", Image.fromarray(SCENE[:4]))
    with pytest.raises(UserError, match=r"0\.png has 7x5 .*1\.png 7x4: .*--image-size"):
        read(first, first, second)


def animation(file: Path) -> None:
    frames = [Image.fromarray(np.full((4, 4, 3), 50 * i, np.uint8)) for i in range(3)]
    frames[0].save(file, save_all=True, append_images=frames[1:], lossless=True)


def bomb(file: Path, side: int) -> None:
    """A small file whose header has many pixels."""
    content = bytearray(saved(file, Image.fromarray(SCENE)).read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("x.png", lambda x: x.write_bytes(b""), "PNG: it is empty"),
        ("x.png", lambda x: x.write_bytes(b"no image"), "cannot be read as PNG: it is no such"),
        ("x.png", lambda x: saved(x, Image.fromarray(SCENE), format="JPEG"), "but a JPEG: rename"),
        ("x.jpg", lambda x: saved(x, Image.fromarray(SCENE), format="WEBP"), "but a WEBP: rename"),
        ("x.webp", lambda x: saved(x, Image.fromarray(SCENE), format="PNG"), "but a PNG: rename"),
        ("x.png", lambda x: saved(x, Image.fromarray(SCENE), format="BMP"), "it is no such image"),
        ("x.png", animation, "an animation of 3 pictures"),
        ("x.webp", animation, "an animation of 3 pictures"),
        ("x.png", lambda x: bomb(x, 1 << 16), "claims to have more than the [0-9,]+ pixels"),
        ("x.png", lambda x: bomb(x, 10_000), "claims to have more than the [0-9,]+ pixels"),
    ],
)
def test_what_is_no_image(
    tmp_path: Path,
    name: str,
    write: Callable[[Path], object],
    words: str,
    recwarn: pytest.WarningsRecorder,
) -> None:
    good, bad = saved(tmp_path / "0.png", Image.fromarray(SCENE)), tmp_path / name
    write(bad)
    with pytest.raises(UserError, match=words) as error:
        read(good, bad)
    assert str(error.value).startswith(f"{bad} ")
    assert "\n" not in str(error.value)
    assert not recwarn


def encoded(format: str) -> bytes:
    content = io.BytesIO()
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    Image.fromarray(SCENE).save(content, format, **options)
    return content.getvalue()


WHOLE = {name: encoded(name) for name in ("PNG", "JPEG", "WEBP")}


def refused_or_right(format: str, content: bytes) -> None:
    """No other pixels than those of the whole file."""
    with tempfile.TemporaryDirectory() as folder:
        file, right = Path(folder, f"x.{format}"), Path(folder, f"right.{format}")
        file.write_bytes(content)
        right.write_bytes(WHOLE[format])
        found, said = None, ""
        try:
            found = read(file)
        except UserError as error:
            said = str(error)
        if found is None:
            assert said.startswith(f"{file} ")
            assert "\n" not in said
        else:
            np.testing.assert_array_equal(found, read(right))


@pytest.mark.parametrize("format", WHOLE)
def test_truncated(format: str) -> None:
    whole = WHOLE[format]
    for size in {
        *range(0, len(whole), max(1, len(whole) // 40)),
        *range(len(whole) - 8, len(whole)),
    }:
        refused_or_right(format, whole[:size])


@settings(deadline=None, max_examples=150, database=None)
@given(st.integers(0, len(WHOLE["PNG"]) - 1), st.integers(1, 255))
def test_a_damaged_png(place: int, change: int) -> None:
    content = bytearray(WHOLE["PNG"])
    content[place] ^= change
    refused_or_right("PNG", bytes(content))


@settings(deadline=None, max_examples=100, database=None)
@given(st.sampled_from(sorted(WHOLE)), st.binary(max_size=60), st.booleans())
def test_any_bytes(format: str, content: bytes, headed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"x.{format}")
        file.write_bytes(WHOLE[format][:12] * headed + content)
        with pytest.raises(UserError, match=f"^{file} "):
            read(file)


def test_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(tmp_path / "x.png", Image.fromarray(SCENE))
    monkeypatch.setattr(images, "available_mib", lambda: 1.0)
    assert len(read(*[file] * 100)) == 100
    with pytest.raises(
        UserError, match=r"^1,000 images of 256x256 pixels need 0\.5 GiB .*--image-"
    ):
        read_pixels([file] * 1000, (256, 256, 3))


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(tmp_path / "x.png", Image.fromarray(SCENE))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pillow: pip install"):
        read(file)
