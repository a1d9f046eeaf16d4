"""Steps, chunks of steps, evaluation and curvature of a small network with BatchNorm."""

from functools import partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.models.network import Batch, Network, as_functions, loss_and_outcome, per_image
from experiments.training.chunk import empty_metrics, make_run_chunk, take_steps
from experiments.training.measure import fixed_subset, make_evaluate, make_measure, make_trace
from experiments.training.spec import Varied
from experiments.training.step import StepMetrics, TrainState, train_step
from xsam_jax import power_iteration, sam, xsam

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 6, 6, 1), np.uint8)
DATA = Batch(jnp.asarray(IMAGES), jnp.asarray(RNG.integers(0, 3, 20).astype(np.int32)))


class Small(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(1, 4, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = jnp.tanh(self.norm(self.conv(images), use_running_average=not train))
        return self.head(x.mean(axis=(1, 2)))


NO_VALUES = Varied(0, 0.0, 0.0)
SGD = optax.with_extra_args_support(optax.sgd(0.1, momentum=0.9))
SAM = optax.chain(sam(0.5), SGD)


@pytest.fixture(scope="module")
def network() -> Network:
    return as_functions(Small(), IMAGES)


def start(network: Network, tx: optax.GradientTransformationExtraArgs) -> TrainState:
    # Copies, because the steps donate their state.
    params, batch_stats = jax.tree.map(jnp.copy, (network.params, network.batch_stats))
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params))


def test_only_the_clean_pass_advances_the_batch_statistics(network: Network) -> None:
    state = start(network, SGD)
    by_sgd, _, _ = jax.jit(partial(train_step, network.train, SGD))(state, DATA)
    state = start(network, SAM)
    by_sam, loss, accuracy = jax.jit(partial(train_step, network.train, SAM))(state, DATA)
    jax.tree.map(np.testing.assert_array_equal, by_sam.batch_stats, by_sgd.batch_stats)
    assert not np.array_equal(by_sam.batch_stats["norm"]["mean"], state.batch_stats["norm"]["mean"])
    assert not np.allclose(by_sam.params["head"]["kernel"], by_sgd.params["head"]["kernel"])
    clean, outcome = jax.jit(partial(loss_and_outcome, network.train))(
        state.params, state.batch_stats, DATA
    )
    assert float(loss) == pytest.approx(float(clean), rel=1e-5)
    assert float(accuracy) == float(outcome.accuracy)
    assert int(by_sam.step) == 1


def test_perturbation_of_a_part_of_the_batch(network: Network) -> None:
    state = start(network, SAM)
    by_part, loss, _ = jax.jit(partial(train_step, network.train, SAM, ascent_part=0.25))(
        state, DATA
    )
    part = jax.tree.map(lambda leaf: leaf[: len(DATA.labels) // 4], DATA)

    def gradient(params: object, batch: Batch) -> object:
        loss_fn = partial(loss_and_outcome, network.train, batch_stats=state.batch_stats)
        return jax.grad(loss_fn, has_aux=True)(params, batch=batch)[0]

    @jax.jit
    def by_hand(params: object) -> object:
        updates, _ = SAM.update(
            gradient(params, part), state.opt_state, params, grad_fn=partial(gradient, batch=DATA)
        )
        return optax.apply_updates(params, updates)

    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
        by_part.params,
        by_hand(state.params),
    )
    clean, outcome = loss_and_outcome(network.train, state.params, state.batch_stats, part)
    assert float(loss) == pytest.approx(float(clean), rel=1e-5)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5), by_part.batch_stats, outcome.batch_stats
    )


@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_mode_of_hessian_products(network: Network, mode: str) -> None:
    """The vector after a step is that of the dense Hessian of the loss in that mode."""
    tx = optax.chain(xsam(0.1, eigenvector=power_iteration(1, 400)), SGD)
    state = start(network, tx)
    # As after some training: in evaluation they matter, in training they do not.
    norm = {"mean": jnp.array([0.5, -0.5, 1.0, 0.0]), "var": jnp.array([0.3, 2.0, 1.0, 4.0])}
    state = state._replace(batch_stats={"norm": norm})
    apply = network.predict if mode == "evaluation" else network.train
    step = partial(train_step, network.train, tx, curvature_apply=apply)
    after, _, _ = jax.jit(step)(state, DATA)

    flat, unravel = jax.flatten_util.ravel_pytree(state.params)

    def loss(flat: jax.Array) -> jax.Array:
        return loss_and_outcome(apply, unravel(flat), state.batch_stats, DATA)[0]

    hessian = np.asarray(jax.jit(jax.hessian(loss))(flat))
    values, vectors = np.linalg.eigh(hessian)
    largest = np.abs(values).argmax()
    vector = jax.flatten_util.ravel_pytree(after.opt_state[0].eigenvector)[0]
    assert abs(vector @ vectors[:, largest]) == pytest.approx(1, abs=1e-4)
    assert float(after.opt_state[0].eigenvalue) == pytest.approx(values[largest], rel=1e-4)
    # The pass at w itself is in training mode in any case.
    by_sgd, _, _ = jax.jit(partial(train_step, network.train, SGD))(
        state._replace(opt_state=SGD.init(state.params)), DATA
    )
    jax.tree.map(np.testing.assert_array_equal, after.batch_stats, by_sgd.batch_stats)


