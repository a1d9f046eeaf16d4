"""From the name of a method to its optax transformation, the base optimizer included."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.training.config import Method, ResolvedConfig
from experiments.training.controls import LANCZOS_MATVECS, lanczos, random_vector
from xsam_jax import (
    eigen_sam,
    friendly_sam,
    gsam,
    oja,
    power_iteration,
    sam,
    subspace,
    wsam_decoupled,
    xsam,
)

# Methods without a second gradient have no radius.
ONE_GRADIENT: frozenset[Method] = frozenset({"sgd", "normalized_sgd"})


class Varied(NamedTuple):
    """What may differ between runs of one compiled program, as numbers or traced values.

    Attributes:
        seed: Seed of the method's own random vectors.
        learning_rate: Initial learning rate.
        rho: Radius of the perturbation.
    """

    seed: chex.Numeric
    learning_rate: chex.Numeric
    rho: chex.Numeric


def varied(config: ResolvedConfig) -> Varied:
    """These values of a run."""
    # As an argument of a compiled program a Python integer would be an int32.
    return Varied(np.uint32(config.seed), config.learning_rate, config.rho)


def build_method(
    config: ResolvedConfig, total_steps: int, values: Varied | None = None
) -> optax.GradientTransformationExtraArgs:
    """Build a method with its base optimizer, weight decay and schedule.

    Args:
        config: The run's configuration.
        total_steps: Steps after which a learning rate that decays is 0.
        values: Used instead of the configuration's.

    Returns:
        A transformation whose update takes ``grad_fn``.
    """
    c = config
    seed, learning_rate, rho = values or varied(config)
    schedules: Mapping[str, Callable[[], optax.Schedule]] = {
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, total_steps),
        "linear": lambda: optax.linear_schedule(learning_rate, 0.0, total_steps),
        "constant": lambda: optax.constant_schedule(learning_rate),
    }
    schedule = schedules[c.schedule]()
    if c.optimizer == "adamw":
        base = optax.adamw(schedule, c.momentum, weight_decay=c.weight_decay)
    else:
        decay = optax.add_decayed_weights(c.weight_decay)
        base = optax.chain(decay, optax.sgd(schedule, c.momentum))
    if c.method == "wsam":
        # The decoupled form of its reference code wraps the base optimizer.
        return wsam_decoupled(base, schedule, rho, c.wsam_gamma)

    def sometimes(when: Callable[[chex.Array], chex.Numeric]) -> optax.GradientTransformation:
        """X-SAM in some steps, whose direction has norm one like the gradient's in the others."""
        method = xsam(rho, c.alpha, eigenvector=oja(c.oja_rate), normalize=False)
        return optax.chain(optax.transforms.conditionally_transform(method, when), _normalized())

    power = power_iteration(c.refresh_every, c.power_iters, warm_start=c.warm_start, seed=seed)
    sharpness_aware: dict[Method, Callable[[], optax.GradientTransformation]] = {
        "sgd": optax.identity,
        "sam": lambda: sam(rho),
        "asam": lambda: sam(rho, adaptive=True),
        "gsam": lambda: gsam(rho, c.gsam_alpha),
        "eigen_sam": lambda: eigen_sam(rho, c.alpha, eigenvector=power),
        "friendly_sam": lambda: friendly_sam(rho, c.fsam_sigma, c.fsam_decay),
        "xsam": lambda: xsam(rho, c.alpha, eigenvector=power),
        "xsam_p100": lambda: xsam(rho, c.alpha, eigenvector=power),
        "xsam_projector": lambda: xsam(rho, c.alpha, eigenvector=power, correction="projector"),
        "xsam_oja": lambda: xsam(rho, c.alpha, eigenvector=oja(c.oja_rate)),
        "xsam_subspace": lambda: xsam(rho, c.alpha, eigenvector=subspace()),
        # With alpha 0 no eigenvector matters, so it is tracked in the way that costs nothing.
        "normalized_sam": lambda: xsam(rho, 0.0, eigenvector=oja(c.oja_rate)),
        "xsam_random": lambda: xsam(rho, c.alpha, eigenvector=random_vector(c.refresh_every, seed)),
        "xsam_lanczos": lambda: xsam(rho, c.alpha, eigenvector=lanczos(c.refresh_every)),
        "normalized_sgd": _normalized,
        "xsam_late": lambda: sometimes(lambda step: step >= c.late_start * total_steps),
        "xsam_sparse": lambda: sometimes(lambda step: step % c.sparse_every == 0),
        # What is special about it is the gradient it is given, see `train_step`.
        "xsam_part": lambda: xsam(rho, c.alpha, eigenvector=power),
    }
    # Methods of a single gradient must accept grad_fn as well.
    return optax.with_extra_args_support(optax.chain(sharpness_aware[c.method](), base))


def _normalized() -> optax.GradientTransformation:
    """`optax.contrib.normalize`, but what is zero stays zero, as with `xsam`, and is not NaN."""

    def unit(updates: Any, params: Any) -> Any:
        del params
        norm = optax.tree.norm(updates)
        return jax.tree.map(lambda g: jnp.where(norm == 0, g, g / norm), updates)

    return optax.stateless(unit)


def gradients_per_step(config: Mapping[str, Any]) -> float:
    """Gradients of a step by count, a Hessian product being two.

    Args:
        config: A run's configuration, as config.json has it.

    Returns:
        The mean over the run.
    """
    method: Method = config["method"]
    every, iters = int(config["refresh_every"]), int(config["power_iters"])
    if method in ONE_GRADIENT:
        return 1.0
    if method == "xsam_late":
        return 2.0 - float(config["late_start"])
    if method == "xsam_sparse":
        return 1.0 + 1.0 / int(config["sparse_every"])
    if method == "xsam_part":
        return 1.0 + float(config["ascent_part"]) * (1.0 + 2.0 * iters / every)
    products: Mapping[Method, float] = {
        "xsam": iters / every,
        "xsam_p100": iters / every,
        "xsam_projector": iters / every,
        "eigen_sam": iters / every,
        "xsam_lanczos": (LANCZOS_MATVECS + 1) / every,
    }
    return 2.0 + 2.0 * products.get(method, 0.0)
