"""What a run does where its options leave it open, and which options it refuses."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

from experiments.common.errors import UserError
from experiments.common.options import (
    AT_LEAST_ONE,
    FRACTION,
    NONE_OR_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    Rule,
)
from experiments.models import BATCH_NORM
from experiments.training.config import Method, Mode, ResolvedConfig, TrainConfig
from experiments.training.methods import ONE_GRADIENT

# The paper's radii, section 6.1, for WSAM and for the others, where they are not 0.05.
_PAPER_RHO: dict[str, tuple[float, float]] = {
    "fashion_mnist": (2.0, 0.05),
    "cifar10": (2.0, 0.05),
    "cifar100": (4.0, 0.1),
}
# ASAM measures its radius in units of the parameters' own size: its authors' for CIFAR-10.
_ASAM_RHO = 0.5
# p, a warm start, and the mode of the products: X-SAM's and Eigen-SAM's as in their authors' codes.
_Schedule = tuple[int, bool, Mode]
_AUTHORS: _Schedule = (5, True, "evaluation")
_ALGORITHM_2: _Schedule = (100, False, "training")
_EIGENVECTOR: dict[Method, _Schedule] = {
    "xsam": _AUTHORS,
    "xsam_projector": _AUTHORS,
    "eigen_sam": (100, True, "evaluation"),
    "xsam_p100": _ALGORITHM_2,
    "xsam_part": _ALGORITHM_2,
    "xsam_random": (5, False, "training"),
    "xsam_lanczos": (10, False, "evaluation"),
}
# Two cores finish the digits within a minute, the measurements of the curvature included.
_EPOCHS: dict[str, int] = {"digits": 24}
_CURVATURE_EVERY: dict[str, int] = {"digits": 3}
_CURVATURE_SAMPLES: dict[str, int] = {"digits": 256}


_POWER_ITERATION: tuple[Method, ...] = (
    "xsam",
    "xsam_projector",
    "xsam_p100",
    "xsam_part",
    "eigen_sam",
)
_OJA: tuple[Method, ...] = ("xsam_oja", "xsam_late", "xsam_sparse")
_OTHER_VECTORS: tuple[Method, ...] = ("xsam_random", "xsam_lanczos")
# What an option is for; other methods would ignore it.
_METHODS_OF: dict[str, tuple[Method, ...]] = {
    "rho": tuple(method for method in get_args(Method) if method not in ONE_GRADIENT),
    "alpha": (*_POWER_ITERATION, *_OJA, "xsam_subspace", *_OTHER_VECTORS),
    "gsam_alpha": ("gsam",),
    "wsam_gamma": ("wsam",),
    "fsam_sigma": ("friendly_sam",),
    "fsam_decay": ("friendly_sam",),
    "refresh_every": (*_POWER_ITERATION, *_OTHER_VECTORS),
    "power_iters": _POWER_ITERATION,
    "warm_start": _POWER_ITERATION,
    "curvature_mode": (*_POWER_ITERATION, "xsam_lanczos"),
    "oja_rate": _OJA,
    "late_start": ("xsam_late",),
    "sparse_every": ("xsam_sparse",),
    "ascent_part": ("xsam_part",),
}


def refuse_ignored(config: TrainConfig) -> None:
    """Refuse what a user said and the run would not heed.

    Args:
        config: What the user said.

    Raises:
        UserError: An option that is not left at its default is for other methods, networks or data,
            or for tests on the test data and the run looks at none.
    """
    for name, methods in _METHODS_OF.items():
        if config.method not in methods and getattr(config, name) != getattr(TrainConfig, name):
            raise UserError(
                f"--{name.replace('_', '-')} is for {', '.join(methods)}, not for {config.method}."
            )
    if config.curvature_mode is not None and config.model not in BATCH_NORM:
        raise UserError(
            f"--curvature-mode is for a network with BatchNorm, not for {config.model}."
        )
    if config.data_dir is not None and config.dataset == "digits":
        raise UserError("--data-dir is not for digits, which come with scikit-learn.")
    if config.validation_images is not None and config.test_images is not None:
        raise UserError("--test-images is not for a run with --validation-images, tested on those.")


def resolve(config: TrainConfig) -> ResolvedConfig:
    """Fill in the defaults that depend on the method and the data set.

    Args:
        config: What the user said.

    Returns:
        The same with no default left open.

    Raises:
        UserError: A value is outside its range; the text names the option and the range.
    """
    method, dataset = config.method, config.dataset
    out = Path("runs", f"{dataset}-{config.model}-{method}-{config.seed}")
    every, warm_start, mode = _EIGENVECTOR.get(method, _ALGORITHM_2)
    wsam_rho, rho = _PAPER_RHO.get(dataset, (0.05, 0.05))
    defaults = {
        "epochs": _EPOCHS.get(dataset, 200),
        "rho": {"asam": _ASAM_RHO, "wsam": wsam_rho}.get(method, rho),
        "refresh_every": every,
        "warm_start": warm_start,
        "curvature_mode": mode,
        "curvature_every": _CURVATURE_EVERY.get(dataset, 1),
        "curvature_samples": _CURVATURE_SAMPLES.get(dataset, 512),
        "out": out,
    }
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    filled: dict[str, Any] = {k: defaults.get(k) if v is None else v for k, v in given.items()}
    if config.model not in BATCH_NORM:
        filled["curvature_mode"] = "training"
    resolved = ResolvedConfig(**filled)
    validate(resolved)
    return resolved


def validate(config: object) -> None:
    """Check the options of a resolved configuration.

    Args:
        config: A `ResolvedConfig`.

    Raises:
        UserError: A value is outside its range; the text names the option and the range.
    """
    rules: dict[str, Rule] = {
        "epochs": AT_LEAST_ONE,
        "batch_size": AT_LEAST_ONE,
        "refresh_every": AT_LEAST_ONE,
        "sparse_every": AT_LEAST_ONE,
        "power_iters": AT_LEAST_ONE,
        "curvature_samples": AT_LEAST_ONE,
        "num_matvecs": AT_LEAST_ONE,
        "train_images": NONE_OR_ONE,
        "test_images": NONE_OR_ONE,
        "validation_images": NONE_OR_ONE,
        "trace_probes": (lambda x: x == 0 or x >= 2, "0 or at least 2"),
        "seed": (lambda x: 0 <= x < 2**32, "in [0, 2**32)"),
        "curvature_every": NOT_NEGATIVE,
        "checkpoint_every": NOT_NEGATIVE,
        "max_bad_steps": NOT_NEGATIVE,
        "learning_rate": POSITIVE,
        "rho": NOT_NEGATIVE,
        "weight_decay": NOT_NEGATIVE,
        "gsam_alpha": NOT_NEGATIVE,
        "fsam_sigma": NOT_NEGATIVE,
        "oja_rate": POSITIVE,
        "label_noise": FRACTION,
        "momentum": FRACTION,
        "wsam_gamma": FRACTION,
        "late_start": FRACTION,
        "ascent_part": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
        "fsam_decay": FRACTION,
        "alpha": (lambda x: 0 <= x <= 2, "in [0, 2]"),
    }
    for name, (allowed, words) in rules.items():
        value = getattr(config, name)
        if not allowed(value):
            raise UserError(f"--{name.replace('_', '-')} must be {words}, not {value}.")
