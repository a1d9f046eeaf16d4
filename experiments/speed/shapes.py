"""Speed of each convolution of a network, by XLA, by `channels_last` and by oneDNN.

python -m experiments.speed.shapes                                  # six-layer CNN, 128 images
python -m experiments.speed.shapes --model resnet18 --batch-size 32
python -m experiments.speed.shapes --model wide_resnet28_10 --batch-size 32

oneDNN is called by PyTorch, the extra published: pip install -e '.[experiments,published]'. Images
have 32x32 pixels in colours, numbers are float32, and all layouts are channels-last. Each round
takes every convolution three times, once by each library, so that a drift of the machine's speed
meets all of them; the lower quartile of the rounds counts. It measures the CPU, also where there is
a GPU. Nothing else may run on the machine meanwhile.

Runtime: minutes on two cores. Expected: docs/cost.md.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from jax import lax
from jax.extend import core
from jax.extend.core.primitives import conv_general_dilated_p

from experiments.common.errors import UserError, command_line, exit_on_user_error
from experiments.common.files import make_folder
from experiments.common.options import AT_LEAST_ONE, check
from experiments.common.tables import markdown
from experiments.models import ModelName
from experiments.speed.pytorch import need_pytorch, save
from experiments.speed.workloads import image_workload
from xsam_jax import channels_last

_SHAPE = (32, 32, 3)
_SAMPLE_SECONDS = 0.02  # of one measurement at least
KINDS = ("forward", "input's gradient", "kernel's gradient")
LIBRARIES = ("XLA", "channels_last", "oneDNN")


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """Options of the measurement."""

    model: ModelName = "simple_cnn"
    """Network, on images of 32x32 pixels in colours."""
    batch_size: int = 128
    """Images."""
    rounds: int = 12
    """Rounds; everything is measured once in each."""
    out: Path = Path("runs/shapes")
    """Folder of the measurement, a JSON file named after model and batch size."""


class Convolution(NamedTuple):
    """A layer: shapes of its images (NHWC) and its kernel (HWIO), stride, pixels around."""

    images: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int
    padding: int

    def __str__(self) -> str:
        """The layer in words."""
        _, height, width, inputs = self.images
        rows, columns, _, outputs = self.kernel
        stride = "" if self.stride == 1 else f", stride {self.stride}"
        return f"{rows}x{columns} on {height}x{width}{stride}, {inputs} to {outputs}"

    def layer(self, images: chex.Array, kernel: chex.Array) -> jax.Array:
        """The convolution."""
        return lax.conv_general_dilated(
            images,
            kernel,
            (self.stride,) * 2,
            ((self.padding,) * 2,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def gigaflops(self) -> float:
        """Operations of each of the three."""
        out = jax.eval_shape(self.layer, *map(jax.ShapeDtypeStruct, self[:2], (np.float32,) * 2))
        return float(2 * out.size * math.prod(self.kernel[:-1]) / 1e9)


def convolutions(fn: Callable[..., Any], *args: Any) -> Counter[Convolution]:
    """The convolutions of a function, and how often each occurs."""

    def found(jaxpr: core.Jaxpr) -> Iterator[Convolution]:
        for eqn in jaxpr.eqns:
            if eqn.primitive is conv_general_dilated_p:
                operands: Any = eqn.invars
                images, kernel = (atom.aval.shape for atom in operands)
                (stride, _), ((padding, _), _) = (
                    eqn.params[name] for name in ("window_strides", "padding")
                )
                yield Convolution(images, kernel, stride, padding)
            for inner in core.jaxprs_in_params(eqn.params):
                yield from found(inner)

    return Counter(found(jax.make_jaxpr(fn)(*args).jaxpr))


def _ours(layer: Convolution, kind: str, fast: bool, operands: Sequence[Any]) -> Any:
    """A call that computes one of the three by XLA."""

    def gradient(place: int) -> Callable[..., Any]:
        def compute(images: Any, kernel: Any, cotangent: Any) -> Any:
            _, pull = jax.vjp(layer.layer, images, kernel)
            return pull(cotangent)[place]

        return compute

    fn: Any = {
        KINDS[0]: lambda images, kernel, _: layer.layer(images, kernel),
        KINDS[1]: gradient(0),
        KINDS[2]: gradient(1),
    }[kind]
    program = jax.jit(channels_last(fn) if fast else fn)
    return lambda: jax.block_until_ready(program(*operands))


def _theirs(layer: Convolution, kind: str, operands: Sequence[Any]) -> Any:
    """A call that computes one of the three by oneDNN."""
    import torch

    def tensor(array: Any, order: tuple[int, ...]) -> Any:
        there = torch.tensor(np.asarray(array).transpose(order))
        return there.contiguous(memory_format=torch.channels_last)

    images, cotangent = (tensor(operands[place], (0, 3, 1, 2)) for place in (0, 2))
    kernel = tensor(operands[1], (3, 2, 0, 1))
    stride, padding = [layer.stride] * 2, [layer.padding] * 2
    if kind == KINDS[0]:
        return partial(torch.conv2d, images, kernel, None, stride, padding)
    wanted = [kind == KINDS[1], kind == KINDS[2], False]
    backward = torch.ops.aten.convolution_backward
    rest = stride, padding, [1, 1], False, [0, 0], 1, wanted
    return partial(backward, cotangent, images, kernel, None, *rest)


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def measure(layer: Convolution, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each of the three by each library in every round."""
    draw = np.random.default_rng(0)

    def array(shape: tuple[int, ...]) -> Any:
        return draw.standard_normal(shape, np.float32)

    images, kernel = map(array, layer[:2])
    operands = images, kernel, array(jax.eval_shape(layer.layer, images, kernel).shape)
    on_cpu = jax.device_put(operands, jax.devices("cpu")[0])
    taken: dict[str, dict[str, list[float]]] = {}
    for kind in KINDS:
        calls = [_ours(layer, kind, fast, on_cpu) for fast in (False, True)]
        calls.append(_theirs(layer, kind, operands))
        for call in calls:
            call()
        repeats = [max(1, round(_SAMPLE_SECONDS / _seconds(call, 1))) for call in calls]
        taken[kind] = {name: [] for name in LIBRARIES}
        for _ in range(rounds):
            for name, call, number in zip(LIBRARIES, calls, repeats, strict=True):
                taken[kind][name].append(_seconds(call, number))
    return taken


