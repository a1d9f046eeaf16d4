"""Every public function with what it cannot take: one error that names the argument."""

import inspect
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xsam_jax
from xsam_jax import curvature

some = settings(deadline=None, max_examples=12, database=None)

W = {"a": jnp.ones(2), "b": jnp.ones((1, 3))}
KEY = jax.random.key(0)


def square(w: chex.ArrayTree) -> chex.ArrayTree:
    return jax.tree.map(lambda leaf: 2 * leaf, w)


def names(argument: str) -> Any:
    return pytest.raises((TypeError, ValueError), match=rf"\b{re.escape(argument)}\b")


no_number = st.one_of(
    st.none(),
    st.text(max_size=3),
    st.booleans(),
    st.complex_numbers(),
    st.lists(st.floats(), max_size=2),
    st.sampled_from([object(), np.ones(2), jnp.ones((1, 1)), {"a": 1.0}, b"1", np.array("x")]),
)
not_finite = st.sampled_from(
    [math.nan, math.inf, -math.inf, np.float32(np.nan), jnp.array(jnp.inf)]
)
negative = st.one_of(
    st.floats(max_value=0, exclude_max=True), st.integers(max_value=-1), st.just(np.float32(-1))
)
no_scale = st.one_of(no_number, not_finite, negative)
above_one = st.floats(min_value=1, exclude_min=True)
no_count = st.one_of(no_number, not_finite, st.integers(max_value=0), st.floats(0, 9))
no_flag = st.one_of(st.none(), st.integers(), st.text(max_size=3), st.just(np.ones(2)))
no_function = st.one_of(st.none(), st.integers(), st.text(max_size=3), st.just(W))
no_choice = st.one_of(st.none(), st.text(), st.integers(), st.just(np.ones(2)))
no_object = st.one_of(no_number, st.sampled_from([xsam_jax.oja, optax.sgd, (1, 2), max]))
no_axis = st.one_of(st.integers(), st.just(()), st.just((1, "data")), st.just(np.ones(2)))

sgd = optax.sgd(0.1)
FACTORIES: dict[Callable[..., Any], dict[str, st.SearchStrategy[Any]]] = {
    xsam_jax.xsam: {
        "rho": no_scale,
        "alpha": st.one_of(no_scale, st.floats(min_value=2, exclude_min=True)),
        "eigenvector": no_object,
        "correction": no_choice,
        "normalize": no_flag,
    },
    xsam_jax.sam: {"rho": no_scale, "adaptive": no_flag},
    xsam_jax.gsam: {"rho": no_scale, "alpha": no_scale},
    xsam_jax.wsam: {"rho": no_scale, "gamma": st.one_of(no_scale, st.just(1.0), above_one)},
    xsam_jax.wsam_decoupled: {
        "base": no_object,
        "learning_rate": no_scale,
        "rho": no_scale,
        "gamma": st.one_of(no_scale, st.just(1), above_one),
    },
    xsam_jax.eigen_sam: {"rho": no_scale, "alpha": no_scale, "eigenvector": no_object},
    xsam_jax.friendly_sam: {
        "rho": no_scale,
        "sigma": no_scale,
        "decay": st.one_of(no_scale, above_one),
    },
    xsam_jax.power_iteration: {
        "every": no_count,
        "iters": no_count,
        "warm_start": no_flag,
        "start": st.sampled_from(
            [
                "v",
                1.0,
                {"a": 3},
                jnp.zeros(2),
                jnp.array([jnp.nan]),
                jnp.ones(2, int),
                jnp.ones(1, complex),
            ]
        ),
        "seed": st.one_of(
            no_number, not_finite, st.integers(max_value=-1), st.integers(2**63), st.floats(0, 9)
        ),
    },
    xsam_jax.periodic: {"every": no_count, "refresh": no_function},
    xsam_jax.oja: {"rate": st.one_of(no_scale, st.just(0))},
    xsam_jax.subspace: {
        "size": no_count,
        "decay": st.one_of(no_scale, st.just(0), st.just(1), above_one),
        "ridge": st.one_of(no_scale, st.just(0.0)),
    },
}
METHODS = [f for f in FACTORIES if "axis_name" in inspect.signature(f).parameters]
GIVEN: dict[Callable[..., Any], dict[str, Any]] = {
    xsam_jax.wsam_decoupled: {"base": sgd, "learning_rate": 0.1},
    xsam_jax.periodic: {"every": 5, "refresh": lambda step, pair, count: pair},
}


@pytest.mark.parametrize(
    ("factory", "argument"),
    [(f, a) for f, strategies in FACTORIES.items() for a in strategies],
    ids=lambda x: getattr(x, "__name__", x),
)
@some
@given(data=st.data())
def test_at_construction(factory: Callable[..., Any], argument: str, data: Any) -> None:
    value = data.draw(FACTORIES[factory][argument])
    with names(argument):
        factory(**(GIVEN.get(factory, {}) | {argument: value}))


