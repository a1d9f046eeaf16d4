"""Where optax's transformations stand: before a method, behind it, and which fit around it.

What stands before it, and a wrapper around it, know the first gradient only; what stands behind it
is given the direction.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import xsam_jax
from tests.every_method.methods import LEARNING_RATE, METHODS
from tests.every_method.problem import (
    assert_close,
    batch,
    direct,
    grad_fn,
    gradient,
    init,
    init_by_hand,
    loss,
    train,
)

# optax multiplies floats by a bool and raises floats to the power of int32 counts.
pytestmark = pytest.mark.usefixtures("standard_promotion")


CLIPS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "clip": lambda: optax.clip(1e-3),
    "clip_by_block_rms": lambda: optax.clip_by_block_rms(1e-3),
    "clip_by_global_norm": lambda: optax.clip_by_global_norm(1e-3),
    "adaptive_grad_clip": lambda: optax.adaptive_grad_clip(1e-3),
}


@pytest.mark.parametrize("clip", CLIPS)
def test_clipping_before_clips_nothing(clip: str) -> None:
    """And by coordinate or by unit it turns the perturbation."""
    sam = xsam_jax.sam(rho=0.3)

    def direction(tx: Any) -> chex.ArrayTree:
        params = init()
        return tx.update(grad_fn(0)(params), tx.init(params), params, grad_fn=grad_fn(0))[0]

    alone, before = direction(sam), direction(optax.chain(CLIPS[clip](), sam))
    behind = direction(optax.chain(sam, CLIPS[clip]()))
    assert optax.tree.norm(before) > 0.5 * optax.tree.norm(alone)
    assert optax.tree.norm(behind) < 0.05 * optax.tree.norm(alone)
    if clip == "clip_by_global_norm":
        assert_close(before, alone)
    else:
        with pytest.raises(AssertionError):
            assert_close(before, alone, atol=1e-3)


def test_privacy_before_is_none() -> None:
    """The aggregate is clipped and noised, the gradient of ``grad_fn`` neither."""
    private = optax.contrib.differentially_private_aggregate(1e-3, 0.0, jax.random.key(0))
    tx, params = optax.chain(private, xsam_jax.sam(rho=0.0)), init()
    by_example = jax.vmap(lambda x, y: jax.grad(loss)(params, (x[None], y[None])))(*batch(0))
    updates, _ = tx.update(by_example, tx.init(params), params, grad_fn=grad_fn(0))
    assert_close(updates, grad_fn(0)(params))


BASES: dict[str, Callable[[], optax.GradientTransformation]] = {
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(0.1), 3),
    "conditionally_mask": lambda: optax.conditionally_mask(optax.adam(0.1), lambda k: k % 2 == 0),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "flatten": lambda: optax.flatten(optax.adam(0.1)),
    "split_real_and_imaginary": lambda: optax.contrib.split_real_and_imaginary(optax.adam(0.1)),
    "mechanize": lambda: optax.contrib.mechanize(optax.sgd(0.1)),
    "schedule_free": lambda: optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
    "dog": lambda: optax.contrib.dog(1.0),
    "dowg": lambda: optax.contrib.dowg(1.0),
    "prodigy": lambda: optax.contrib.prodigy(),
    "dadapt_adamw": lambda: optax.contrib.dadapt_adamw(),
    "momo": lambda: optax.contrib.momo(),
    "polyak_sgd": lambda: optax.polyak_sgd(),
    "reduce_on_plateau": lambda: optax.contrib.reduce_on_plateau(),
    "sophia": lambda: optax.contrib.sophia(0.1),
}


@pytest.mark.parametrize("base", BASES)
def test_behind_a_method(base: str) -> None:
    """Each is given the direction as the gradient, and the extra arguments that it needs."""
    name, tx = "xsam_oja", BASES[base]()
    params = by_hand = init()
    chained = optax.chain(METHODS[name].transformation(), tx)
    state, method_state, tx_state = chained.init(params), init_by_hand(name), tx.init(params)

    def extra(params: chex.ArrayTree, k: int) -> dict[str, Any]:
        if base == "sophia":
            return {"obj_fn": functools.partial(loss, batch=batch(k))}
        needed = base in ("momo", "polyak_sgd", "reduce_on_plateau")
        return {"value": loss(params, batch(k))} if needed else {}

    for k in range(2):
        updates, state = chained.update(
            gradient(params, k), state, params, grad_fn=grad_fn(k), **extra(params, k)
        )
        params = optax.apply_updates(params, updates)
        direction, _, method_state = direct(name, gradient(by_hand, k), by_hand, method_state, k)
        updates, tx_state = tx.update(direction, tx_state, by_hand, **extra(by_hand, k))
        by_hand = optax.apply_updates(by_hand, updates)
        assert_close(params, by_hand)
    assert optax.tree.norm(jax.tree.map(jnp.subtract, params, init())) > 0


@pytest.mark.parametrize("name", ["sam", "xsam_oja"])
def test_schedule_free_behind_is_schedule_free_around(name: str) -> None:
    method, sgd = METHODS[name].transformation(), optax.sgd(LEARNING_RATE)
    around, _ = train(optax.contrib.schedule_free(optax.chain(method, sgd), LEARNING_RATE))
    behind, _ = train(optax.chain(method, optax.contrib.schedule_free(sgd, LEARNING_RATE)))
    assert_close(behind, around)


@pytest.mark.parametrize("around", [True, False])
def test_mechanize_judges_by_what_goes_in(around: bool) -> None:
    """Its reward is the product of its input with the way it has gone."""
    tx, params = METHODS["sam"].transformation(), init()
    sgd = optax.sgd(LEARNING_RATE)
    mechanic = (
        optax.contrib.mechanize(optax.chain(tx, sgd), s_init=1.0, weight_decay=0.0)
        if around
        else optax.chain(tx, optax.contrib.mechanize(sgd, s_init=1.0, weight_decay=0.0))
    )
    state = mechanic.init(params)
    updates, state = mechanic.update(gradient(params, 0), state, params, grad_fn=grad_fn(0))
    moved = optax.apply_updates(params, updates)
    scale = jnp.sum(optax.tree.get(state, "s"))
    g = gradient(moved, 1)
    _, state = mechanic.update(g, state, moved, grad_fn=grad_fn(1))
    seen = g if around else direct("sam", g, moved, init_by_hand("sam"), 1)[0]
    way = jax.tree.map(lambda w0, w: (w0 - w) / scale, params, moved)
    reward = jnp.abs(optax.tree.vdot(seen, way))
    chex.assert_trees_all_close(
        optax.tree.get(state, "m"), jnp.full_like(optax.tree.get(state, "m"), reward), rtol=1e-5
    )


def test_split_real_and_imaginary_around_drops_grad_fn() -> None:
    tx = optax.contrib.split_real_and_imaginary(METHODS["sam"].optimizer())
    with pytest.raises(TypeError, match="grad_fn"):
        tx.update(init(), tx.init(init()), init(), grad_fn=grad_fn(0))
    with pytest.raises(ValueError, match="got None"):
        optax.chain(tx).update(init(), (tx.init(init()),), init(), grad_fn=grad_fn(0))


# optax hands what it does not know on to `value_fn`, which must take `grad_fn` by name.
SEARCHES: dict[str, Callable[[], optax.GradientTransformation]] = {
    "lbfgs": lambda: optax.lbfgs(),
    "zoom": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(15)),
    "backtracking": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(40)),
    "backtracking_store_grad": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(40, store_grad=True)
    ),
}


@pytest.mark.parametrize("search", SEARCHES)
def test_line_search_behind(search: str) -> None:
    """It is that of the loss along the method's direction."""
    name, tx, params = "xsam_oja", SEARCHES[search](), init()
    chained = optax.chain(METHODS[name].transformation(), tx)
    plain = functools.partial(loss, batch=batch(0))
    needed = {"value": plain(params), "grad": gradient(params, 0)}

    def step(value_fn: Any) -> chex.ArrayTree:
        return chained.update(
            needed["grad"],
            chained.init(params),
            params,
            grad_fn=grad_fn(0),
            value_fn=value_fn,
            **needed,
        )[0]

    updates = jax.jit(lambda: step(lambda w, grad_fn: plain(w)))()
    direction, *_ = direct(name, needed["grad"], params, init_by_hand(name), 0)
    by_hand, _ = tx.update(direction, tx.init(params), params, value_fn=plain, **needed)
    assert_close(updates, by_hand)
    assert plain(optax.apply_updates(params, updates)) < needed["value"]
    for value_fn in (plain, lambda w, **_: plain(w)):
        with pytest.raises(TypeError, match="not consumed by `value_fn`"):
            step(value_fn)


