"""The training steps that are compared."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

import xsam_jax
from experiments.common.options import among
from experiments.speed.workloads import Workload
from xsam_jax import GradFn

BASELINE = "optax.contrib.sam"
REFRESH, BETWEEN = "xsam, q=5, refresh", "xsam, q=5, between"
# Power iteration as two compiled steps, between which the training loop chooses.
CHOSEN_REFRESH, CHOSEN_BETWEEN = "xsam, refresh=True", "xsam, refresh=False"
FAST_SGD = "sgd, channels_last"
# A refresh of one product in the place of five.
ONE = "xsam, q=1, refresh"
QUARTER, PARTS = "the same on 1/4 of the batch", "the same in 4 parts"

# XLA:CPU orders a program's operations so that many may run at once, which keeps more of their
# results alive. With this option it orders them by memory.
_MEMORY_FIRST: dict[str, Any] = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


class Step(NamedTuple):
    """A training step: ``(params, opt_state, batch) -> (params, opt_state)``."""

    function: Callable[..., Any]
    state: chex.ArrayTree
    compiler_options: dict[str, Any] | None = None


def memory_first(name: str) -> str:
    """Name a step that XLA:CPU orders by memory."""
    return f"{name}, memory first"


def all_steps(work: Workload) -> dict[str, Step]:
    """Make the steps of every method, by name."""
    base = partial(optax.sgd, 0.01, momentum=0.9)
    plain = jax.grad(work.loss)
    # X-SAM's authors take products of the network in evaluation mode.
    evaluated = work.evaluation or work.loss

    def of_the_whole(batch: Any) -> GradFn:
        return lambda params: jax.grad(evaluated)(params, batch)

    def of_a_quarter(batch: Any) -> GradFn:
        return of_the_whole(jax.tree.map(lambda leaf: leaf[: len(leaf) // 4], batch))

    def in_parts(batch: Any) -> GradFn:
        parts = jax.tree.map(lambda leaf: leaf.reshape(4, -1, *leaf.shape[1:]), batch)
        return xsam_jax.mean_grad_fn(evaluated, parts)

    def step(
        tx: optax.GradientTransformation,
        *,
        between: bool = False,
        curvature: Callable[[Any], GradFn] | None = None,
        grad: Callable[[chex.ArrayTree, Any], chex.ArrayTree] = plain,
        refresh: bool | None = None,
    ) -> Step:
        """Make a step, with a refresh or ``between`` two; ``curvature`` is for Hessian products."""
        method = optax.with_extra_args_support(tx)

        def function(params: chex.ArrayTree, state: Any, batch: Any) -> Any:
            def gradient(params: chex.ArrayTree, *_: Any) -> chex.ArrayTree:
                return grad(params, batch)

            extra: dict[str, Any] = {} if refresh is None else {"refresh": refresh}
            if curvature is not None:
                extra["curvature_grad_fn"] = curvature(batch)
            updates, state = method.update(
                gradient(params), state, params, grad_fn=gradient, **extra
            )
            return optax.apply_updates(params, updates), state

        state = method.init(work.params)
        if between:
            state = optax.tree.set(state, memory=jnp.int32(1))  # no refresh is due at count 0
        return Step(function, state)

    def chained(method: optax.GradientTransformation, **kwargs: Any) -> Step:
        return step(optax.chain(method, base()), **kwargs)

    evaluation = None if work.evaluation is None else of_the_whole
    power = partial(chained, xsam_jax.xsam(), curvature=evaluation)
    one_product = xsam_jax.xsam(eigenvector=xsam_jax.power_iteration(iters=1))
    optax_sam = optax.contrib.sam(
        base(), optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), opaque_mode=True
    )
    steps = {
        "sgd": step(base()),
        FAST_SGD: step(base(), grad=xsam_jax.channels_last(plain)),
        BASELINE: step(optax_sam),
        "sam": chained(xsam_jax.sam()),
        "asam": chained(xsam_jax.sam(adaptive=True)),
        "gsam": chained(xsam_jax.gsam()),
        "wsam": chained(xsam_jax.wsam()),
        "wsam_decoupled": step(xsam_jax.wsam_decoupled(base(), 0.01)),
        "friendly_sam": chained(xsam_jax.friendly_sam()),
        "eigen_sam, between": chained(xsam_jax.eigen_sam(), between=True),
        "xsam, oja": chained(xsam_jax.xsam(eigenvector=xsam_jax.oja())),
        "xsam, subspace": chained(xsam_jax.xsam(eigenvector=xsam_jax.subspace())),
        REFRESH: power(),
        ONE: chained(one_product, curvature=evaluation),
        QUARTER: chained(xsam_jax.xsam(), curvature=of_a_quarter),
        PARTS: chained(xsam_jax.xsam(), curvature=in_parts),
        BETWEEN: power(between=True),
        CHOSEN_REFRESH: power(refresh=True),
        CHOSEN_BETWEEN: power(refresh=False),
    }
    if jax.default_backend() == "cpu":
        for name in ("sam", REFRESH, BETWEEN):
            steps[memory_first(name)] = steps[name]._replace(compiler_options=_MEMORY_FIRST)
    return steps


def only(steps: dict[str, Step], names: tuple[str, ...]) -> dict[str, Step]:
    """Select the steps of these names, and SAM in optax.

    Raises:
        UserError: A step has no such name, or there is none.
    """
    among("steps", names, steps)
    return {name: step for name, step in steps.items() if name in (*names, BASELINE)}


def epoch(step: Step, length: int) -> tuple[Step, Step]:
    """Make an epoch of a step twice: as a Python loop over the compiled step, and as one scan."""
    compiled = jax.jit(step.function)

    def loop(params: chex.ArrayTree, state: Any, batch: Any) -> Any:
        for _ in range(length):
            params, state = compiled(params, state, batch)
        return params, state

    def scan(params: chex.ArrayTree, state: Any, batch: Any) -> Any:
        body = xsam_jax.channels_last(lambda carry, _: (step.function(*carry, batch), None))
        return lax.scan(body, (params, state), length=length)[0]

    return Step(loop, step.state), Step(jax.jit(scan), step.state)
