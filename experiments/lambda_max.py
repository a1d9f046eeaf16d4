"""Largest Hessian eigenvalue on a whole data set, in the memory of one batch, and its cost.

python -m experiments.lambda_max                       # six-layer CNN, digits: half a minute
python -m experiments.lambda_max --model resnet18 --dataset fashion_mnist --images 128 \
    --num-matvecs 24
python -m experiments.lambda_max --model resnet18 --dataset fashion_mnist --images 2048 \
    --start-images 256 --start-matvecs 20 --num-matvecs 10

The last one, which starts from the eigenvector of 256 images, took 31 minutes of CPU time on two
cores of an Intel Xeon, 0.07 s a product and image, and 4.8 GiB: lambda_max is 74.4 with a residual
of 0.6 (results/curvature).

The network is at its initial parameters, and BatchNorm normalises with the statistics of each
batch, so that the loss is the mean over batches of what a training step sees.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import NDArray

from experiments.common.errors import UserError, command_line, exit_on_user_error
from experiments.common.files import make_folder, write_json
from experiments.common.machine import device, peak_mib, versions
from experiments.common.many import bars_shown
from experiments.common.options import NONE_OR_ONE, check, command
from experiments.data.dataset import DatasetName
from experiments.data.sources import file_name, fingerprint, load
from experiments.models import ModelName
from experiments.models.network import Batch, build_network
from experiments.training.measure import subset_gradient
from xsam_jax import curvature


@dataclass(frozen=True)
class LambdaMaxConfig:
    """Options of the measurement."""

    model: ModelName = "simple_cnn"
    """Network."""
    dataset: DatasetName = "digits"
    """Its training images are used, the first ones."""
    images: int = 1024
    """Images of the loss, a multiple of the batch size."""
    batch_size: int = 128
    """Images in memory at a time."""
    num_matvecs: int = 10
    """Dimension of the Krylov space; one product more gives the residual."""
    start_images: int | None = None
    """The space starts from the eigenvector of so many images, a multiple of the batch size (None:
    from a random vector)."""
    start_matvecs: int = 20
    """Dimension of the space in which that one is found."""
    data_dir: Path | None = None
    """Directory of the data set, see experiments.train."""
    image_size: int | None = None
    """folder: pixels of each side, see experiments.train."""
    out: Path = Path("runs/curvature")
    """Folder of the measurement, a JSON file named after platform, model, data set and images."""


def measure(config: LambdaMaxConfig) -> dict[str, Any]:
    """Compute the eigenvalue.

    Args:
        config: The options.

    Returns:
        The eigenvalue, the norm of ``H v - value v``, and time and memory.

    Raises:
        UserError: The numbers do not go together, the data are missing, or the folder cannot be
            written.
    """
    data = load(config.dataset, config.data_dir, config.image_size)
    sizes = [config.images] if config.start_images is None else [config.start_images, config.images]
    for name in ("images", "start_images", "batch_size", "num_matvecs", "start_matvecs"):
        check(name, getattr(config, name), NONE_OR_ONE)
    if config.start_images is None and config.start_matvecs != LambdaMaxConfig.start_matvecs:
        raise UserError("--start-matvecs is for a start from --start-images, and there are none.")
    for option, size in zip(("--images", "--start-images"), reversed(sizes), strict=False):
        if size % config.batch_size or size > len(data.train_images):
            raise UserError(
                f"{option} must be a multiple of --batch-size = {config.batch_size}, at most the "
                f"{len(data.train_images)} there are, not {size}."
            )
    make_folder(config.out)
    network = build_network(config.model, data, jax.random.key(0))

    def batches(size: int) -> Batch:
        def stacked(values: NDArray[Any]) -> jax.Array:
            return jnp.asarray(values[:size].reshape(-1, config.batch_size, *values.shape[1:]))

        return Batch(stacked(data.train_images), stacked(data.train_labels))

    @partial(jax.jit, static_argnames="num_matvecs")
    def top(params: Any, batches: Batch, start: Any, num_matvecs: int) -> curvature.Eigenpairs:
        return curvature.top_eigenpairs(
            subset_gradient(network.train, network.batch_stats, batches),
            params,
            num_matvecs=num_matvecs,
            start=start,
            key=jax.random.key(0),
        )

    # A vector of zeros is no start: the first one is random.
    start = jax.tree.map(jnp.zeros_like, network.params)
    products: dict[int, int] = {}
    seconds = cpu_seconds = 0.0
    dimensions = [config.start_matvecs, config.num_matvecs][-len(sizes) :]
    for size, num_matvecs in zip(sizes, dimensions, strict=True):
        arguments = network.params, batches(size), start
        compiled = top.lower(*arguments, num_matvecs).compile()
        wall, cpu = time.perf_counter(), time.process_time()
        pairs = jax.block_until_ready(compiled(*arguments))
        seconds += time.perf_counter() - wall
        cpu_seconds += time.process_time() - cpu
        start = jax.tree.map(lambda leaf: leaf[0], pairs.vectors)
        products[size] = products.get(size, 0) + num_matvecs + 1
    of_an_image = sum(size * number for size, number in products.items())
    return {
        "lambda_max": float(pairs.values[0]),
        "residual": float(pairs.residuals[0]),
        "products": products,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "cpu_seconds_per_product_and_image": cpu_seconds / of_an_image,
        "peak_resident_mib": peak_mib(),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(network.params)),
        "device": device(),
        "versions": versions(),
    }


def main() -> None:
    """Run the command line."""
    with exit_on_user_error(), bars_shown():
        config = command_line(LambdaMaxConfig, "experiments.lambda_max", __doc__)
        record = {
            "command": command(
                "experiments.lambda_max",
                model=config.model,
                dataset=config.dataset,
                images=config.images,
                batch_size=config.batch_size,
                num_matvecs=config.num_matvecs,
                start_images=config.start_images,
                start_matvecs=None if config.start_images is None else config.start_matvecs,
                image_size=config.image_size,
            ),
            **measure(config),
        }
        images = fingerprint(config.dataset, config.data_dir)
        dataset = file_name(config.dataset, config.data_dir, images)
        name = f"{jax.default_backend()}-{config.model}-{dataset}-{config.images}.json"
        file = config.out / name
        write_json(file, record)
        print(
            f"lambda_max {record['lambda_max']:.6g}, residual {record['residual']:.2g}, "
            f"{record['cpu_seconds']:.0f} s of CPU time, written to {file}"
        )


if __name__ == "__main__":
    main()
