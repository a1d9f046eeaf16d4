"""A gradient function that ignores its argument is found; one that is truly constant works."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import xsam_jax
from tests.every_method.methods import METHODS
from xsam_jax import curvature

CURVATURES = np.arange(1.0, 4.0)


def method(name: str) -> Any:
    """Make a method of the table, before a learning rate where it is no whole optimizer."""
    row = METHODS[name]
    base = (optax.sgd(1.0), 1.0) if row.wraps_base else ()
    return row.factory(*base, **row.hyperparameters)


def gradient(w: Any) -> Any:
    return jax.grad(lambda w: jnp.sum(CURVATURES * jnp.sin(w["a"]) ** 2))(w)


def params() -> dict[str, Any]:
    return {"a": jnp.ones(3)}


def step(tx: Any, w: Any, grad_fn: Callable[[Any], Any], **rest: Any) -> Any:
    return tx.update(gradient(w), tx.init(w), w, grad_fn=grad_fn, **rest)


@pytest.mark.parametrize("way", [jax.eval_shape, lambda f, w: f(w)])
@pytest.mark.parametrize("name", ["sam", "xsam", "xsam_oja"])
def test_the_parameters_of_the_step_in_the_place_of_the_argument(name: str, way: Any) -> None:
    tx = method(name)
    with pytest.raises(ValueError, match=r"grad_fn does not depend on its argument, it reads para"):
        way(lambda w: step(tx, w, lambda p: gradient(w)), params())


@pytest.mark.parametrize(
    "inside",
    [
        lambda f: jax.jit(f),
        lambda f: jax.checkpoint(f),
        lambda f: lambda w: lax.scan(lambda c, _: (f(w), None), w, None, length=2)[0],
        lambda f: lambda w: lax.cond(w["a"][0] > 0, f, f, w),
    ],
)
def test_it_is_found_inside_of_other_functions(inside: Any) -> None:
    """Also where the function has the argument, and makes nothing of it."""
    tx = xsam_jax.sam()

    def update(w: Any) -> Any:
        slip = jax.jit(lambda p, w: inside(gradient)(w))
        return step(tx, w, lambda p: slip(p, w))

    for way in (jax.jit, lambda f: f):
        with pytest.raises(ValueError, match="grad_fn does not depend on its argument"):
            way(update)(params())
        right = way(lambda w: step(tx, w, inside(gradient)))(params())
        np.testing.assert_allclose(right[0]["a"], step(tx, params(), gradient)[0]["a"], rtol=1e-12)


def test_parameters_from_elsewhere() -> None:
    """They cannot be told from a constant gradient: a warning."""
    tx, elsewhere = xsam_jax.sam(), jax.tree.map(jnp.copy, params())
    with pytest.warns(UserWarning, match=r"^grad_fn does not depend .* constant"):
        jax.eval_shape(lambda w: step(tx, w, lambda p: gradient(elsewhere)), params())


def test_a_model_in_the_place_of_the_argument() -> None:
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    x = jnp.ones((4, 3))
    graphdef, split = nnx.split(model)
    loss = lambda model: jnp.mean(jnp.tanh(model(x)) ** 2)
    tx = xsam_jax.sam()
    for whole in (nnx.to_pure_dict(split), split):
        grads = jax.grad(lambda p: loss(nnx.merge(graphdef, p)))(whole)
        slip = lambda p, whole=whole: jax.tree.map(
            lambda _, g: g, whole, jax.grad(lambda p: loss(nnx.merge(graphdef, p)))(whole)
        )
        with pytest.raises(ValueError, match="grad_fn does not depend on its argument"):
            tx.update(grads, tx.init(whole), whole, grad_fn=slip)


@pytest.mark.parametrize("name", ["sam", "friendly_sam", "xsam", "xsam_subspace"])
def test_a_gradient_that_is_constant_works(name: str) -> None:
    """SAM is then gradient descent, and that is right."""
    linear = jax.grad(lambda w: jnp.vdot(CURVATURES, w["a"]))
    tx, w = method(name), params()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        direction, _ = jax.jit(lambda w: tx.update(linear(w), tx.init(w), w, grad_fn=linear))(w)
    cosine = jnp.vdot(direction["a"], CURVATURES) / jnp.linalg.norm(direction["a"])
    np.testing.assert_allclose(cosine, jnp.linalg.norm(CURVATURES), rtol=1e-12)


def test_a_constant_gradient_beside_the_parameters_of_the_step_works() -> None:
    """Where they are read for something else, and where the linear loss is made of them."""
    tx = xsam_jax.sam()

    def beside(w: Any) -> Callable[[Any], Any]:
        return lambda p: (gradient(w), jax.grad(lambda p: jnp.vdot(CURVATURES, p["a"]))(p))[1]

    def linearised(w: Any) -> Callable[[Any], Any]:
        cubes = lambda p: jnp.sum(CURVATURES * p["a"] ** 3) / 3
        to_first_order = lambda p: jax.jvp(cubes, (w,), (jax.tree.map(jnp.subtract, p, w),))[1]
        return lambda p: jax.grad(to_first_order)(p)

    for grad_fn in (beside, linearised):
        for way in (jax.jit, lambda f: f):
            update = lambda w, grad_fn=grad_fn: tx.update(
                grad_fn(w)(w), tx.init(w), w, grad_fn=grad_fn(w)
            )
            with pytest.warns(UserWarning, match="does not depend on its argument"):
                direction, _ = way(update)(params())
            np.testing.assert_allclose(direction["a"], CURVATURES)


def test_nothing_is_said_of_what_is_right() -> None:
    """Nor of frozen leaves, of an argument that only some leaves depend on, or of no leaves."""
    w = {"a": jnp.ones(3), "frozen": jnp.ones(2), "linear": jnp.ones(2)}

    def loss(w: Any) -> Any:
        return jnp.sum(jnp.sin(w["a"])) + jnp.sum(w["linear"])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("sam", "xsam", "xsam_oja"):
            tx = method(name)
            jax.eval_shape(
                lambda w, tx=tx: tx.update(
                    jax.grad(loss)(w), tx.init(w), w, grad_fn=jax.grad(loss)
                ),
                w,
            )
        tx = xsam_jax.sam()
        tx.update({}, tx.init({}), {}, grad_fn=lambda p: p)
        empty = {"a": jnp.ones((0,))}
        tx.update(empty, tx.init(empty), empty, grad_fn=lambda p: empty)


def test_a_curvature_that_ignores_its_argument() -> None:
    """The Hessian would be zero, and the eigenvector never found."""
    tx = xsam_jax.xsam()
    with pytest.warns(UserWarning, match=r"^curvature_grad_fn does not .*: curvature_grad_fn="):
        jax.eval_shape(
            lambda w: step(tx, w, gradient, curvature_grad_fn=lambda p: gradient(w)), params()
        )
    w = params()
    for measure in (
        functools.partial(curvature.top_eigenpairs, num_matvecs=2, key=jax.random.key(0)),
        functools.partial(curvature.trace, num_probes=2, key=jax.random.key(0)),
        lambda grad_fn, w: curvature.hvp(grad_fn, w, w),
    ):
        with pytest.raises(ValueError, match="does not depend on its argument"):
            measure(lambda p: gradient(w), w)
