"""The form of an entry of the table of methods."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import numpy as np
import optax

from experiments.data.dataset import DatasetName
from experiments.training.config import Method, Mode, ResolvedConfig

# The paper's radii for all methods but WSAM, section 6.1, where they are not 0.05.
_PAPER_RHO: Mapping[DatasetName, float] = {"cifar100": 0.1}


class Varied(NamedTuple):
    """The values that may differ between runs of one compiled program.

    Attributes:
        seed: Seed of the method's own random vectors.
        learning_rate: Initial learning rate.
        rho: Radius of the perturbation.
    """

    seed: chex.Numeric
    learning_rate: chex.Numeric
    rho: chex.Numeric


def varied(config: ResolvedConfig) -> Varied:
    """Read the values of `Varied` from a configuration."""
    # As an argument of a compiled program a Python integer would be an int32.
    return Varied(np.uint32(config.seed), config.learning_rate, config.rho)


class Given(NamedTuple):
    """The arguments that a method is built from.

    Attributes:
        config: The run's configuration.
        seed: Used instead of the configuration's.
        rho: Likewise.
        base: The base optimizer.
        schedule: Its learning rate.
        total_steps: Steps of the run.
    """

    config: ResolvedConfig
    seed: chex.Numeric
    rho: chex.Numeric
    base: optax.GradientTransformation
    schedule: optax.Schedule
    total_steps: int


class Schedule(NamedTuple):
    """How an eigenvector is refreshed, unless a run says otherwise.

    Attributes:
        refresh_every: Steps between two refreshes, the paper's p.
        warm_start: Whether a refresh starts from the last eigenvector.
        curvature_mode: Mode of the network in Hessian products.
    """

    refresh_every: int
    warm_start: bool
    curvature_mode: Mode


class Spec(NamedTuple):
    """An entry of the table of methods.

    Attributes:
        build: The method with its base optimizer.
        options: The options of a run that are not for all methods, but for this one.
        gradients: Configuration, as config.json has it -> gradients of a step, by count, a Hessian
            product being two.
        schedule: Of the eigenvector.
        rho: Data set -> default radius.
        radius_unit: Its radius in a search, where SAM's is one.
        control: The method from which it differs by its vector alone.
    """

    build: Callable[[Given], optax.GradientTransformation]
    options: tuple[str, ...] = ("rho",)
    gradients: Callable[[Mapping[str, Any]], float] = lambda _: 2.0
    schedule: Schedule = Schedule(100, False, "training")  # Algorithm 2's, with Eigen-SAM's p
    rho: Callable[[DatasetName], float] = lambda dataset: _PAPER_RHO.get(dataset, 0.05)
    radius_unit: float = 1.0
    control: Method | None = None
