"""The table of methods: how each is built, what its options are, and what a step of it costs."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from experiments.data.dataset import DatasetName
from experiments.training.config import Method, ResolvedConfig
from experiments.training.controls import LANCZOS_MATVECS, lanczos, random_vector
from experiments.training.spec import Given, Schedule, Spec, Varied, varied
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

# The paper's radii of WSAM, section 6.1.
_WSAM_RHO: Mapping[DatasetName, float] = {"fashion_mnist": 2.0, "cifar10": 2.0, "cifar100": 4.0}
# X-SAM's as in its authors' code.
_AUTHORS = Schedule(5, True, "evaluation")
_ALPHA = ("rho", "alpha")
_POWER = (*_ALPHA, "refresh_every", "power_iters", "warm_start", "curvature_mode")


def _before(
    method: Callable[[Given], optax.GradientTransformation],
) -> Callable[[Given], optax.GradientTransformation]:
    """Put a method before the base optimizer."""
    return lambda given: optax.chain(method(given), given.base)


def _xsam(
    tracker: Callable[[Given], Any], **kwargs: Any
) -> Callable[[Given], optax.GradientTransformation]:
    return _before(lambda g: xsam(g.rho, g.config.alpha, eigenvector=tracker(g), **kwargs))


def _power(given: Given) -> Any:
    c = given.config
    return power_iteration(c.refresh_every, c.power_iters, warm_start=c.warm_start, seed=given.seed)


def _sometimes(
    when: Callable[[Given, chex.Array], chex.Numeric],
) -> Callable[[Given], optax.GradientTransformation]:
    """Take X-SAM's direction in some steps and the normalised gradient in the others."""

    def method(given: Given) -> optax.GradientTransformation:
        c = given.config
        steps = xsam(given.rho, c.alpha, eigenvector=oja(c.oja_rate), normalize=False)
        chosen = optax.transforms.conditionally_transform(steps, lambda step: when(given, step))
        return optax.chain(chosen, _normalized())

    return _before(method)


def _normalized() -> optax.GradientTransformation:
    """Normalise as `optax.contrib.normalize` does, but leave a zero gradient zero."""

    def unit(updates: Any, params: Any) -> Any:
        del params
        norm = optax.tree.norm(updates)
        return jax.tree.map(lambda g: jnp.where(norm == 0, g, g / norm), updates)

    return optax.stateless(unit)


def _products(config: Mapping[str, Any]) -> float:
    """Count the Hessian products of a step of power iteration."""
    return float(config["power_iters"] / config["refresh_every"])


def _of_power(config: Mapping[str, Any]) -> float:
    return 2.0 + 2.0 * _products(config)


METHODS: dict[Method, Spec] = {
    "sgd": Spec(_before(lambda g: optax.identity()), (), lambda c: 1.0),
    "sam": Spec(_before(lambda g: sam(g.rho))),
    # It measures its radius in units of the parameters' own size: its authors' for CIFAR-10.
    "asam": Spec(
        _before(lambda g: sam(g.rho, adaptive=True)), rho=lambda dataset: 0.5, radius_unit=10.0
    ),
    "gsam": Spec(_before(lambda g: gsam(g.rho, g.config.gsam_alpha)), ("rho", "gsam_alpha")),
    # The decoupled form of its reference code wraps the base optimizer.
    "wsam": Spec(
        lambda g: wsam_decoupled(g.base, g.schedule, g.rho, g.config.wsam_gamma),
        ("rho", "wsam_gamma"),
        rho=lambda dataset: _WSAM_RHO.get(dataset, 0.05),
    ),
    "friendly_sam": Spec(
        _before(lambda g: friendly_sam(g.rho, g.config.fsam_sigma, g.config.fsam_decay)),
        ("rho", "fsam_sigma", "fsam_decay"),
    ),
    "xsam": Spec(_xsam(_power), _POWER, _of_power, _AUTHORS, control="normalized_sam"),
    "xsam_projector": Spec(
        _xsam(_power, correction="projector"),
        _POWER,
        _of_power,
        _AUTHORS,
        control="normalized_sam",
    ),
    "xsam_p100": Spec(_xsam(_power), _POWER, _of_power, control="normalized_sam"),
    # What is special about it is the gradient it is given, see `train_step`.
    "xsam_part": Spec(
        _xsam(_power),
        (*_POWER, "ascent_part"),
        lambda c: 1.0 + c["ascent_part"] * (1.0 + 2.0 * _products(c)),
    ),
    "eigen_sam": Spec(
        _before(lambda g: eigen_sam(g.rho, g.config.alpha, eigenvector=_power(g))),
        _POWER,
        _of_power,
        Schedule(100, True, "evaluation"),
    ),
    "xsam_oja": Spec(
        _xsam(lambda g: oja(g.config.oja_rate)),
        (*_ALPHA, "oja_rate"),
        control="normalized_sam",
    ),
    "xsam_subspace": Spec(
        _xsam(lambda g: subspace()),
        _ALPHA,
        control="normalized_sam",
    ),
    # With alpha 0 no eigenvector matters, so it is tracked in the way that costs nothing.
    "normalized_sam": Spec(_before(lambda g: xsam(g.rho, 0.0, eigenvector=oja(g.config.oja_rate)))),
    "xsam_random": Spec(
        _xsam(lambda g: random_vector(g.config.refresh_every, g.seed)),
        (*_ALPHA, "refresh_every"),
        schedule=Schedule(5, False, "training"),
        control="normalized_sam",
    ),
    "xsam_lanczos": Spec(
        _xsam(lambda g: lanczos(g.config.refresh_every)),
        (*_ALPHA, "refresh_every", "curvature_mode"),
        lambda c: 2.0 + 2.0 * (LANCZOS_MATVECS + 1) / c["refresh_every"],
        Schedule(10, False, "evaluation"),
        control="normalized_sam",
    ),
    "normalized_sgd": Spec(_before(lambda g: _normalized()), (), lambda c: 1.0),
    "xsam_late": Spec(
        _sometimes(lambda g, step: step >= g.config.late_start * g.total_steps),
        (*_ALPHA, "oja_rate", "late_start"),
        lambda c: 2.0 - c["late_start"],
    ),
    "xsam_sparse": Spec(
        _sometimes(lambda g, step: step % g.config.sparse_every == 0),
        (*_ALPHA, "oja_rate", "sparse_every"),
        lambda c: 1.0 + 1.0 / c["sparse_every"],
    ),
}
# Methods without a second gradient have no radius.
ONE_GRADIENT = frozenset(method for method, spec in METHODS.items() if "rho" not in spec.options)


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
    given = Given(c, seed, rho, base, schedule, total_steps)
    # Methods of a single gradient must accept grad_fn as well.
    return optax.with_extra_args_support(METHODS[c.method].build(given))


def gradients_per_step(config: Mapping[str, Any]) -> float:
    """Count the gradients of a step, a Hessian product as two.

    Args:
        config: A run's configuration, as config.json has it.

    Returns:
        The mean over the run.
    """
    return METHODS[config["method"]].gradients(config)


def knows_its_end(config: ResolvedConfig) -> bool:
    """Whether a step depends on the number of all epochs: with more it would be another one."""
    return config.schedule != "constant" or "late_start" in METHODS[config.method].options


def ascent_part(config: ResolvedConfig) -> float:
    """Say which part of a batch gives the perturbation and the Hessian products."""
    return config.ascent_part if "ascent_part" in METHODS[config.method].options else 1.0
