"""Inside `jax.shard_map`: what JAX has summed, and parameters that differ, are refused."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import xsam_jax
from tests.meshes import mesh_of

Tree = dict[str, chex.Array]
Loss = Callable[[Tree, chex.Array], chex.Array]

_rng = np.random.default_rng(0)
INIT = {"bias": _rng.normal(size=3), "kernel": _rng.normal(size=(4, 3))}
X = _rng.normal(size=(8, 4))
POWER = xsam_jax.power_iteration(every=1, iters=3)
BOTH = {"bias": True, "kernel": True}
KERNEL = {"bias": False, "kernel": True}
NONE = {"bias": False, "kernel": False}


def params_of() -> Tree:
    return {name: jnp.asarray(leaf) for name, leaf in INIT.items()}


def loss(params: Tree, x: chex.Array) -> chex.Array:
    return jnp.mean(jnp.sin(x @ params["kernel"] + params["bias"][None]) ** 2)


def frozen(params: Tree, x: chex.Array) -> chex.Array:
    return loss({**params, "bias": lax.stop_gradient(params["bias"])}, x)


def penalised(params: Tree, x: chex.Array) -> chex.Array:
    return frozen(params, x) + jnp.sum(params["bias"] ** 2)


def constant(params: Tree, x: chex.Array | None = None) -> chex.Array:
    """Make a gradient of the same examples on every device."""
    return loss(params, jnp.asarray(X))


def cast(leaf: chex.Array, axis: Any = "data") -> chex.Array:
    """Cast a tree to vary over an axis, where it does not vary already."""
    axes = {axis} if isinstance(axis, str) else {*axis}
    missing = tuple(axes - jax.typeof(leaf).manual_axis_type.varying)
    varying: chex.Array = lax.pcast(leaf, missing, to="varying") if missing else leaf
    return varying


def gradient(
    loss: Loss, casts: dict[str, bool], x: chex.Array, axis: Any = "data"
) -> Callable[[Tree], Tree]:
    def grad_fn(params: Tree) -> Tree:
        params = {k: cast(leaf, axis) if casts[k] else leaf for k, leaf in params.items()}
        grads: Tree = jax.grad(loss)(params, x)
        return grads

    return grad_fn


def step(tx: Any, grad_fn: Any, params: Tree, **extra: Any) -> tuple[Tree, Any]:
    found: tuple[Tree, Any] = tx.update(
        grad_fn(params), tx.init(params), params, grad_fn=grad_fn, **extra
    )
    return found


def on_devices(run: Callable[[Tree, chex.Array], Any], **options: Any) -> Any:
    defaults = {"mesh": mesh_of(4), "in_specs": (P(), P("data")), "out_specs": P()}
    sharded: Any = partial(jax.shard_map, **(defaults | options))(run)
    return jax.jit(sharded)(params_of(), jnp.asarray(X))


def on_one(tx: Any, loss: Loss) -> Any:
    return jax.jit(partial(step, tx, lambda params: jax.grad(loss)(params, jnp.asarray(X))))(
        params_of()
    )


def close(actual: Any, expected: Any) -> None:
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-9)


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


def test_parameters_that_differ_are_refused() -> None:
    divided = {"in_specs": ({"bias": P(), "kernel": P("data")}, P()), "out_specs": P("data")}

    def differing(tx: Any, params: Tree, _: chex.Array) -> Any:
        return step(tx, lambda params: jax.tree.map(jnp.sin, params), params)

    for tx in (xsam_jax.sam(axis_name="data"), xsam_jax.friendly_sam(axis_name=("data",))):
        with pytest.raises(
            ValueError, match=r"^params must be the same .*'data'.* at \['kernel'\]"
        ):
            on_devices(partial(differing, tx), **divided)


def test_a_model_on_each_device_of_one_axis_and_its_data_on_another() -> None:
    mesh = mesh_of(2, 2, names=("model", "data"))
    scales = jnp.array([1.0, 0.5])

    def run(scale: chex.Array, x: chex.Array) -> Any:
        params = jax.tree.map(lambda leaf: scale[0] * leaf, params_of())
        found = step(xsam_jax.sam(axis_name="data"), gradient(loss, BOTH, x), params)[0]
        return jax.tree.map(lambda leaf: leaf[None], found)

    specs = (P("model"), P("data"))
    each = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P("model"))
    found = jax.jit(each)(scales, jnp.asarray(X))
    for i, scale in enumerate(scales):
        params = jax.tree.map(lambda leaf, scale=scale: scale * leaf, params_of())
        expected = step(xsam_jax.sam(), gradient(loss, NONE, jnp.asarray(X)), params)[0]
        close(jax.tree.map(lambda leaf, i=i: leaf[i], found), expected)


SPECS = {"bias": P("y"), "kernel": P("x", "y")}
OTHERS = {"bias": P("x"), "kernel": P("y", "x")}
WHERE: dict[str, Callable[[Any], Any]] = {
    "nowhere": lambda tree: tree,
    "otherwise": lambda tree: jax.tree.map(jax.sharding.reshard, tree, OTHERS),
}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("where", WHERE)
def test_trees_beside_the_parameters_of_explicit_axes(where: str, compiled: bool) -> None:
    """Wherever they lie: the numbers of one device, placed like the parameters."""
    init = {"bias": np.linspace(-1, 1, 4), "kernel": np.linspace(0.1, 1.2, 32).reshape(8, 4)}
    beside = jax.tree.map(np.cos, init)

    def measured(place: Callable[[Any], Any], params: Tree) -> Any:
        grad_fn = lambda params: place(jax.tree.map(jnp.sin, params))
        tracker = xsam_jax.power_iteration(iters=2, start=place(beside))
        curvature = xsam_jax.curvature
        return (
            step(xsam_jax.xsam(eigenvector=tracker), grad_fn, params),
            step(xsam_jax.friendly_sam(), grad_fn, params),
            curvature.hvp(grad_fn, params, place(beside)),
            curvature.angle(params, place(beside)),
            curvature.top_eigenpairs(
                grad_fn, params, num_matvecs=3, start=place(beside), key=jax.random.key(0)
            ).values,
        )

    mesh = mesh_of(2, 2, names=("x", "y"), kind=AxisType.Explicit)
    expected = jax.jit(partial(measured, WHERE["nowhere"]))(init)
    run = partial(measured, WHERE[where])
    with jax.set_mesh(mesh):
        params = jax.tree.map(jax.sharding.reshard, init, SPECS)
        found = (jax.jit(run) if compiled else run)(params)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-9)
    copies = [leaf for leaf in jax.tree.leaves(found[:2]) if leaf.shape == (8, 4)]
    assert len(copies) == 4
    assert all(leaf.sharding == params["kernel"].sharding for leaf in copies)
