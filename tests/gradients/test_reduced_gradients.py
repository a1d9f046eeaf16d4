"""Inside `jax.shard_map`: what JAX has summed, and parameters that differ, are refused."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import xsam_jax
from tests.gradients.shared import (
    BOTH,
    NONE,
    Loss,
    Tree,
    X,
    cast,
    close,
    gradient,
    loss,
    on_devices,
    params_of,
    step,
)
from tests.meshes import mesh_of

POWER = xsam_jax.power_iteration(every=1, iters=3)
KERNEL = {"bias": False, "kernel": True}


def frozen(params: Tree, x: chex.Array) -> chex.Array:
    return loss({**params, "bias": lax.stop_gradient(params["bias"])}, x)


def penalised(params: Tree, x: chex.Array) -> chex.Array:
    return frozen(params, x) + jnp.sum(params["bias"] ** 2)


def constant(params: Tree, x: chex.Array | None = None) -> chex.Array:
    """Make a gradient of the same examples on every device."""
    return loss(params, jnp.asarray(X))


def on_one(tx: Any, loss: Loss) -> Any:
    return jax.jit(partial(step, tx, lambda params: jax.grad(loss)(params, jnp.asarray(X))))(
        params_of()
    )


@pytest.mark.parametrize(
    ("loss", "casts"),
    [(loss, BOTH), (frozen, BOTH), (penalised, BOTH), (frozen, KERNEL), (constant, NONE)],
)
def test_a_leaf_may_be_the_same_where_nothing_of_a_device_went_into_it(
    loss: Loss, casts: dict[str, bool]
) -> None:
    def run(params: Tree, x: chex.Array) -> Any:
        return step(
            xsam_jax.xsam(eigenvector=POWER, axis_name="data"), gradient(loss, casts, x), params
        )

    close(on_devices(run), on_one(xsam_jax.xsam(eigenvector=POWER), loss))


@pytest.mark.parametrize("per_device", [False, True])
@pytest.mark.parametrize(
    ("loss", "casts", "leaf"),
    [
        (loss, KERNEL, "bias"),
        (loss, {"bias": True, "kernel": False}, "kernel"),
        (penalised, KERNEL, "bias"),
        (frozen, NONE, "kernel"),
        (lambda params, x: lax.pmean(loss(params, x), "data"), KERNEL, "bias"),
    ],
)
def test_one_leaf_that_was_summed_is_refused(
    loss: Loss, casts: dict[str, bool], leaf: str, per_device: bool
) -> None:
    tx = xsam_jax.sam(axis_name="data", per_device=per_device)
    with pytest.raises(ValueError, match=rf"^updates must be .* at \['{leaf}'\] .*pcast"):
        on_devices(lambda params, x: step(tx, gradient(loss, casts, x), params))


def test_a_sum_in_a_loop_is_refused() -> None:
    """Accumulated over micro-batches; the frozen leaf beside it in the loop is not."""

    def run(loss: Loss, params: Tree, x: chex.Array) -> Any:
        mean = xsam_jax.mean_grad_fn(loss, x[:, None])
        grad_fn: Any = lambda w: mean({**w, "kernel": cast(w["kernel"])})
        return step(xsam_jax.sam(axis_name="data"), grad_fn, params)

    close(on_devices(partial(run, frozen)), on_one(xsam_jax.sam(), frozen))
    with pytest.raises(ValueError, match=r"^updates must be .* at \['bias'\]"):
        on_devices(partial(run, loss))


@pytest.mark.parametrize("per_device", [False, True])
@pytest.mark.parametrize("method", [xsam_jax.xsam, xsam_jax.eigen_sam])
def test_curvature(method: Any, per_device: bool) -> None:
    """That of each device's examples or of the same everywhere, but no sum."""
    tx = method(eigenvector=POWER, axis_name="data", per_device=per_device)

    def run(loss: Loss, casts: dict[str, bool], params: Tree, x: chex.Array) -> Any:
        curvature = gradient(loss, casts, x)
        own = gradient(constant, BOTH, x)
        return step(tx, own, params, curvature_grad_fn=curvature)[1].eigenvalue

    expected = on_one(method(eigenvector=POWER), loss)[1].eigenvalue
    for of, casts in ((loss, BOTH), (constant, NONE), (constant, BOTH)):
        close(on_devices(partial(run, of, casts)), expected)
    for casts in (KERNEL, NONE):
        with pytest.raises(ValueError, match=r"^the result of curvature_grad_fn .* at \['bias'\]"):
            on_devices(partial(run, loss, casts))


def test_two_axes() -> None:
    """A sum over one of them is refused; data may be divided along one alone."""
    tx = xsam_jax.sam(axis_name=("a", "b"))
    mesh = mesh_of(2, 2, names=("a", "b"))

    def found(data: P, axis: Any) -> Any:
        run = lambda params, x: step(tx, gradient(loss, BOTH, x, axis), params)
        return on_devices(run, mesh=mesh, in_specs=(P(), data))

    for data, axis in ((P(("a", "b")), ("a", "b")), (P("a"), "a"), (P("a"), ("a", "b"))):
        close(found(data, axis), on_one(xsam_jax.sam(), loss))
    with pytest.raises(ValueError, match=r"^updates must be .* over 'b' already"):
        found(P(("a", "b")), "a")


def test_an_axis_left_to_the_compiler() -> None:
    mesh = mesh_of(2, 2, names=("a", "b"))
    tx = xsam_jax.xsam(eigenvector=POWER, axis_name="a")
    for casts in (BOTH, KERNEL):

        def run(params: Tree, x: chex.Array, casts: dict[str, bool] = casts) -> Any:
            return step(tx, gradient(loss, casts, x, "a"), params)

        at = partial(on_devices, run, mesh=mesh, in_specs=(P(), P("a")), axis_names={"a"})
        if casts is BOTH:
            close(at(), on_one(xsam_jax.xsam(eigenvector=POWER), loss))
        else:
            with pytest.raises(ValueError, match=r"^updates must be .* at \['bias'\]"):
                at()


def test_vmap_in_place_of_devices() -> None:
    """There nothing is tracked, and nothing is summed."""

    def run(x: chex.Array) -> Any:
        tx = xsam_jax.xsam(eigenvector=POWER, axis_name="part")
        return step(tx, gradient(loss, NONE, x), params_of())

    found = jax.jit(jax.vmap(run, axis_name="part"))(jnp.asarray(X).reshape(4, 2, 4))
    expected = on_one(xsam_jax.xsam(eigenvector=POWER), loss)
    for i in range(4):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], found), expected)
