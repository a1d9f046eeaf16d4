"""One SAM training that all trackers watch, and the measurement of their vectors."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.common.errors import UserError
from experiments.models.network import Batch
from experiments.tracking.problems import Loss, Problem
from experiments.tracking.watcher import Sight, Watcher
from experiments.training.batches import epoch_order, part_size, steps_per_epoch
from experiments.training.measure import fixed_subset
from xsam_jax import channels_last, curvature, mean_grad_fn

# The training of the paper's section 6.1: SGD with momentum and a cosine schedule.
RHO, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-5


class Measurement(NamedTuple):
    """The Hessian's eigenpair at one step, and how close each tracker comes to it.

    Attributes:
        values: Its two largest eigenvalues.
        residual: ``||H v_1 - lambda_1 v_1||``.
        quality: ``v' H v / lambda_1`` of every tracker.
        cosine: ``|cos(v, v_1)|`` of every tracker.
    """

    values: jax.Array
    residual: jax.Array
    quality: jax.Array
    cosine: jax.Array


class Programs(NamedTuple):
    """The compiled programs of a setting, the same ones for all seeds.

    ``measure`` is of the Hessian of the loss as a training step sees it, ``measure_in_evaluation``
    of that with the running statistics.
    """

    step: Callable[..., Any]
    measure: Callable[[jax.Array, jax.Array, Batch], Measurement]
    measure_in_evaluation: Callable[[jax.Array, jax.Array, Batch, Any], Measurement] | None
    batch_top: Callable[[jax.Array, Batch], jax.Array]


class Sizes(NamedTuple):
    """Sizes of the training, and when it is measured: options of `experiments.tracking`."""

    steps: int
    batch_size: int
    burn_in: int
    every: int
    sample_size: int
    num_matvecs: int


def compile_programs(problem: Problem, watchers: Mapping[str, Watcher], sizes: Sizes) -> Programs:
    """Make the compiled programs of a setting; nothing is computed yet."""
    loss, evaluation = problem.loss, problem.evaluation

    @jax.jit
    def step(
        count: jax.Array,
        w: jax.Array,
        momentum: jax.Array,
        states: dict[str, Any],
        batch_stats: chex.ArrayTree,
        batch: Batch,
    ) -> tuple[jax.Array, jax.Array, dict[str, Any], chex.ArrayTree, jax.Array]:
        def gradient(at: jax.Array) -> jax.Array:
            grads: jax.Array = jax.grad(loss)(at, batch)
            return grads

        value, grads = jax.value_and_grad(loss)(w, batch)
        perturbation = RHO * grads / jnp.maximum(jnp.linalg.norm(grads), 1e-12)
        grads_adv = gradient(w + perturbation)

        def product(at: jax.Array, v: jax.Array, part: float) -> jax.Array:
            images = part_size(part, len(batch.labels))
            some = Batch(batch.images[:images], batch.labels[:images])
            image: jax.Array = curvature.hvp(lambda w: jax.grad(loss)(w, some), at, v)
            return image

        def product_in_evaluation(at: jax.Array, v: jax.Array) -> jax.Array:
            if evaluation is None:
                return product(at, v, 1.0)
            gradient = jax.grad(evaluation.loss)
            image: jax.Array = curvature.hvp(lambda w: gradient(w, batch_stats, batch), at, v)
            return image

        sight = Sight(
            count,
            w,
            grads,
            grads_adv,
            perturbation,
            channels_last(gradient),
            product,
            product_in_evaluation,
        )
        states = {name: watchers[name].update(sight, state) for name, state in states.items()}
        rate: jax.Array = problem.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * count / sizes.steps))
        momentum = MOMENTUM * momentum + grads_adv + WEIGHT_DECAY * w
        if evaluation is not None:
            batch_stats = evaluation.advanced(w, batch_stats, batch)
        return w - rate * momentum, momentum, states, batch_stats, value

    def top(loss: Loss, w: jax.Array, batches: Batch, k: int) -> curvature.Eigenpairs:
        grad_fn, key = mean_grad_fn(loss, batches), jax.random.key(0)
        return curvature.top_eigenpairs(grad_fn, w, k=k, num_matvecs=sizes.num_matvecs, key=key)

    def measured(loss: Loss, w: jax.Array, vectors: jax.Array, sample: Batch) -> Measurement:
        pairs = top(loss, w, sample, 2)
        grad_fn = mean_grad_fn(loss, sample)
        quotients = jax.lax.map(lambda v: v @ curvature.hvp(grad_fn, w, v), vectors)
        return Measurement(
            values=pairs.values,
            residual=pairs.residuals[0],
            quality=quotients / pairs.values[0],
            cosine=jnp.abs(vectors @ pairs.vectors[0]),
        )

    def measured_in_evaluation(
        w: jax.Array, vectors: jax.Array, sample: Batch, batch_stats: chex.ArrayTree
    ) -> Measurement:
        assert evaluation is not None
        loss = evaluation.loss
        return measured(lambda w, batch: loss(w, batch_stats, batch), w, vectors, sample)

    @jax.jit
    def batch_top(w: jax.Array, batch: Batch) -> jax.Array:
        one = jax.tree.map(lambda leaf: leaf[None], batch)
        vector: jax.Array = top(loss, w, one, 1).vectors[0]
        return vector

    return Programs(
        step,
        jax.jit(partial(measured, loss)),
        None if evaluation is None else jax.jit(measured_in_evaluation),
        batch_top,
    )


# The best that a tracker without memory can know: the top eigenvector of the step's own batch.
OWN_BATCH = "batch_exact"


def watch(
    problem: Problem,
    programs: Programs,
    watchers: Mapping[str, Watcher],
    sizes: Sizes,
    seed: int,
) -> dict[str, Any]:
    """Train with SAM once, and measure all trackers on the way.

    A tracker's vector is measured after its step, at the parameters of that step, so that it has
    seen this step's batch.

    Returns:
        Lists over the measurements, as JSON values.

    Raises:
        UserError: The training diverged.
    """
    data, w = problem.data, problem.start(seed)
    sample = fixed_subset(data, sizes.sample_size)
    momentum = jnp.zeros_like(w)
    states = {name: watcher.init(w) for name, watcher in watchers.items()}
    names = [*watchers, OWN_BATCH]
    taken: list[int] = []
    found: list[Measurement] = []
    in_evaluation: list[Measurement] = []
    batch_stats = None if problem.evaluation is None else problem.evaluation.batch_stats
    losses: list[float] = []
    order: NDArray[np.int32] = np.empty((0, sizes.batch_size), np.int32)
    per_epoch = steps_per_epoch(len(data.labels), sizes.batch_size)
    order_key = jax.random.fold_in(jax.random.key(seed), 1)
    for count in range(sizes.steps):
        epoch, place = divmod(count, per_epoch)
        if place == 0:
            key = jax.random.fold_in(order_key, epoch)
            order = np.asarray(epoch_order(key, len(data.labels), sizes.batch_size))
        batch = Batch(data.images[order[place]], data.labels[order[place]])
        before, before_stats = w, batch_stats
        w, momentum, states, batch_stats, loss = programs.step(
            jnp.int32(count), w, momentum, states, batch_stats, batch
        )
        if count >= sizes.burn_in and (count - sizes.burn_in) % sizes.every == 0:
            # By name: a compiled step returns its dictionaries sorted by key.
            vectors = [watcher.vector(states[name]) for name, watcher in watchers.items()]
            vectors.append(programs.batch_top(before, batch))
            stacked = jnp.stack(vectors)
            found.append(programs.measure(before, stacked, sample))
            if programs.measure_in_evaluation is not None:
                in_evaluation.append(
                    programs.measure_in_evaluation(before, stacked, sample, before_stats)
                )
            taken.append(count)
            losses.append(float(loss))
            if not math.isfinite(losses[-1]):
                raise UserError(f"the training diverged before step {count}: nothing is measured.")
    table = _stacked(found)
    more = {}
    if in_evaluation:
        qualities = _stacked(in_evaluation).quality
        more["quality_in_evaluation"] = {n: qualities[:, i].tolist() for i, n in enumerate(names)}
    return {
        "parameters": w.size,
        "step": taken,
        "loss": losses,
        "lambda_1": table.values[:, 0].tolist(),
        "lambda_2": table.values[:, 1].tolist(),
        "residual": table.residual.tolist(),
        "quality": {name: table.quality[:, i].tolist() for i, name in enumerate(names)},
        "cosine": {name: table.cosine[:, i].tolist() for i, name in enumerate(names)},
        **more,
    }


def _stacked(measurements: list[Measurement]) -> Measurement:
    stacked: Measurement = jax.tree.map(
        lambda *values: np.stack(values).astype(float), *measurements
    )
    return stacked