def test_chunks_change_nothing(network: Network) -> None:
    run_chunk = partial(
        jax.jit(
            make_run_chunk(network.train, lambda _: SAM, batch_size=8, crop_padding=1, flip=True)
        ),
        NO_VALUES,
        jax.random.key(0),
    )

    def run(*stops: int) -> tuple[TrainState, StepMetrics]:
        state, metrics = start(network, SAM), empty_metrics(3)
        for stop in stops:
            state, metrics = run_chunk(state, metrics, DATA, stop)
        return state, metrics

    whole, parts = run(3, 6), run(1, 2, 3, 5, 6)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert int(whole[0].step) == 6
    assert np.all(np.asarray(whole[1].loss) > 0)


def test_steps_are_reported_as_they_are_taken(network: Network) -> None:
    state = start(network, SGD)
    run_chunk = partial(
        jax.jit(
            make_run_chunk(network.train, lambda _: SGD, batch_size=2, crop_padding=0, flip=False)
        ),
        NO_VALUES,
        jax.random.key(0),
    )
    seen: list[int] = []
    state, _ = take_steps(
        run_chunk,
        state,
        empty_metrics(10),
        DATA,
        10,
        on_chunk=lambda state, metrics: seen.append(int(state.step)),
        seconds=1e-9,
    )
    assert seen == list(range(1, 11))
    assert int(state.step) == 10


@pytest.mark.parametrize("batch_size", [20, 7, 64])
def test_evaluation_counts_every_image_once(network: Network, batch_size: int) -> None:
    state = start(network, SGD)
    found = make_evaluate(network.predict, batch_size)(state.params, state.batch_stats, DATA)
    logits, _ = jax.jit(network.predict)(state.params, state.batch_stats, DATA.images)
    losses, hits = per_image(logits, DATA.labels)
    assert float(found.loss) == pytest.approx(float(losses.mean()), rel=1e-5)
    assert float(found.accuracy) == pytest.approx(float(hits.mean()), rel=1e-6)


def test_sharpness_against_the_dense_hessian(network: Network) -> None:
    state = start(network, SGD)
    subset = fixed_subset(DATA, 12)
    assert subset.labels.shape == (1, 12)
    measure = make_measure(network.predict, num_matvecs=30)
    found = measure(state.params, state.batch_stats, subset)

    flat, unravel = jax.flatten_util.ravel_pytree(state.params)
    batch = jax.tree.map(lambda x: x[0], subset)

    def loss(flat: jax.Array) -> jax.Array:
        return loss_and_outcome(network.predict, unravel(flat), state.batch_stats, batch)[0]

    hessian = np.asarray(jax.jit(jax.hessian(loss))(flat))
    values, vectors = np.linalg.eigh(hessian)
    assert float(found.lambda_max) == pytest.approx(values[-1], rel=1e-4)
    trace = make_trace(network.predict, num_probes=200)(state.params, state.batch_stats, subset)
    assert abs(float(trace.value) - np.trace(hessian)) < 4 * float(trace.standard_error)
    # Hutchinson's variance for random signs.
    deviation = np.sqrt(2 * (np.sum(hessian**2) - np.sum(np.diag(hessian) ** 2)) / 200)
    assert float(trace.standard_error) == pytest.approx(deviation, rel=0.3)
    grad_fn = jax.jit(jax.grad(loss))
    grad = grad_fn(flat)
    second = grad_fn(flat + 0.05 * grad / jnp.linalg.norm(grad))
    cosine = abs(second @ vectors[:, -1]) / jnp.linalg.norm(second)
    assert float(found.angle) == pytest.approx(np.degrees(np.arccos(cosine)), abs=0.1)


def test_subset_is_fixed_and_equal_batches() -> None:
    data = Batch(jnp.arange(700)[:, None, None, None], jnp.arange(700))
    subset = fixed_subset(data, 600)
    assert subset.labels.shape == (3, 200)
    assert len(np.unique(subset.labels)) == 600
    np.testing.assert_array_equal(subset.labels, fixed_subset(data, 600).labels)
    assert fixed_subset(data, 512).labels.shape == (2, 256)
    assert fixed_subset(data, 5000).labels.shape == (3, 233)
