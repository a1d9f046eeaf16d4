"""Train a network on small images with X-SAM or a method it is compared with.

``python -m experiments.train`` trains the six-layer CNN on scikit-learn's digits with X-SAM;
``--help`` explains every option. The same from Python: ``train(TrainConfig(method="sam"))``.
"""

import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from experiments.batches import steps_per_epoch
from experiments.config import ResolvedConfig, TrainConfig, resolve
from experiments.curves import write_curves
from experiments.data import Dataset, load_for
from experiments.errors import UserError, exit_on_user_error
from experiments.evaluate import make_evaluate
from experiments.methods import build_method
from experiments.network import Batch, build_network
from experiments.progress import OnProgress, Report, progress_bar
from experiments.results import (
    EpochMetrics,
    Result,
    open_run,
    versions,
    write_metrics,
    write_result,
)
from experiments.sharpness import fixed_subset, make_measure
from experiments.step import StepMetrics, TrainState, empty_metrics, make_run_chunk, take_steps

_EVALUATION_BATCH = 256

# (method, number of steps) -> the method with something beside it that watches its steps
Observe = Callable[
    [optax.GradientTransformationExtraArgs, int], optax.GradientTransformationExtraArgs
]


def train(
    config: TrainConfig,
    *,
    progress: OnProgress | None = None,
    observe: Observe | None = None,
    on_end: Callable[[TrainState], None] | None = None,
) -> Result:
    """Train a network and write config.json, metrics.jsonl, result.json and curves.png.

    Args:
        config: The run; None fields take their defaults, see `resolve`.
        progress: Called about twice a second and after every epoch. Without it an epoch is one
            dispatch. It changes no number.
        observe: Wraps the method; what it measures is kept in the state of the optimizer.
        on_end: Called with the final state before result.json marks the run as finished.

    Returns:
        What result.json holds.

    Raises:
        UserError: A value is out of range, the data are missing or damaged, or the directory holds
            another run. Nothing has been written then.
    """
    started = time.perf_counter()
    resolved = resolve(config)
    data = load_for(resolved)
    if resolved.batch_size > len(data.train_images):
        raise UserError(
            f"--batch-size must be at most the {len(data.train_images)} training images, "
            f"not {resolved.batch_size}."
        )
    open_run(resolved)
    history, step_metrics, state = _run(resolved, data, progress, observe)
    last = history[-1]
    write_curves(
        resolved.out,
        history,
        step_metrics,
        f"{resolved.method}, {resolved.model} on {resolved.dataset}, seed {resolved.seed}",
    )
    result = Result(
        test_accuracy=last.test_accuracy,
        test_loss=last.test_loss,
        train_loss=last.train_loss,
        lambda_max=last.lambda_max,
        seconds=time.perf_counter() - started,
        steps=resolved.epochs * steps_per_epoch(len(data.train_images), resolved.batch_size),
        method=resolved.method,
        model=resolved.model,
        dataset=resolved.dataset,
        seed=resolved.seed,
        versions=versions(),
    )
    if on_end is not None:
        on_end(state)
    write_result(resolved.out, result)
    return result


def _run(
    config: ResolvedConfig,
    data: Dataset,
    progress: OnProgress | None,
    observe: Observe | None,
) -> tuple[list[EpochMetrics], list[StepMetrics], TrainState]:
    train_data = Batch(jnp.asarray(data.train_images), jnp.asarray(data.train_labels))
    test_data = Batch(jnp.asarray(data.test_images), jnp.asarray(data.test_labels))
    steps = steps_per_epoch(len(data.train_images), config.batch_size)

    init_key, batch_key = jax.random.split(jax.random.key(config.seed))
    network = build_network(config.model, data, init_key)
    tx = build_method(config, config.epochs * steps)
    if observe is not None:
        tx = observe(tx, config.epochs * steps)
    state = TrainState(
        jnp.zeros((), jnp.int32), network.params, network.batch_stats, tx.init(network.params)
    )
    run_chunk = make_run_chunk(
        network.train,
        tx,
        key=batch_key,
        batch_size=config.batch_size,
        crop_padding=data.crop_padding if config.augment else 0,
        flip=data.flip and config.augment,
    )
    evaluate = make_evaluate(network.predict, _EVALUATION_BATCH)
    measure = make_measure(network.predict, config.num_matvecs)
    subset = fixed_subset(train_data, config.curvature_samples)

    history: list[EpochMetrics] = []
    step_metrics: list[StepMetrics] = []
    metrics = empty_metrics(steps)

    def report(state: TrainState, metrics: StepMetrics) -> None:
        if progress is not None:
            progress(_report(config.epochs, state, metrics, history))

    report(state, metrics)
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        on_chunk = None if progress is None else report
        state, metrics = take_steps(
            run_chunk, state, metrics, train_data, epoch * steps, on_chunk=on_chunk
        )
        # Copies, because the next epoch overwrites the buffers.
        step_metrics.append(jax.tree.map(np.array, metrics))
        test = evaluate(state.params, state.batch_stats, test_data)
        every = config.curvature_every
        measured = every > 0 and (epoch % every == 0 or epoch == config.epochs)
        sharpness = measure(state.params, state.batch_stats, subset) if measured else None
        history.append(
            EpochMetrics(
                epoch=epoch,
                train_loss=float(np.mean(metrics.loss)),
                train_accuracy=100 * float(np.mean(metrics.accuracy)),
                test_loss=float(test.loss),
                test_accuracy=100 * float(test.accuracy),
                lambda_max=None if sharpness is None else float(sharpness.lambda_max),
                angle=None if sharpness is None else float(sharpness.angle),
                seconds=time.perf_counter() - started,
            )
        )
        write_metrics(config.out, history)
        report(state, metrics)
    return history, step_metrics, state


def _report(
    epochs: int, state: TrainState, metrics: StepMetrics, history: list[EpochMetrics]
) -> Report:
    step, steps = int(state.step), len(metrics.loss)
    epoch = max(step - 1, 0) // steps
    done = step - epoch * steps
    measured = [line for line in history if line.lambda_max is not None]
    eigenvalue = optax.tree.get(state.opt_state, "eigenvalue")
    if eigenvalue is None and measured:
        eigenvalue = measured[-1].lambda_max
    alignment = optax.tree.get(state.opt_state, "alignment")
    angle = measured[-1].angle if measured else None
    if alignment is not None:
        angle = math.degrees(math.acos(min(abs(float(alignment)), 1.0)))
    return Report(
        epoch=epoch + 1,
        epochs=epochs,
        step=step,
        steps=epochs * steps,
        loss=float(np.asarray(metrics.loss)[:done].mean()) if done else math.nan,
        accuracy=100 * float(np.asarray(metrics.accuracy)[:done].mean()) if done else math.nan,
        eigenvalue=None if eigenvalue is None else float(eigenvalue),
        angle=angle,
        test_accuracy=history[-1].test_accuracy if history else None,
    )


def main() -> None:
    """Run the command line."""
    with exit_on_user_error():
        config = tyro.cli(TrainConfig, prog="python -m experiments.train")
        with progress_bar() as progress:
            result = train(config, progress=progress)
        out = resolve(config).out
        print(f"test accuracy {result.test_accuracy:.2f} %, results in {out}")


if __name__ == "__main__":
    main()
