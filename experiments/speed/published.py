"""Time a step of X-SAM's published PyTorch code and of ours, in one process.

python -m experiments.speed.published --code X-SAM/XSAM                       # six-layer CNN
python -m experiments.speed.published --code X-SAM/XSAM --model resnet18 --batch-size 32

The authors' code is not part of this project: get it with
`git clone https://github.com/huang5467/X-SAM`. PyTorch is the extra published:
pip install -e '.[experiments,published]'. Their functions are called in the order of their training
loop, which itself is not run. Ours are whole steps inside of `channels_last`, as in
experiments.train; SAM in optax is as it comes. Their ResNet-18 is that of their code, the six-layer
CNN is the same in both; images have 32x32 pixels in colours, parameters are float32. Each round
takes every step once, so that a drift of the machine's speed meets all of them. Nothing else may
run on the machine meanwhile. On a GPU PyTorch must see it too.

Runtime: minutes on two cores. Expected: docs/cost.md.
"""

import importlib.util
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import jax
import numpy as np

from experiments.common.errors import UserError, command_line, exit_on_user_error
from experiments.common.files import make_folder
from experiments.common.options import AT_LEAST_ONE, check
from experiments.common.tables import markdown
from experiments.models.network import Batch
from experiments.speed.compilation import compile_step, seconds_of
from experiments.speed.pytorch import need_pytorch, save
from experiments.speed.steps import BASELINE, BETWEEN, ONE, QUARTER, REFRESH, all_steps
from experiments.speed.table import mean_of
from experiments.speed.workloads import image_workload
from xsam_jax import channels_last

_SHAPE = (32, 32, 3)
_FILES = ("sam", "utils", "bypass_bn", "resnet")
# Of X-SAM's authors: their default and their command for CIFAR-10.
_PERIODS = (5, 3)
_THEIRS = "published code, "
_FREE = ("xsam, oja", "xsam, subspace")
_OURS = ("sam", *_FREE, BETWEEN, REFRESH, ONE, QUARTER)
# The authors' period with less in each refresh.
_CHEAPER = {"xsam, p=5 q=1": ONE, "xsam, p=5 q=5 on 1/4 of the batch": QUARTER}


@dataclass(frozen=True, kw_only=True)
class PublishedConfig:
    """Options of the measurement."""

    code: Path
    """Folder of the published code, with its sam.py, utils.py, bypass_bn.py and resnet.py."""
    model: Literal["simple_cnn", "resnet18"] = "simple_cnn"
    """Network."""
    batch_size: int = 128
    """Images per step."""
    rounds: int = 15
    """Rounds; every step is measured once in each."""
    out: Path = Path("runs/published")
    """Folder of the measurement, a JSON file named after platform, model and batch size."""


def load(code: Path) -> Mapping[str, ModuleType]:
    """Import the files of the published code.

    Raises:
        UserError: One of the files is missing.
    """
    modules = {}
    for name in _FILES:
        file = code / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"published_{name}", file)
        if not file.is_file() or spec is None or spec.loader is None:
            raise UserError(f"--code {code} has no {name}.py: name the folder XSAM of its clone.")
        modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    return modules


def their_steps(
    code: Mapping[str, ModuleType], model: str, batch: Batch
) -> dict[str, Callable[[], None]]:
    """Make the published code's steps: SAM, and X-SAM with and without a refresh."""
    import torch

    place = "cuda" if torch.cuda.is_available() else "cpu"
    images = torch.tensor(np.asarray(batch.images), dtype=torch.float32) / 255
    images = images.permute(0, 3, 1, 2).contiguous().to(place)
    labels = torch.tensor(np.asarray(batch.labels), dtype=torch.int64).to(place)
    network = (code["resnet"].get_resnet(18) if model == "resnet18" else _six_layers()).to(place)
    network.train()
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = code["sam"].SAM(
        network.parameters(), torch.optim.SGD, lr=0.01, momentum=0.9, rho=0.05
    )
    vector: Any = None

    def two_passes(correct: bool) -> None:
        optimizer.zero_grad()
        code["bypass_bn"].enable_running_stats(network)
        loss = criterion(network(images), labels)
        loss.item()  # as their loop adds it up
        loss.backward()
        optimizer.first_step(zero_grad=True)
        code["bypass_bn"].disable_running_stats(network)
        criterion(network(images), labels).backward()
        if correct:
            code["utils"].modify_gradientpho_with_projection(network, vector, alpha=0.2)
        optimizer.second_step(zero_grad=True)
        if place == "cuda":
            torch.cuda.synchronize()

    def refresh() -> None:
        nonlocal vector
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backward(create_graph=True)
            vector = code["utils"].estimate_largest_eigenvector(
                network, criterion, vector, images, labels, steps=5
            )
        two_passes(correct=True)

    refresh()
    return {
        f"{_THEIRS}SAM": partial(two_passes, correct=False),
        f"{_THEIRS}between": partial(two_passes, correct=True),
        f"{_THEIRS}refresh": refresh,
    }


