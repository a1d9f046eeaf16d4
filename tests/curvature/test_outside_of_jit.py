"""Outside of `jax.jit`: loops are compiled once for what they compute, and never for less."""

import gc
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from tests.curvature.problems import KEY
from xsam_jax import curvature, mean_grad_fn
from xsam_jax._xla import interned

BATCHES = np.random.default_rng(0).normal(size=(2, 4, 3))
COMPILED = "/jax/core/compile/backend_compile_duration"

MEASURES: dict[str, Callable[[Any, chex.Array], chex.ArrayTree]] = {
    "hvp": lambda grad_fn, w: curvature.hvp(grad_fn, w, w),
    "top_eigenpairs": lambda grad_fn, w: curvature.top_eigenpairs(
        grad_fn, w, num_matvecs=3, key=KEY
    ),
    "spectral_density": lambda grad_fn, w: curvature.spectral_density(
        grad_fn, w, num_matvecs=2, num_probes=2, key=KEY
    ),
    "trace": lambda grad_fn, w: curvature.trace(grad_fn, w, num_probes=2, key=KEY),
    "gradient": lambda grad_fn, w: grad_fn(w),
}


class Model:
    """A loss whose result depends on a field that may change."""

    def __init__(self) -> None:
        self.data: Any = jnp.asarray(BATCHES)
        self.activation: Callable[[Any], Any] = jnp.tanh
        self.power = 2
        self.shift: Any = 0.5

    def loss(self, w: chex.Array, x: chex.Array) -> chex.Array:
        return jnp.mean((self.activation(x @ w) - self.shift) ** self.power)

    def grad_fn(self, w: chex.Array) -> chex.Array:
        return mean_grad_fn(self.loss, self.data)(w)


@pytest.fixture
def compilations() -> Any:
    """Record each compilation as an entry of a list."""
    found: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        del duration
        if event == COMPILED:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("name", MEASURES)
def test_compiles_in_the_first_call_only(name: str, compilations: list[str]) -> None:
    """A gradient function made anew in each call, of new data; relu has a rule made anew, too."""
    model = Model()
    model.activation = jax.nn.relu
    points = [jnp.array([0.1, 0.2, -0.3]) * i for i in range(1, 4)]
    MEASURES[name](model.grad_fn, points[0])
    assert compilations
    del compilations[:]
    for i, w in enumerate(points):
        model.data = jnp.asarray(BATCHES[:, ::-1] + i)
        MEASURES[name](model.grad_fn, w)
    # The data's own: an addition.
    assert len(compilations) <= 2


@pytest.mark.parametrize("name", ["hvp", "gradient"])
def test_what_the_loss_reads_is_read_in_each_call(name: str) -> None:
    model, w = Model(), jnp.array([0.1, 0.2, -0.3])
    seen = []
    for attribute, value in (
        ("shift", 0.5),
        ("data", jnp.asarray(BATCHES + 1)),
        ("data", BATCHES - 1),
        ("shift", 0.25),
        ("shift", jnp.array(0.75)),
        ("shift", jnp.array(0.125)),
        ("power", 4),
        ("power", 3),
        ("activation", jnp.sin),
        ("activation", jax.nn.softplus),
        ("activation", jax.nn.relu),
    ):
        setattr(model, attribute, value)
        found = MEASURES[name](model.grad_fn, w)
        # Compiled for this call alone.
        expected = jax.jit(lambda w: MEASURES[name](model.grad_fn, w))(w)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        seen.append(np.asarray(found))
    assert len(np.unique(np.round(seen, 9), axis=0)) == len(seen)


def test_rules_of_derivatives_are_those_of_each_call() -> None:
    """Two functions with one value and another derivative, differentiated from outside."""

    def slope(factor: float) -> chex.Array:
        @jax.custom_jvp
        def sine(x: chex.Array) -> chex.Array:
            return jnp.sin(x)

        sine.defjvps(lambda tangent, _, x: factor * tangent * jnp.cos(x))
        # Only a constant of the gradient's differentiation goes through it.
        loss = lambda w, scale: jnp.sum(w**2) * sine(scale)
        value = lambda scale: mean_grad_fn(lambda w, x: loss(w, scale) * x, jnp.ones(2))(
            jnp.ones(1)
        )
        np.testing.assert_allclose(value(jnp.array(0.5)), [2 * np.sin(0.5)])
        return jax.jacfwd(value)(jnp.array(0.5))

    for factor in (1.0, 3.0, 1.0):
        np.testing.assert_allclose(slope(factor), [factor * 2 * np.cos(0.5)])


def test_callbacks_are_those_of_each_call() -> None:
    def gradient(into: list[float]) -> chex.Array:
        def loss(w: chex.Array, x: chex.Array) -> chex.Array:
            io_callback(lambda x: into.append(float(x)), None, jax.lax.stop_gradient(x))
            return w * x

        return mean_grad_fn(loss, jnp.arange(1.0, 3.0))(jnp.ones(()))

    for _ in range(2):
        into: list[float] = []
        jax.block_until_ready(gradient(into))
        jax.effects_barrier()
        assert sorted(into) == [1, 2]


def test_nothing_outlives_what_is_compiled() -> None:
    jax.clear_caches()
    gc.collect()
    before = len(interned._KNOWN)  # of what other tests hold
    model = Model()
    model.activation = jax.nn.relu
    curvature.trace(model.grad_fn, jnp.ones(3), num_probes=2, key=KEY)
    assert len(interned._KNOWN) > before
    jax.clear_caches()
    gc.collect()
    assert len(interned._KNOWN) == before
