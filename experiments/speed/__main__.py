"""Cost of a step of every method, relative to SAM in optax.

python -m experiments.speed                    # six-layer CNN, batch 128: 10 minutes on two cores
python -m experiments.speed --model resnet18 --batch-size 32

All compiled steps run in one process, one after the other in each round, so that a drift of the
machine's speed meets all of them. Two ratios are given: that of the fastest runs, and the median
over rounds of the ratio within a round, with its quartiles. Nothing else may run on the machine
meanwhile.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import lax

import xsam_jax
from experiments.config import ModelName
from experiments.errors import UserError, exit_on_user_error
from experiments.machine import device
from experiments.models import build_model
from experiments.network import Batch, as_functions, loss_and_outcome
from experiments.results import versions, write_json


@dataclass(frozen=True)
class SpeedConfig:
    """Options of the measurement."""

    model: ModelName = "simple_cnn"
    """Network."""
    batch_size: int = 128
    """Images per step, of 28x28 pixels."""
    rounds: int = 15
    """Rounds; every step is taken once in each."""
    epoch_steps: int = 8
    """Steps of the epoch that is run as one scan and as a loop; 0 leaves it out."""
    out: Path = Path("results/speed")
    """Folder of the measurement, a JSON file named after platform, model and batch size."""


class Step(NamedTuple):
    """A training step: ``(params, opt_state, batch) -> (params, opt_state)``."""

    function: Callable[..., Any]
    state: chex.ArrayTree


class Row(NamedTuple):
    """What a compiled step costs.

    Attributes:
        name: What was measured.
        fastest: Its fastest time relative to the fastest of optax.contrib.sam.
        ratio: Median over rounds of its time relative to optax.contrib.sam in the same round.
        quartiles: First and third quartile of these ratios.
        seconds: Median time.
        compile_seconds: Time of tracing, lowering and compilation; None for more than one step.
        temporary_mib: Memory of intermediate values, as the compiler plans it.
        gigaflops: Floating-point operations by the compiler's count; a loop's body counts once.
    """

    name: str
    fastest: float
    ratio: float
    quartiles: tuple[float, float]
    seconds: float
    compile_seconds: float | None = None
    temporary_mib: float | None = None
    gigaflops: float | None = None


BASELINE = "optax.contrib.sam"


def problem(config: SpeedConfig) -> tuple[chex.ArrayTree, Callable[..., jax.Array], Batch]:
    """Parameters, loss of (params, batch) and a batch of noise: speed does not depend on data."""
    noise = np.random.default_rng(0)
    images = noise.integers(0, 256, (config.batch_size, 28, 28, 1), np.uint8)
    model = build_model(config.model, (28, 28, 1), 10, jax.random.key(0))
    network = as_functions(model, images)
    batch = Batch(jnp.asarray(images), jnp.asarray(noise.integers(0, 10, config.batch_size)))

    def loss(params: chex.ArrayTree, batch: Batch) -> jax.Array:
        return loss_and_outcome(network.train, params, network.batch_stats, batch)[0]

    return network.params, loss, batch


def steps(params: chex.ArrayTree, loss: Callable[..., jax.Array]) -> dict[str, Step]:
    """All steps to be timed."""
    base = partial(optax.sgd, 0.01, momentum=0.9)

    def step(tx: optax.GradientTransformation, count: int = 0) -> Step:
        """``count`` steps were taken before, so that a refresh can be timed alone."""
        tx = optax.with_extra_args_support(tx)

        def function(params: chex.ArrayTree, state: Any, batch: Batch) -> Any:
            def gradient(params: chex.ArrayTree, *_: Any) -> chex.ArrayTree:
                return jax.grad(loss)(params, batch)

            updates, state = tx.update(gradient(params), state, params, grad_fn=gradient)
            return optax.apply_updates(params, updates), state

        state = tx.init(params)
        if count:
            state = optax.tree.set(state, count=jnp.asarray(count, jnp.int32))
        return Step(function, state)

    optax_sam = optax.contrib.sam(
        base(), optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), opaque_mode=True
    )
    paper, short = xsam_jax.power_iteration(), xsam_jax.power_iteration(iters=2)
    return {
        "sgd": step(base()),
        BASELINE: step(optax_sam),
        "sam": step(optax.chain(xsam_jax.sam(), base())),
        "asam": step(optax.chain(xsam_jax.sam(adaptive=True), base())),
        "gsam": step(optax.chain(xsam_jax.gsam(), base())),
        "wsam_decoupled": step(xsam_jax.wsam_decoupled(base(), 0.01)),
        "friendly_sam": step(optax.chain(xsam_jax.friendly_sam(), base())),
        "xsam, oja": step(optax.chain(xsam_jax.xsam(eigenvector=xsam_jax.oja()), base())),
        "xsam, p=100 q=2, refresh": step(optax.chain(xsam_jax.xsam(eigenvector=short), base())),
        "xsam, p=100 q=5, refresh": step(optax.chain(xsam_jax.xsam(eigenvector=paper), base())),
        "xsam, p=100 q=5, between": step(
            optax.chain(xsam_jax.xsam(eigenvector=paper), base()), count=1
        ),
    }


def epoch(step: Step, length: int) -> tuple[Step, Step]:
    """The same steps as a Python loop over a compiled step, and as one scan."""
    compiled = jax.jit(step.function)

    def loop(params: chex.ArrayTree, state: Any, batch: Batch) -> Any:
        for _ in range(length):
            params, state = compiled(params, state, batch)
        return params, state

    def scan(params: chex.ArrayTree, state: Any, batch: Batch) -> Any:
        body = xsam_jax.channels_last(lambda carry, _: (step.function(*carry, batch), None))
        return lax.scan(body, (params, state), length=length)[0]

    return Step(loop, step.state), Step(jax.jit(scan), step.state)


def measure(config: SpeedConfig) -> list[Row]:
    """Compile and time all steps."""
    params, loss, batch = problem(config)
    calls: dict[str, Callable[[], Any]] = {}
    compiled: dict[str, tuple[float, float, float]] = {}
    all_steps = steps(params, loss)
    for name, (function, state) in all_steps.items():
        started = time.perf_counter()
        program = jax.jit(function).lower(params, state, batch).compile()
        seconds = time.perf_counter() - started
        memory: Any = program.memory_analysis()
        cost: Any = program.cost_analysis()
        compiled[name] = (seconds, memory.temp_size_in_bytes / 2**20, cost["flops"] / 1e9)
        calls[name] = partial(program, params, state, batch)
    if config.epoch_steps:
        both = epoch(all_steps["sam"], config.epoch_steps)
        for how, (function, state) in zip(("a Python loop", "one scan"), both, strict=True):
            name = f"sam, {config.epoch_steps} steps in {how}"
            calls[name] = partial(function, params, state, batch)

    for call in calls.values():
        jax.block_until_ready(call())
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(config.rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - started)

    rows = []
    for name, taken in times.items():
        ratios = np.divide(taken, times[BASELINE])
        low, ratio, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
        rows.append(
            Row(
                name,
                min(taken) / min(times[BASELINE]),
                ratio,
                (low, high),
                float(np.median(taken)),
                *compiled.get(name, ()),
            )
        )
    return rows


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| step | fastest | median (quartiles) | seconds | compile s | temporary MiB |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row.quartiles
        compiled = (
            "| |"
            if row.compile_seconds is None
            else f"{row.compile_seconds:.1f} | {row.temporary_mib:.0f} |"
        )
        lines.append(
            f"| {row.name} | {row.fastest:.2f} | {row.ratio:.2f} ({low:.2f}-{high:.2f}) "
            f"| {row.seconds:.3f} | {compiled}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        config = tyro.cli(SpeedConfig, prog="python -m experiments.speed", description=__doc__)
        if config.batch_size < 1 or config.rounds < 1 or config.epoch_steps < 0:
            raise UserError(
                "--batch-size and --rounds must be at least 1, --epoch-steps at least 0"
            )
        rows = measure(config)
        name = f"{jax.default_backend()}-{config.model}-{config.batch_size}.json"
        record = {
            "command": f"python -m experiments.speed --model {config.model} "
            f"--batch-size {config.batch_size}",
            "device": device(),
            "rounds": config.rounds,
            "versions": versions(),
            "rows": [row._asdict() for row in rows],
        }
        config.out.mkdir(parents=True, exist_ok=True)
        write_json(config.out / name, record)
        print(table(rows))
        print(f"written to {config.out / name}")


if __name__ == "__main__":
    main()
