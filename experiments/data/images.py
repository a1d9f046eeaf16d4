"""Image files as one array of unsigned bytes.

They are looked through twice: the first time at their headers, which say how large the array is,
and the second time at their pixels, which are written into it. Pillow is imported where it is used.
"""

import importlib.util
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from experiments.common.errors import UserError
from experiments.common.machine import available_mib
from experiments.common.many import for_all
from experiments.data.class_folders import FORMATS

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
U = TypeVar("U")
# A JPEG into which a phone has put a second picture.
_TWO_PICTURES = "MPO"
_GRAY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L"}


class Header(NamedTuple):
    """What a file says of its image: height and width as it is shown, and whether it is gray."""

    height: int
    width: int
    gray: bool


def read_headers(files: Sequence[Path]) -> list[Header]:
    """Read what files say of their images.

    Raises:
        UserError: One of them is no whole image of the format that its name says; it is named.
    """
    return _for_all("looking at images", _header, files)


def common_shape(files: Sequence[Path], headers: Sequence[Header]) -> tuple[int, int, int]:
    """Height, width and channels of all images: one channel if all are stored as gray, else three.

    Raises:
        UserError: They do not have one size; two are named.
    """
    first = headers[0]
    for file, header in zip(files, headers, strict=True):
        if header[:2] != first[:2]:
            raise UserError(
                f"{files[0]} has {first.width}x{first.height} pixels and {file} "
                f"{header.width}x{header.height}: give all images one size with --image-size."
            )
    return first.height, first.width, 1 if all(header.gray for header in headers) else 3


def read_pixels(files: Sequence[Path], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Read images.

    What an image shows through is white, 16 bits become the upper 8, and a photograph that says
    which side is up is turned. Of an image of another size the shorter side is scaled and the
    middle taken.

    Args:
        files: The images.
        shape: Height, width and channels, 1 for gray or 3 for red, green and blue.

    Returns:
        Pixels (n, height, width, channels).

    Raises:
        UserError: One of them cannot be read to its end; it is named. Or they do not fit into the
            memory.
    """
    _check_memory(len(files), shape)
    images = np.empty((len(files), *shape), np.uint8)

    def read(index: int) -> None:
        with _opened(files[index]) as image:
            images[index] = _pixels(image, shape)

    _for_all("reading images", read, range(len(files)))
    return images


def _check_memory(count: int, shape: tuple[int, int, int]) -> None:
    """Refuse what would not fit together with its copies for the device and for a held-out part."""
    needed, available = 3 * count * math.prod(shape) / 2**30, available_mib() / 2**10
    if needed > available:
        height, width, _ = shape
        raise UserError(
            f"{count:,} images of {width}x{height} pixels need {needed:.1f} GiB of memory, and "
            f"{available:.1f} GiB are there: take fewer, or make them smaller with --image-size."
        )


def _header(file: Path) -> Header:
    with _opened(file) as image:
        pictures = getattr(image, "n_frames", 1)
        if pictures > 1 and image.format != _TWO_PICTURES:
            raise UserError(f"{file} is an animation of {pictures} pictures: keep one of them.")
        # Of a PNG the checksums of its parts.
        image.verify()
        width, height = image.size
        if _orientation(image) > 4:
            width, height = height, width
        return Header(height, width, image.mode in _GRAY)


def _pixels(image: "Image", shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    height, width, channels = shape
    orientation = _orientation(image)
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I"):
        # Pillow itself would take 256 and all above for white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != mode:
        image = image.convert(mode)
    if orientation > 1:
        turns = Image.Transpose
        image = image.transpose(
            {
                2: turns.FLIP_LEFT_RIGHT,
                3: turns.ROTATE_180,
                4: turns.FLIP_TOP_BOTTOM,
                5: turns.TRANSPOSE,
                6: turns.ROTATE_270,
                7: turns.TRANSVERSE,
                8: turns.ROTATE_90,
            }[orientation]
        )
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(shape)


def _orientation(image: "Image") -> int:
    """EXIF's number for how an image is to be turned, in [1, 8]; 1 where none is given."""
    if "exif" not in image.info:
        return 1
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # A broken one may raise anything, and its image is whole.
        return 1
    return orientation if orientation in range(1, 9) else 1


@contextmanager
def _opened(file: Path) -> Iterator["Image"]:
    """An image; what goes wrong with it becomes a `UserError` that names it."""
    from PIL import Image, UnidentifiedImageError

    expected = FORMATS[file.suffix.lower()]
    try:
        with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as image:
            found = "JPEG" if image.format == _TWO_PICTURES else image.format
            if found != expected:
                raise UserError(f"{file} is no {expected} image, but a {found}: rename it.")
            yield image
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(
            f"{file} claims to have more than the {Image.MAX_IMAGE_PIXELS:,} pixels that an image "
            "may have."
        ) from None
    except UnidentifiedImageError:
        reason = "it is no such image" if file.stat().st_size else "it is empty"
        raise UserError(f"{file} cannot be read as {expected}: {reason}.") from None
    except Exception as error:  # Pillow's have no common base.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{file} cannot be read as {expected}: {reason.rstrip('.')}.") from None


def _for_all(what: str, action: Callable[[T], U], values: Sequence[T]) -> list[U]:
    if importlib.util.find_spec("PIL") is None:
        raise UserError("Images are read by pillow: pip install -e '.[experiments]'.")
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return for_all(what, action, values)