def test_every_argument_has_its_row() -> None:
    for factory, strategies in FACTORIES.items():
        assert {*inspect.signature(factory).parameters} - {"axis_name", "per_device"} == {
            *strategies
        }
    made = {f for f in vars(xsam_jax).values() if inspect.isfunction(f)} - {*FACTORIES}
    of_functions = {xsam_jax.mean_grad_fn, xsam_jax.masked_grad_fn, xsam_jax.channels_last}
    assert made == of_functions | {xsam_jax.free_product, xsam_jax.nnx_value_and_grad}


@pytest.mark.parametrize("method", METHODS, ids=lambda f: f.__name__)
@some
@given(value=no_axis)
def test_axis_name(method: Callable[..., Any], value: Any) -> None:
    with names("axis_name"):
        method(**GIVEN.get(method, {}), axis_name=value)


@pytest.mark.parametrize("method", METHODS, ids=lambda f: f.__name__)
@some
@given(value=no_flag)
def test_per_device(method: Callable[..., Any], value: Any) -> None:
    with names("per_device"):
        method(**GIVEN.get(method, {}), axis_name="data", per_device=value)


SCHEDULED = [
    (f, a)
    for f in METHODS
    for a in ("rho", "alpha", "sigma", "learning_rate")
    if a in inspect.signature(f).parameters
]
every_schedule = pytest.mark.parametrize(
    ("method", "argument"), SCHEDULED, ids=lambda x: getattr(x, "__name__", x)
)


@every_schedule
@some
@given(value=st.one_of(no_number, not_finite, st.floats(max_value=-0.01)))
def test_what_a_schedule_returns(method: Callable[..., Any], argument: str, value: Any) -> None:
    tx = method(**(GIVEN.get(method, {}) | {argument: lambda count: value}))
    with names(argument):
        jax.eval_shape(lambda: tx.update(W, tx.init(W), W, grad_fn=square))


@every_schedule
def test_what_a_schedule_computes(method: Callable[..., Any], argument: str) -> None:
    """Known only when the step runs, it cannot raise, but neither does it pass in silence."""

    @jax.jit
    def directions(values: chex.Array) -> chex.ArrayTree:
        def direction(value: chex.Array) -> chex.ArrayTree:
            tx = method(**(GIVEN.get(method, {}) | {argument: lambda count: value}))
            return tx.update(W, tx.init(W), W, grad_fn=square)

        return jax.vmap(direction)(values)

    # The last two are a schedule's rounding, and right.
    updates, state = directions(jnp.array([jnp.nan, jnp.inf, -0.1, -1e-8, 0.1]))
    chex.assert_tree_all_finite(state)
    finite = np.isfinite(updates["a"]).all(axis=1).tolist()
    assert finite == [False, False, False, True, True]
    tx = method(**(GIVEN.get(method, {}) | {argument: lambda count: jnp.stack([count, count])}))
    with names(argument):
        jax.eval_shape(lambda state: tx.update(W, state, W, grad_fn=square), tx.init(W))


no_params = st.sampled_from(
    [{"a": 1.0}, {"a": "w"}, {"a": jnp.ones(2, int)}, {"a": jnp.ones(2, complex)}, 3, [True]]
)
other_tree = st.sampled_from([W["a"], {"a": W["a"]}, {**W, "b": jnp.ones(2)}, [1, 2], ()])
no_gradient = st.sampled_from(
    [{**W, "a": jnp.ones(2, int)}, {**W, "a": jnp.ones(2, complex)}, {**W, "a": np.ones(2, bool)}]
)


@pytest.mark.parametrize("method", METHODS, ids=lambda f: f.__name__)
@some
@given(data=st.data())
def test_arguments_of_init_and_update(method: Callable[..., Any], data: Any) -> None:
    tx = method(**GIVEN.get(method, {}))
    state = jax.eval_shape(tx.init, W)

    def update(updates: Any = W, params: Any = W, **given: Any) -> None:
        given = {"grad_fn": square} | given
        jax.eval_shape(lambda state: tx.update(updates, state, params, **given), state)

    with names("params"):
        tx.init(data.draw(no_params))
    bad = data.draw(no_params)
    with names("params"):
        update(params=bad, updates=bad)
    with names("updates"):
        update(updates=data.draw(st.one_of(other_tree, no_gradient)))
    for name in ("grad_fn", "curvature_grad_fn"):
        value = data.draw(no_function.filter(lambda f: f is not None))
        with names(name):
            update(**{name: value})
    with names("grad_fn"):
        update(grad_fn=None)
    result = data.draw(st.one_of(other_tree, no_gradient))
    with names("grad_fn"):
        update(grad_fn=lambda w: result)


