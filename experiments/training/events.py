"""Event files of a run, which TensorBoard shows: the numbers of metrics.jsonl."""

import importlib.util
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.common.errors import UserError
from experiments.training.step import EpochMetrics

FOLDER = "tensorboard"
_AFTER_AN_EPOCH = {
    "loss/train": "train_loss",
    "loss/test": "test_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/test": "test_accuracy",
    "curvature/lambda_max": "lambda_max",
    "curvature/angle": "angle",
}


def check_tensorboard() -> None:
    """Raises `UserError` unless the package that writes the files is installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError("--tensorboard needs tensorboardX: pip install -e '.[tensorboard]'.")


@contextmanager
def event_files(out: Path) -> Iterator[Callable[[Sequence[EpochMetrics]], None]]:
    """Write a run's event files anew, from its first epoch on, so that no step is there twice.

    Args:
        out: Folder of the run.

    Yields:
        A function that is given all epochs so far, and writes those that are new. The x axis of
        everything is the number of steps.
    """
    from tensorboardX import SummaryWriter

    shutil.rmtree(out / FOLDER, ignore_errors=True)
    files = SummaryWriter(str(out / FOLDER))
    written = 0

    def write(epochs: Sequence[EpochMetrics]) -> None:
        nonlocal written
        for epoch in epochs[written:]:
            last = epoch.epoch * len(epoch.step_losses)
            for step, loss in enumerate(epoch.step_losses, last - len(epoch.step_losses) + 1):
                files.add_scalar("loss/step", loss, step)
            for tag, name in _AFTER_AN_EPOCH.items():
                if (value := getattr(epoch, name)) is not None:
                    files.add_scalar(tag, value, last)
        written = len(epochs)
        files.flush()

    try:
        yield write
    finally:
        files.close()