def table(rows: Sequence[dict[str, Any]]) -> str:
    """GFLOP/s of each library by shape and kind, and channels_last's part of oneDNN's."""
    header = (
        "convolution",
        "times",
        "GFLOP",
        *(f"{kind}: {', '.join(LIBRARIES)}" for kind in KINDS),
    )

    def cell(row: dict[str, Any], kind: str) -> str:
        speeds = [row["gigaflops"] / np.quantile(row["seconds"][kind][n], 0.25) for n in LIBRARIES]
        return f"{', '.join(f'{speed:.0f}' for speed in speeds)} ({speeds[1] / speeds[2]:.2f})"

    return markdown(
        header,
        [
            (
                row["convolution"],
                str(row["times"]),
                f"{row['gigaflops']:.2f}",
                *(cell(row, kind) for kind in KINDS),
            )
            for row in rows
        ],
    )


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        config = command_line(ShapesConfig, "experiments.speed.shapes", __doc__)
        check("batch-size", config.batch_size, AT_LEAST_ONE)
        check("rounds", config.rounds, AT_LEAST_ONE)
        need_pytorch("experiments.speed.shapes")
        make_folder(config.out)
        work = image_workload(config.model, _SHAPE)
        found = convolutions(work.loss, work.params, work.batch(config.batch_size))
        if not found:
            raise UserError(f"--model {config.model} has no convolution.")
        rows = [
            {
                "convolution": str(layer),
                "times": times,
                "gigaflops": layer.gigaflops(),
                "seconds": measure(layer, config.rounds),
            }
            for layer, times in found.items()
        ]
        options = {
            "model": config.model,
            "batch_size": config.batch_size,
            "rounds": config.rounds,
        }
        print(table(rows))
        file = config.out / f"{config.model}-{config.batch_size}.json"
        save(file, "experiments.speed.shapes", options, rows=rows)


if __name__ == "__main__":
    main()
