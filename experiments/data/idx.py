"""Reader of the idx format, in which MNIST and Fashion-MNIST are distributed."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.common.errors import UserError

_UNSIGNED_BYTE = 0x08
# Above the 47 million of MNIST's training images.
_MOST_BYTES = 1 << 26
_PIECE = 1 << 20


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read a gzipped idx file of unsigned bytes.

    The header is checked before anything of the size that it claims is allocated.

    Args:
        path: The file.
        ndim: Number of dimensions that the file must have.

    Returns:
        The array.

    Raises:
        UserError: The file cannot be read or is not what it should be.
    """
    try:
        with gzip.open(path) as file:
            header = file.read(4 + 4 * ndim)
            if header[:4] != bytes((0, 0, _UNSIGNED_BYTE, ndim)):
                raise UserError(f"{path} is not an idx file of {ndim}-dimensional unsigned bytes.")
            if len(header) < 4 + 4 * ndim:
                raise UserError(f"{path} is truncated: it ends within its header.")
            shape = struct.unpack(f">{ndim}I", header[4:])
            size = math.prod(shape)
            if not 0 < size <= _MOST_BYTES:
                raise UserError(f"{path} claims the impossible shape {shape}.")
            # Piece by piece: what is not there is not allocated.
            content = bytearray()
            while len(content) <= size and (piece := file.read(min(_PIECE, size + 1))):
                content += piece
    except EOFError:
        raise UserError(f"{path} is truncated: its gzip stream ends too early.") from None
    except (OSError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    if len(content) != size:
        found = "fewer" if len(content) < size else "more"
        raise UserError(f"{path} holds {found} than the {size} bytes that its header promises.")
    return np.frombuffer(content, np.uint8).reshape(shape)
