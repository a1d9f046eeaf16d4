"""channels_last keeps what belongs to a program beside its numbers."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import xsam_jax
from tests.meshes import mesh_of
from xsam_jax._xla import channels_last

KERNEL = np.linspace(-1.0, 1.0, 4 * 3 * 3 * 3).reshape(4, 3, 3, 3)
IMAGES = np.random.default_rng(0).normal(size=(64, 3, 14, 14))


def loss(kernel: chex.Array, images: chex.Array) -> chex.Array:
    with jax.named_scope("a_layer"):
        return jnp.mean(jnp.tanh(lax.conv(images, kernel, (1, 1), "SAME")) ** 2)


GRADIENT = jax.grad(loss)


def compilations(call: Callable[[], Any]) -> int:
    """Count how often JAX compiles something while the function runs."""
    events: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        del duration
        events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.block_until_ready(call())
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return sum("backend_compile" in event for event in events)


CHECKPOINTED = jax.grad(jax.checkpoint(loss))
TRACKERS = [None, xsam_jax.oja(), xsam_jax.power_iteration(every=2, iters=2)]


@pytest.mark.parametrize(
    "gradient",
    [GRADIENT, jax.jit(GRADIENT), CHECKPOINTED],
    ids=["traced", "compiled", "checkpointed"],
)
@pytest.mark.parametrize("eigenvector", TRACKERS, ids=["sam", "oja", "power_iteration"])
@pytest.mark.parametrize("over_seeds", [False, True])
def test_outside_of_jit_nothing_is_compiled_twice(
    gradient: Any, eigenvector: Any, over_seeds: bool
) -> None:
    tx = xsam_jax.xsam(eigenvector=eigenvector) if eigenvector else xsam_jax.sam()
    grad_fn = lambda kernel: gradient(kernel, IMAGES)
    step = lambda state, kernel: tx.update(grad_fn(kernel), state, kernel, grad_fn=grad_fn)
    state, kernel = tx.init(KERNEL), jnp.asarray(KERNEL)
    if over_seeds:
        step, twice = jax.vmap(step), lambda leaf: jnp.stack([leaf, leaf])
        state, kernel = jax.tree.map(twice, (state, kernel))

    def two_steps(state: Any) -> Any:
        return step(step(state, kernel)[1], kernel)

    _, state = two_steps(state)
    assert compilations(lambda: two_steps(state)) == 0
    assert compilations(lambda: jax.jit(lambda x: x + 1)(jnp.ones(()))) > 0


def test_outside_of_jit_a_step_is_that_of_a_compiled_one() -> None:
    """With the refreshes, which are neither branches nor loops there."""
    tx = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(every=2, iters=3))
    grad_fn = lambda kernel: CHECKPOINTED(kernel, IMAGES)
    step = lambda state: tx.update(grad_fn(KERNEL), state, KERNEL, grad_fn=grad_fn)
    state = compiled = tx.init(KERNEL)
    for _ in range(3):
        direction, state = step(state)
        expected, compiled = jax.jit(step)(compiled)
        chex.assert_trees_all_close((direction, state), (expected, compiled), rtol=1e-9)


def test_outside_of_jit_values_live_as_long_as_they_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = jnp.linspace(0.0, 1.0, 1237)
    alive = []
    bind = channels_last._bind

    def counted(*args: Any) -> Any:
        alive.append(sum(array.shape == x.shape for array in jax.live_arrays()))
        return bind(*args)

    monkeypatch.setattr(channels_last, "_bind", counted)

    def long(x: chex.Array) -> chex.Array:
        for _ in range(20):
            x = jnp.cos(x)
            jnp.sin(x)  # used by nothing
        return x

    xsam_jax.channels_last(long)(x)
    assert len(alive) == 40
    assert max(alive) <= 3


def test_a_function_is_rewritten_for_each_mesh() -> None:
    """In a mesh sums are whole, also those of a function that was rewritten outside of it."""
    fast = xsam_jax.channels_last(jax.jit(GRADIENT))
    loops = lambda: "scan" in str(jax.make_jaxpr(fast)(KERNEL, IMAGES))
    assert loops()
    with jax.set_mesh(mesh_of(2)):
        assert not loops()
    assert loops()


def test_a_function_that_is_called_often_is_looked_through_once() -> None:
    """Twice in each of 64 functions, one inside the other: 2**64 times in all."""
    fn = jnp.sin
    for _ in range(64):
        fn = jax.jit(lambda x, fn=fn: fn(x) + fn(x))
    closed = jax.make_jaxpr(fn)(1.0)
    assert channels_last.contains(closed.jaxpr, lax.sin_p)
    assert not channels_last.contains(closed.jaxpr, lax.cos_p)


def test_names_and_lines_of_the_source_are_kept() -> None:
    """So that a profile shows the layers of the second gradient and of the Hessian products."""
    tx = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(iters=2))
    grad_fn = lambda kernel: GRADIENT(kernel, IMAGES)
    step = lambda state: tx.update(grad_fn(KERNEL), state, KERNEL, grad_fn=grad_fn)
    text = jax.jit(step).lower(tx.init(KERNEL)).as_text(debug_info=True)
    named = [line for line in text.splitlines() if "tanh" in line and "a_layer" in line]
    alone = jax.jit(grad_fn).lower(KERNEL).as_text(debug_info=True)
    in_a_gradient = [line for line in alone.splitlines() if "tanh" in line and "a_layer" in line]
    assert len(in_a_gradient) > 0
    # The gradient, the second gradient and the product, of which each has it at least once.
    assert len(named) >= 3 * len(in_a_gradient)


def test_export_with_an_unknown_number_of_images() -> None:
    (images,) = export.symbolic_args_specs((IMAGES,), ("b, _, _, _",))

    def step(images: chex.Array) -> chex.Array:
        grad_fn = lambda kernel: GRADIENT(kernel, images)
        tx = xsam_jax.sam()
        return tx.update(grad_fn(KERNEL), tx.init(KERNEL), KERNEL, grad_fn=grad_fn)[0]

    exported = export.export(jax.jit(step))(images)
    for number in (1, 64):
        expected = jax.jit(step)(IMAGES[:number])
        chex.assert_trees_all_close(exported.call(IMAGES[:number]), expected, rtol=1e-9)


def test_no_output_channels() -> None:
    convolve = xsam_jax.channels_last(lambda kernel: lax.conv(IMAGES, kernel, (1, 1), "SAME"))
    assert convolve(KERNEL[:0]).shape == (64, 0, 14, 14)


def constants(w: chex.Array) -> dict[str, Any]:
    return {
        "gradient": jax.grad(lambda w: 2.0 * jnp.sum(w))(w),
        "argument": w,
        "python": (3.0, 5, True, 1j),
        "numpy": (np.float32(2.0), np.arange(3), np.ones(2, np.float16)),
        "none": None,
    }


@pytest.mark.parametrize(
    "w",
    [jnp.float32(1.5), np.float32(1.5), np.ones(2, np.float32), jnp.asarray(1.5), 1.5],
    ids=["array", "NumPy's scalar", "NumPy's array", "weak", "Python's"],
)
@pytest.mark.parametrize("transform", [lambda fn: fn, jax.jit, jax.vmap], ids=["", "jit", "vmap"])
def test_every_result_is_an_array(transform: Any, w: Any) -> None:
    """Also a constant, and an argument, of the types that a compiled function returns."""
    inside: list[Any] = []

    def recorded(w: Any) -> Any:
        inside.append(xsam_jax.channels_last(constants)(w))
        return inside[-1]

    w = jnp.stack([w, w]) if transform is jax.vmap else w
    found, expected = transform(recorded)(w), transform(jax.jit(constants))(w)
    chex.assert_trees_all_equal(found, expected)
    assert jax.tree.map(jax.typeof, found) == jax.tree.map(jax.typeof, expected)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((found, inside)))


def test_constants_are_differentiated() -> None:
    fast = xsam_jax.channels_last(constants)
    slopes = jax.jacrev(lambda w: [fast(w)["gradient"], fast(w)["argument"]])(jnp.ones(2))
    chex.assert_trees_all_equal(slopes, [jnp.zeros((2, 2)), jnp.eye(2)])


def test_of_a_linear_loss_products_and_directions_are_arrays() -> None:
    gradient = jax.grad(lambda w: 2.0 * w)
    for w in (jnp.asarray(1.0), np.float32(1.0), np.array(1.0)):
        product = xsam_jax.curvature.hvp(gradient, w, w)
        assert isinstance(product, jax.Array)
        assert product.dtype == jnp.result_type(w)
        tx = xsam_jax.xsam()
        outcome = tx.update(gradient(w), tx.init(w), w, grad_fn=gradient)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(outcome))


def test_integers_have_the_tangents_that_they_had() -> None:
    gradient = jax.grad(lambda w, n: w * n.astype(w.dtype), argnums=(0, 1), allow_int=True)
    found = xsam_jax.channels_last(gradient)(jnp.ones(()), jnp.arange(3)[2])
    assert isinstance(found[0], jax.Array)
    assert found[1].dtype == jax.dtypes.float0
