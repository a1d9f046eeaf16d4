"""Options of all figures: the data, the network and the size of the runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.common.files import check_folder
from experiments.common.options import seeds
from experiments.data.dataset import DatasetName
from experiments.models import ModelName
from experiments.training.config import TrainConfig
from experiments.training.resolve import resolve


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """Options of every figure. Those left out are those of experiments.train."""

    dataset: DatasetName = "digits"
    """Training and test images."""
    model: ModelName = "simple_cnn"
    """Network. simple_cnn is the paper's six-layer CNN."""
    seeds: tuple[int, ...] = (0,)
    """Seeds, one run of everything for each."""
    epochs: int | None = None
    """Passes over the training images (None: as in experiments.train)."""
    batch_size: int = 256
    """Images per step."""
    learning_rate: float = 0.1
    """Initial learning rate."""
    train_images: int | None = None
    """Train on the first images of every class only, so many in all (None: on all)."""
    test_images: int | None = None
    """Test on the first images of every class only, so many in all (None: on all)."""
    data_dir: Path | None = None
    """Directory of the data set, see experiments.train."""
    image_size: int | None = None
    """folder: pixels of each side, see experiments.train."""
    out: Path = Path("runs/figures")
    """Folder of the picture and its numbers."""
    runs: Path = Path("runs/figures")
    """Folder of the training runs. Those that are there and finished are not run again."""


def train_config(options: FigureOptions, **changes: Any) -> TrainConfig:
    """Make a run's configuration from the options.

    Args:
        options: The options.
        **changes: Further fields of the configuration, such as the method and the seed.

    Returns:
        The configuration.
    """
    return TrainConfig(
        dataset=options.dataset,
        model=options.model,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        train_images=options.train_images,
        test_images=options.test_images,
        data_dir=options.data_dir,
        image_size=options.image_size,
        checkpoint_every=1,  # an epoch of a figure may take minutes
        **changes,
    )


def check(options: FigureOptions) -> None:
    """Refuse wrong seeds, and a folder that cannot be written.

    Raises:
        UserError: They are.
    """
    seeds("seeds", options.seeds)
    check_folder(options.out)


def size_of_runs(options: FigureOptions) -> str:
    """Say what was run, for the caption of a figure."""
    epochs = resolve(train_config(options)).epochs
    images = "all" if options.train_images is None else f"{options.train_images:,}"
    seeds = "seed" if len(options.seeds) == 1 else "seeds"
    return (
        f"{options.model} on {options.dataset}, {images} training images, "
        f"{epochs} epoch{'s' if epochs > 1 else ''}, batch size {options.batch_size}, "
        f"learning rate {options.learning_rate:g}, {seeds} {', '.join(map(str, options.seeds))}"
    )