def _six_layers() -> Any:
    """Make the network of `experiments.models.simple_cnn` in PyTorch."""
    from torch import nn

    def conv(inputs: int, outputs: int) -> list[Any]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]

    first = [*conv(3, 32), *conv(32, 32), nn.MaxPool2d(2)]
    second = [*conv(32, 64), *conv(64, 64), nn.MaxPool2d(2)]
    dense = [nn.Flatten(), nn.Linear(64 * 8 * 8, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*first, *second, *dense)


def measure(config: PublishedConfig) -> dict[str, list[float]]:
    """Time every step in each round, theirs and ours.

    Raises:
        UserError: PyTorch or a file of the code is missing.
    """
    need_pytorch("experiments.speed.published")
    code = load(config.code)
    work = image_workload(config.model, _SHAPE)
    batch = work.batch(config.batch_size)
    calls: dict[str, Callable[[], Any]] = {**their_steps(code, config.model, batch)}
    steps = all_steps(work)
    for name in (BASELINE, *_OURS):
        step = steps[name]
        if name != BASELINE:
            step = step._replace(function=channels_last(step.function))
        program, _ = compile_step(step, work.params, batch)
        calls[name] = partial(program, work.params, step.state, batch)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(config.rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call() if name.startswith(_THEIRS) else seconds_of(call, 1)
            if i:  # the first round warms up
                taken[name].append(time.perf_counter() - started)
    return taken


def seconds_of_steps(taken: Mapping[str, list[float]]) -> dict[str, float]:
    """Take the median seconds of each step, those of a schedule as means over its steps."""
    seconds = {name: float(np.median(times)) for name, times in taken.items()}
    found = {name: seconds[name] for name in (f"{_THEIRS}SAM", BASELINE, "sam")}
    for p in _PERIODS:
        refresh, between = (seconds[f"{_THEIRS}{kind}"] for kind in ("refresh", "between"))
        found[f"{_THEIRS}X-SAM, p={p} q=5"] = mean_of(p, refresh, between)
        found[f"xsam, p={p} q=5"] = mean_of(p, seconds[REFRESH], seconds[BETWEEN])
    for name, cheaper in _CHEAPER.items():
        found[name] = mean_of(_PERIODS[0], seconds[cheaper], seconds[BETWEEN])
    return found | {name: seconds[name] for name in _FREE}


def relative(taken: Mapping[str, list[float]]) -> dict[str, float]:
    """Divide the seconds of each step by those of the published SAM."""
    seconds = seconds_of_steps(taken)
    return {name: s / seconds[f"{_THEIRS}SAM"] for name, s in seconds.items()}


def table(taken: Mapping[str, list[float]]) -> str:
    """Format the seconds of each step, and their ratio to the published SAM's."""
    ratios = relative(taken)
    header = ("step", "seconds", "relative to the published SAM")
    steps = seconds_of_steps(taken).items()
    return markdown(header, [(name, f"{s:#.3g}", f"{ratios[name]:.2f}") for name, s in steps])


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        config = command_line(PublishedConfig, "experiments.speed.published", __doc__)
        check("batch-size", config.batch_size, AT_LEAST_ONE)
        check("rounds", config.rounds, AT_LEAST_ONE)
        # PyTorch needs a part of a GPU too.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        taken = measure(config)
        make_folder(config.out)
        name = f"{jax.default_backend()}-published-{config.model}-{config.batch_size}.json"
        options = {
            "code": "DIR",
            "model": config.model,
            "batch_size": config.batch_size,
            "rounds": config.rounds,
        }
        print(table(taken))
        save(config.out / name, "experiments.speed.published", options, seconds=taken)


if __name__ == "__main__":
    main()
