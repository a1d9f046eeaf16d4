"""One part of a data set, training or test."""

import numpy as np
from numpy.typing import NDArray

from experiments.errors import UserError

# Images and labels.
Split = tuple[NDArray[np.uint8], NDArray[np.int32]]


def check_labels(where: str, labels: NDArray[np.integer], num_classes: int) -> None:
    """Refuse labels of no class.

    Args:
        where: How the error begins.
        labels: At least one.
        num_classes: Number of classes.

    Raises:
        UserError: A label is not in [0, num_classes).
    """
    low, high = labels.min(), labels.max()
    if low < 0 or high >= num_classes:
        bad = low if low < 0 else high
        raise UserError(f"{where} holds the label {bad}, outside [0, {num_classes}).")