@pytest.mark.parametrize("search", ["zoom", "backtracking"])
def test_a_line_search_stops_where_the_method_climbs(search: str) -> None:
    """Before the top of a hill SAM looks across it, and its step climbs."""
    w = jnp.array(-0.3)
    value, g = jax.value_and_grad(jnp.cos)(w)

    def step(tail: optax.GradientTransformation) -> chex.Array:
        tx = optax.chain(xsam_jax.sam(rho=0.6), tail)
        return tx.update(
            g,
            tx.init(w),
            w,
            grad_fn=jax.grad(jnp.cos),
            value=value,
            grad=g,
            value_fn=lambda w, grad_fn: jnp.cos(w),
        )[0]

    assert jnp.cos(w + step(optax.sgd(1.0))) > value
    assert jnp.abs(step(SEARCHES[search]())) < 0.01 * jnp.abs(step(optax.sgd(1.0)))


PART_IS_ENOUGH = {"sam", "asam", "friendly_sam", "eigen_sam", "xsam"}


# With alpha = 0 a misled tracker changes nothing.
@pytest.mark.parametrize("name", [name for name in METHODS if name != "normalized_sam"])
def test_perturbation_from_a_part_of_the_batch(name: str) -> None:
    """At radius zero the direction is the whole batch's, for the methods that the recipe names."""
    method, params, radius = METHODS[name], init(), 1e-6
    tx = method.transformation(optax.identity(), rho=radius)
    part = jax.tree.map(lambda array: array[:2], batch(0))
    of_part, of_all = jax.grad(loss)(params, part), gradient(params, 0)

    def direction(g: chex.ArrayTree) -> tuple[chex.ArrayTree, Any]:
        return tx.update(g, tx.init(params), params, grad_fn=grad_fn(0))

    (found, state), (expected, whole) = direction(of_part), direction(of_all)
    if name in PART_IS_ENOUGH:
        assert_close(found, expected, atol=1e-4)
    elif hasattr(state, "eigenvalue"):
        # The difference of the batches over the radius.
        assert jnp.abs(state.eigenvalue) > 1e3 * jnp.abs(whole.eigenvalue)
    else:
        with pytest.raises(AssertionError):
            assert_close(found, expected, atol=1e-2)
    if name == "friendly_sam":
        assert_close(state.mean, of_part)
