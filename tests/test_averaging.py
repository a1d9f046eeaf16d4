"""Averaging over devices: `axis_name` takes the steps of one device with all examples."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import optax
import pytest
from jax.sharding import PartitionSpec as P

import xsam_jax
from tests import problem_a
from tests.meshes import mesh_of
from tests.test_two_gradients import METHODS, every_method


def two_steps(
    tx: optax.GradientTransformationExtraArgs,
    gradient: Callable[[chex.ArrayTree], chex.ArrayTree],
    params: chex.ArrayTree,
) -> tuple[chex.ArrayTree, Any]:
    """Take two steps; return parameters and state."""

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        direction, state = tx.update(gradient(params), state, params, grad_fn=gradient)
        return (jax.tree.map(lambda w, d: w - 0.1 * d, params, direction), state), None

    found: tuple[Any, Any] = jax.lax.scan(step, (params, tx.init(params)), length=2)[0]
    return found


def on_two_devices(
    tx: optax.GradientTransformationExtraArgs, style: str
) -> tuple[chex.ArrayTree, Any]:
    """Take `two_steps` on two devices with half a mini-batch each.

    ``unchecked``: without ``check_vma`` a gradient is the device's own. ``cast``: with it, because
    the parameters are cast. ``summed``: with it, JAX adds the devices' gradients up. ``averaged``:
    so does the loss.
    """

    def steps(params: chex.ArrayTree, x: chex.Array, y: chex.Array) -> tuple[chex.ArrayTree, Any]:
        def loss(params: chex.ArrayTree) -> chex.Array:
            value = problem_a.loss(params, x, y)
            return jax.lax.pmean(value, "data") if style == "averaged" else value

        def gradient(params: chex.ArrayTree) -> chex.ArrayTree:
            if style == "cast":
                params = jax.lax.pcast(params, "data", to="varying")
            return jax.grad(loss)(params)

        return two_steps(tx, gradient, params)

    run = jax.shard_map(
        steps,
        mesh=mesh_of(2),
        in_specs=(P(), P("data"), P("data")),
        out_specs=P(),
        check_vma=style != "unchecked",
    )
    found: tuple[Any, Any] = jax.jit(run)(problem_a.tree("init"), *problem_a.minibatch(0))
    return found


@functools.cache
def on_one_device(method: str) -> tuple[chex.ArrayTree, Any]:
    """Take `two_steps` on one device with the whole mini-batch."""
    x, y = problem_a.minibatch(0)
    gradient = jax.grad(lambda params: problem_a.loss(params, x, y))
    steps = functools.partial(two_steps, METHODS[method](), gradient)
    found: tuple[Any, Any] = jax.jit(steps)(problem_a.tree("init"))
    return found


@pytest.mark.parametrize("style", ["unchecked", "cast", "averaged"])
@every_method
def test_devices_take_the_steps_of_one_with_all_examples(method: str, style: str) -> None:
    tx = METHODS[method](axis_name=None if style == "averaged" else "data")
    actual, expected = on_two_devices(tx, style), on_one_device(method)
    chex.assert_trees_all_close(actual[0], expected[0], rtol=0, atol=1e-12)
    # float32 fields in the state
    chex.assert_trees_all_close(actual[1], expected[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("style", ["summed", "averaged"])
@pytest.mark.parametrize("per_device", [False, True])
def test_a_gradient_that_is_the_same_on_all_devices_is_refused(
    style: str, per_device: bool
) -> None:
    tx = xsam_jax.sam(axis_name="data", per_device=per_device)
    with pytest.raises(ValueError, match=r"^updates must be .* own loss.*check_vma=False.*pcast"):
        on_two_devices(tx, style)


def test_a_summed_result_of_grad_fn_is_refused() -> None:
    tx = xsam_jax.sam(axis_name="data")

    def step(params: chex.ArrayTree, x: chex.Array, y: chex.Array) -> Any:
        gradient = jax.grad(lambda params: problem_a.loss(params, x, y))
        own = gradient(jax.lax.pcast(params, "data", to="varying"))
        return tx.update(own, tx.init(params), params, grad_fn=gradient)

    specs = (P(), P("data"), P("data"))
    run = jax.shard_map(step, mesh=mesh_of(2), in_specs=specs, out_specs=P())
    with pytest.raises(ValueError, match=r"^the result of grad_fn must be .* own loss"):
        jax.eval_shape(run, problem_a.tree("init"), *problem_a.minibatch(0))


def test_curvature_may_be_of_the_same_examples_on_all_devices() -> None:
    x, y = problem_a.minibatch(0)
    params = problem_a.tree("init")
    gradient = jax.grad(lambda params: problem_a.loss(params, x, y))
    tx = xsam_jax.xsam(axis_name="data")

    def step(params: chex.ArrayTree) -> Any:
        own = lambda at: gradient(jax.lax.pcast(at, "data", to="varying"))
        return tx.update(
            own(params), tx.init(params), params, grad_fn=own, curvature_grad_fn=gradient
        )

    mesh = mesh_of(2)
    _, state = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=P(), out_specs=P()))(params)
    plain = xsam_jax.xsam()
    _, expected = jax.jit(
        lambda params: plain.update(gradient(params), plain.init(params), params, grad_fn=gradient)
    )(params)
    chex.assert_trees_all_close(state, expected, rtol=1e-5)
