"""Largest Hessian eigenvalue of a whole data set in the memory of one batch, and what it costs.

python -m experiments.lambda_max                       # six-layer CNN, digits: half a minute
python -m experiments.lambda_max --model resnet18 --dataset fashion_mnist --images 2048 \
    --num-matvecs 8

The second took 76 minutes of CPU time beside other work, 0.25 s a product and image
(results/curvature). Its residual is as large as its value: at initialization eight products are too
few: the value is a lower bound. Thirty would take four hours of CPU time at that rate.

The network is at its initial parameters, and BatchNorm normalises with the statistics of each
batch, so that the loss is the mean over batches of what a training step sees.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

from experiments.config import DatasetName, ModelName
from experiments.data import load
from experiments.errors import UserError, exit_on_user_error
from experiments.machine import device, peak_mib
from experiments.network import Batch, build_network
from experiments.results import versions, write_json
from experiments.sharpness import subset_gradient
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
    data_dir: Path | None = None
    """fashion_mnist: directory of the four idx .gz files (None: where Debian installs them)."""
    out: Path = Path("results/curvature")
    """Folder of the measurement, a JSON file named after platform, model, data set and images."""


def measure(config: LambdaMaxConfig) -> dict[str, Any]:
    """Compute the eigenvalue.

    Args:
        config: The options.

    Returns:
        The eigenvalue, the norm of ``H v - value v``, and time and memory.

    Raises:
        UserError: The numbers do not go together, or the data are missing.
    """
    data = load(config.dataset, config.data_dir)
    if min(config.images, config.batch_size, config.num_matvecs) < 1:
        raise UserError("--images, --batch-size and --num-matvecs must be at least 1.")
    if config.images % config.batch_size or config.images > len(data.train_images):
        raise UserError(
            f"--images must be a multiple of --batch-size = {config.batch_size}, at most the "
            f"{len(data.train_images)} there are, not {config.images}."
        )
    network = build_network(config.model, data, jax.random.key(0))

    def batched(images: jax.Array) -> jax.Array:
        return images[: config.images].reshape(-1, config.batch_size, *images.shape[1:])

    batches = Batch(
        batched(jnp.asarray(data.train_images)), batched(jnp.asarray(data.train_labels))
    )

    @jax.jit
    def top(params: object, batches: Batch) -> curvature.Eigenpairs:
        return curvature.top_eigenpairs(
            subset_gradient(network.train, network.batch_stats, batches),
            params,
            num_matvecs=config.num_matvecs,
            key=jax.random.key(0),
        )

    compiled = top.lower(network.params, batches).compile()
    wall, cpu = time.perf_counter(), time.process_time()
    pairs = jax.block_until_ready(compiled(network.params, batches))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    products = config.num_matvecs + 1
    return {
        "lambda_max": float(pairs.values[0]),
        "residual": float(pairs.residuals[0]),
        "products": products,
        "seconds": wall,
        "cpu_seconds": cpu,
        "cpu_seconds_per_product_and_image": cpu / products / config.images,
        "peak_resident_mib": peak_mib(),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(network.params)),
        "device": device(),
        "versions": versions(),
    }


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        config = tyro.cli(
            LambdaMaxConfig, prog="python -m experiments.lambda_max", description=__doc__
        )
        record = {
            "command": f"python -m experiments.lambda_max --model {config.model} --dataset "
            f"{config.dataset} --images {config.images} --batch-size {config.batch_size} "
            f"--num-matvecs {config.num_matvecs}",
            **measure(config),
        }
        config.out.mkdir(parents=True, exist_ok=True)
        name = f"{jax.default_backend()}-{config.model}-{config.dataset}-{config.images}.json"
        file = config.out / name
        write_json(file, record)
        print(
            f"lambda_max {record['lambda_max']:.6g}, residual {record['residual']:.2g}, "
            f"{record['cpu_seconds']:.0f} s of CPU time, written to {file}"
        )


if __name__ == "__main__":
    main()
