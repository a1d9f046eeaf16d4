"""m-sharpness: each device perturbs with its own gradient."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

import xsam_jax
from tests import problem_a
from tests.meshes import mesh_of

RHO, STEPS, DEVICES = 0.3, 3, 4
POWER = xsam_jax.power_iteration(every=2, iters=3)


def dot(a: chex.ArrayTree, b: chex.ArrayTree) -> chex.Array:
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def add(*terms: Any) -> chex.ArrayTree:
    """Add up ``coefficient * tree`` of several pairs."""
    return jax.tree.map(
        lambda *leaves: sum(c * leaf for (c, _), leaf in zip(terms, leaves, strict=True)),
        *(tree for _, tree in terms),
    )


def unit(tree: chex.ArrayTree) -> chex.ArrayTree:
    return add((1 / jnp.sqrt(dot(tree, tree)), tree))


def times(a: chex.ArrayTree, b: chex.ArrayTree) -> chex.ArrayTree:
    return jax.tree.map(jnp.multiply, a, b)


class Step(NamedTuple):
    """What a formula may use of a step; ``v`` and ``mean`` are from the state before it."""

    w: chex.ArrayTree
    g: chex.ArrayTree  # of all examples, or in a perturbation of one shard's
    g_adv: chex.ArrayTree | None
    v: chex.ArrayTree | None
    mean: chex.ArrayTree | None


class Method(NamedTuple):
    make: Callable[..., optax.GradientTransformationExtraArgs]
    perturbation: Callable[[Step], chex.ArrayTree] = lambda s: add((RHO, unit(s.g)))
    direction: Callable[[Step], chex.ArrayTree] = lambda s: s.g_adv


def leaning(s: Step) -> chex.ArrayTree:
    u = unit(s.g)
    along = dot(u, s.v)
    return add((RHO, u), (RHO * 0.2 * jnp.sign(along), add((1, s.v), (-along, u))))


def adaptive(s: Step) -> chex.ArrayTree:
    return add((RHO, times(s.w, unit(times(s.w, s.g)))))


def orthogonal(s: Step) -> chex.ArrayTree:
    rest = add((1, s.g), (-dot(s.g, s.g_adv) / dot(s.g_adv, s.g_adv), s.g_adv))
    return add((1, s.g_adv), (-0.4, rest))


def attenuated(s: Step) -> chex.ArrayTree:
    u = unit(s.g_adv)
    return add((1, u), (-0.2 * dot(u, s.v), s.v))


METHODS = {
    "sam": Method(xsam_jax.sam),
    "asam": Method(lambda *a, **k: xsam_jax.sam(*a, adaptive=True, **k), adaptive),
    "gsam": Method(xsam_jax.gsam, direction=orthogonal),
    "wsam": Method(xsam_jax.wsam, direction=lambda s: add((9, s.g_adv), (-8, s.g))),
    "wsam_decoupled": Method(
        lambda *a, **k: xsam_jax.wsam_decoupled(optax.identity(), 1.0, *a, **k),
        direction=lambda s: add((10, s.g), (-9, s.g_adv)),
    ),
    "friendly_sam": Method(
        xsam_jax.friendly_sam, lambda s: add((RHO, unit(add((1, s.g), (-1, s.mean)))))
    ),
    "eigen_sam": Method(lambda *a, **k: xsam_jax.eigen_sam(*a, eigenvector=POWER, **k), leaning),
    "xsam": Method(
        lambda *a, **k: xsam_jax.xsam(*a, eigenvector=POWER, correction="projector", **k),
        direction=attenuated,
    ),
}


def on_devices(
    tx: optax.GradientTransformationExtraArgs, steps: int = STEPS
) -> Callable[[], tuple[chex.ArrayTree, Any]]:
    """Train on devices: parameters before each step, states after it, of every device."""
    mesh = mesh_of(DEVICES)

    def run(x: chex.Array, y: chex.Array) -> Any:
        def step(carry: Any, _: None) -> Any:
            params, state = carry
            gradient = lambda params: jax.grad(problem_a.loss)(params, x, y)
            d, new = tx.update(gradient(params), state, params, grad_fn=gradient)
            return (add((1, params), (-0.1, d)), new), (params, new)

        params = problem_a.tree("init")
        all_of_it = jax.lax.scan(step, (params, tx.init(params)), length=steps)[1]
        return jax.tree.map(lambda leaf: leaf[None], all_of_it)

    sharded = jax.shard_map(
        run, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P("data"), check_vma=False
    )
    return jax.jit(lambda: sharded(*problem_a.minibatch(0)))


@pytest.mark.parametrize("name", METHODS)
def test_against_a_loop_over_the_devices_examples(name: str) -> None:
    method = METHODS[name]
    found = on_devices(method.make(RHO, axis_name="data", per_device=True))()
    for device in range(1, DEVICES):  # the same bits everywhere
        chex.assert_trees_all_equal(
            jax.tree.map(lambda leaf: leaf[0], found),
            jax.tree.map(lambda leaf, device=device: leaf[device], found),
        )
    at = lambda k: jax.tree.map(lambda leaf: leaf[0, k], found)

    gradient = jax.jit(jax.grad(problem_a.loss))
    shards = list(zip(*(jnp.split(a, DEVICES) for a in problem_a.minibatch(0)), strict=True))
    average = lambda trees: add(*((1 / DEVICES, tree) for tree in trees))
    w, mean = problem_a.tree("init"), add((0, problem_a.tree("init")))
    for k in range(STEPS):
        params, state = at(k)
        chex.assert_trees_all_close(params, w, rtol=0, atol=1e-12)
        gs = [gradient(w, *shard) for shard in shards]
        v = getattr(state, "eigenvector", None)
        es = [method.perturbation(Step(w, g, None, v, mean)) for g in gs]
        g_adv = average(
            [gradient(add((1, w), (1, e)), *shard) for e, shard in zip(es, shards, strict=True)]
        )
        g = average(gs)
        d = method.direction(Step(w, g, g_adv, v, mean))
        w, mean = add((1, w), (-0.1, d)), g if k == 0 else add((0.9, mean), (0.1, g))


def test_the_eigenvector_is_that_of_all_examples() -> None:
    _, state = on_devices(METHODS["xsam"].make(RHO, axis_name="data", per_device=True), steps=1)()
    tx = METHODS["xsam"].make(RHO)
    params = problem_a.tree("init")
    gradient = problem_a.grad_fn(0)
    _, expected = jax.jit(
        lambda: tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)
    )()
    v = jax.tree.map(lambda leaf: leaf[0, 0], state.eigenvector)
    chex.assert_trees_all_close(v, expected.eigenvector, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "per_device", "averages"), [("sam", False, 2), ("sam", True, 1), ("xsam", True, 1 + 1)]
)
def test_averages_a_step(name: str, per_device: bool, averages: int) -> None:
    """X-SAM's other one is that of a refresh's product."""
    tx = METHODS[name].make(RHO, axis_name="data", per_device=per_device)
    program = on_devices(tx).lower().compile().as_text()
    reduced = re.findall(r"= (.*) all-reduce\(", program)
    numbers = sum(
        math.prod(map(int, filter(None, shape.split(","))))
        for shape in re.findall(r"f64\[([\d,]*)\]", " ".join(reduced))
    )
    size = sum(leaf.size for leaf in jax.tree.leaves(problem_a.tree("init")))
    # And the squared norm of its own gradient: if it is not finite, all must know.
    assert numbers == averages * size + per_device


def test_a_gradient_that_is_not_finite_on_one_device() -> None:
    tx = xsam_jax.friendly_sam(RHO, axis_name="data", per_device=True)
    mesh = mesh_of(DEVICES)
    params = problem_a.tree("init")

    def run(bad: chex.Array) -> Any:
        gradient = lambda w: add((jnp.where(bad[0], jnp.nan, 1), w))
        d, state = tx.update(gradient(params), tx.init(params), params, grad_fn=lambda w: w)
        return jax.tree.map(lambda leaf: leaf[None], (d, state))

    bad = jnp.arange(DEVICES) == 1
    direction, state = jax.jit(
        jax.shard_map(run, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    )(bad)
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(direction))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(state.mean))
    assert (state.count == 1).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: xsam_jax.sam(per_device=True), ValueError, "per_device must be False without an"),
        (
            lambda: xsam_jax.gsam(axis_name="data", per_device=1),
            TypeError,
            "per_device must be True or False, got 1",
        ),
        *(
            (
                lambda tracker=tracker, method=method: method(
                    eigenvector=tracker(), axis_name="data", per_device=True
                ),
                ValueError,
                r"eigenvector must be power_iteration\(\) with per_device=True",
            )
            for tracker in (xsam_jax.oja, xsam_jax.subspace)
            for method in (xsam_jax.xsam, xsam_jax.eigen_sam)
        ),
    ],
)
def test_what_is_refused(make: Callable[[], Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make()