FUNCTIONS: list[tuple[Callable[..., Any], str, st.SearchStrategy[Any]]] = [
    (lambda fn: xsam_jax.channels_last(fn), "fn", no_function),
    (lambda f: xsam_jax.masked_grad_fn(f, W), "grad_fn", no_function),
    (lambda f: xsam_jax.mean_grad_fn(f, jnp.ones(2)), "loss_fn", no_function),
    (
        lambda b: xsam_jax.mean_grad_fn(jnp.sum, b),
        "batches",
        st.sampled_from(["x", 1.0, {}, jnp.ones(()), jnp.ones((0, 2)), (jnp.ones(2), jnp.ones(3))]),
    ),
    (
        lambda r: xsam_jax.mean_grad_fn(lambda w, x: r, jnp.ones(2))(W),
        "loss_fn",
        st.sampled_from([jnp.ones(2), jnp.ones((1, 1)), (jnp.ones(()), {"mean": jnp.ones(2)})]),
    ),
    (lambda w: xsam_jax.mean_grad_fn(lambda w, x: 0.0, jnp.ones(2))(w), "params", no_params),
    (lambda f: xsam_jax.nnx_value_and_grad(f), "loss_fn", no_function),
    (
        lambda n: xsam_jax.nnx_value_and_grad(jnp.sum, argnums=n),
        "argnums",
        st.one_of(no_number, not_finite, st.integers(max_value=-1), st.just((0, 1))),
    ),
    (lambda x: xsam_jax.nnx_value_and_grad(jnp.sum, has_aux=x), "has_aux", no_flag),
    (lambda f: curvature.hvp(f, W, W), "grad_fn", no_function),
    (lambda w: curvature.hvp(square, w, w), "params", no_params),
    (lambda v: curvature.hvp(square, W, v), "v", st.one_of(other_tree, no_gradient)),
    (lambda r: curvature.hvp(lambda w: r, W, W), "grad_fn", other_tree),
    (lambda g: curvature.angle(g, g), "grads", no_params),
    (lambda v: curvature.angle(W, v), "v", st.one_of(other_tree, no_gradient)),
    (lambda x: curvature.angle(W, W, layerwise=x), "layerwise", no_flag),
    (lambda f: curvature.trace(f, W, key=KEY), "grad_fn", no_function),
    (lambda n: curvature.trace(square, W, num_probes=n, key=KEY), "num_probes", no_count),
    (lambda k: curvature.trace(square, W, key=k), "key", no_number),
    (lambda w: curvature.trace(square, w, key=KEY), "params", no_params),
    (lambda f: curvature.spectral_density(f, W, key=KEY), "grad_fn", no_function),
    (lambda k: curvature.spectral_density(square, W, key=k), "key", no_number),
    (
        lambda n: curvature.spectral_density(square, W, num_probes=n, key=KEY),
        "num_probes",
        no_count,
    ),
    (
        lambda n: curvature.spectral_density(square, W, num_matvecs=n, key=KEY),
        "num_matvecs",
        no_count,
    ),
    (lambda w: curvature.spectral_density(square, w, key=KEY), "params", no_params),
    (lambda f: curvature.top_eigenpairs(f, W, key=KEY), "grad_fn", no_function),
    (lambda k: curvature.top_eigenpairs(square, W, k, key=KEY), "k", no_count),
    (
        lambda n: curvature.top_eigenpairs(square, W, num_matvecs=n, key=KEY),
        "num_matvecs",
        no_count,
    ),
    (lambda w: curvature.top_eigenpairs(square, W, which=w, key=KEY), "which", no_choice),
    (lambda v: curvature.top_eigenpairs(square, W, start=v, key=KEY), "start", no_gradient),
    (lambda w: curvature.top_eigenpairs(square, w, key=KEY), "params", no_params),
    (lambda k: curvature.top_eigenpairs(square, W, key=k), "key", no_number),
]


@pytest.mark.parametrize(("function", "argument", "values"), FUNCTIONS, ids=range(len(FUNCTIONS)))
@some
@given(data=st.data())
def test_functions(
    function: Callable[[Any], Any], argument: str, values: st.SearchStrategy[Any], data: Any
) -> None:
    value = data.draw(values)
    with names(argument):
        jax.eval_shape(lambda: function(value))


def test_alpha_without_descent_warns() -> None:
    for alpha in (1, 1.5, 2.0, jnp.array(1.0)):
        with pytest.warns(UserWarning, match=r"alpha = .* the safe range is alpha < 1") as said:
            xsam_jax.xsam(alpha=alpha, correction="projector")
        assert said[0].filename == __file__
    with pytest.warns(UserWarning, match="the safe range is alpha < 1"):
        xsam_jax.xsam(alpha=1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xsam_jax.xsam(alpha=0.99, correction="projector")
        xsam_jax.xsam(alpha=0.99)
        xsam_jax.xsam(alpha=lambda count: 1.5, correction="projector")
