"""Reads data sets by tensorflow-datasets (TFDS), where the original files are missing.

TFDS is imported where it is used, for it belongs to the extra `tfds`, which nothing else needs.
"""

import contextlib
import importlib.util
import io
import logging
import os
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.errors import UserError
from experiments.data.dataset import Split, check_labels

_PROBE_SECONDS = 5.0


def read_tfds(
    name: str, data_dir: Path | None, image_shape: tuple[int, int, int], missing: str
) -> tuple[Split, Split]:
    """Read a data set that TFDS has prepared, or let it download and prepare it.

    TFDS itself verifies the checksums of what it downloads, and what it prepares gets its name only
    when it is complete.

    Args:
        name: TFDS's name of the data set.
        data_dir: TFDS's directory (None: TFDS's default).
        image_shape: The shape that its images must have.
        missing: What to say of the original files that are missing, without a full stop.

    Returns:
        Images and labels of the training and of the test set. CIFAR's are in their published order;
        of Fashion-MNIST's TFDS keeps no record, so that they are in the order of TFDS.

    Raises:
        UserError: TFDS is not installed, the data set is neither there nor to be had, or it is not
            what it should be.
    """
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise UserError(
            f"{missing}, or install tensorflow-datasets with `pip install -e '.[tfds]'`."
        )
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    directory = data_dir or Path(default).expanduser()
    with _silence():
        with _told(f"TFDS cannot open {name} in {directory}"):
            import tensorflow_datasets as tfds

            tfds.disable_progress_bar()
            builder = tfds.builder(name, data_dir=directory)
            prepared = builder.is_prepared()
        if not prepared:
            # Without a network TFDS would try for minutes.
            if not all(reachable(url) for url in builder.url_infos):
                raise UserError(
                    f"{missing}; TFDS has not prepared {name} in {directory} either, and cannot "
                    "download it, because its server does not answer."
                )
            with _told(f"TFDS cannot prepare {name} in {directory}"):
                builder.download_and_prepare(
                    # The format that is read without tensorflow.
                    file_format="array_record",
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                )
        with _told(f"TFDS cannot read {name} in {directory}"):
            return _split(builder, "train", image_shape), _split(builder, "test", image_shape)


def reachable(url: str) -> bool:
    """Ask whether the server of a URL answers within a few seconds."""
    answers = []

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError):
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=_PROBE_SECONDS).close()
            answers.append(True)

    # No timeout of a request bounds the look-up of its host's name: hence a thread.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * _PROBE_SECONDS)
    return bool(answers)


def _split(builder: Any, split: str, image_shape: tuple[int, int, int]) -> Split:
    where = f"The {split} set of {builder.name} in {builder.data_dir}"
    rows = list(_rows(builder, split))
    expected = builder.info.splits[split].num_examples
    if not rows or len(rows) != expected:
        raise UserError(f"{where} holds {len(rows)} images, not {expected}.")
    if "id" in rows[0]:
        rows.sort(key=lambda row: row["id"])
    if wrong := {row["image"].shape for row in rows} - {image_shape}:
        raise UserError(f"{where} holds images of {min(wrong)}, not {image_shape}.")
    images = np.stack([row["image"] for row in rows])
    labels = np.array([row["label"] for row in rows], np.int32)
    check_labels(where, labels, builder.info.features["label"].num_classes)
    return images, labels


def _rows(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """Read the examples as NumPy values, whatever format they were prepared in."""
    try:
        yield from builder.as_data_source(split)
    except NotImplementedError:
        # tfrecord, in which TFDS prepares by default, has no random access.
        yield from builder.as_dataset(split=split).as_numpy_iterator()


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn an error of TFDS into one sentence: they come from many packages, without a common base.

    Args:
        what: How the sentence begins.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise UserError(f"{what} ({reason.rstrip('.:')}).") from None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep TFDS and tensorflow from printing; the errors say what matters."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    loggers = [logging.getLogger(name) for name in ("absl", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
