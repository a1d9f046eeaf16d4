"""Fills in the options that a user left open, and refuses those that a run would ignore."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.common.errors import UserError
from experiments.common.options import (
    ALPHA,
    AT_LEAST_ONE,
    FRACTION,
    NONE_OR_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    Rule,
    check,
)
from experiments.data.sources import file_name, fingerprint
from experiments.models import BATCH_NORM
from experiments.training.config import ResolvedConfig, TrainConfig
from experiments.training.methods import METHODS

# Two cores finish the digits within a minute, the measurements of the curvature included.
_EPOCHS: dict[str, int] = {"digits": 24}
_CURVATURE_EVERY: dict[str, int] = {"digits": 3}
_CURVATURE_SAMPLES: dict[str, int] = {"digits": 256}


def refuse_ignored(config: TrainConfig) -> None:
    """Refuse options that the run would ignore.

    Args:
        config: What the user said.

    Raises:
        UserError: An option that is not left at its default is for other methods, networks or data,
            or for tests on the test data and the run looks at none.
    """
    for name in dict.fromkeys(option for spec in METHODS.values() for option in spec.options):
        methods = [method for method, spec in METHODS.items() if name in spec.options]
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
    if config.image_size is not None and config.dataset != "folder":
        raise UserError(f"--image-size is for folder, not for {config.dataset}.")
    if config.validation_images is not None and config.test_images is not None:
        raise UserError("--test-images is not for a run with --validation-images, tested on those.")


def resolve(config: TrainConfig) -> ResolvedConfig:
    """Fill in the defaults that depend on the method and the data set.

    Args:
        config: What the user said.

    Returns:
        The same with no default left open.

    Raises:
        UserError: A value is outside its range; the text names the option and the range. Or images
            in a folder cannot be read.
    """
    method, dataset = config.method, config.dataset
    data_dir = None if config.data_dir is None else Path(config.data_dir)
    images = fingerprint(dataset, data_dir)
    name = file_name(dataset, data_dir, images)
    out = Path("runs", f"{name}-{config.model}-{method}-{config.seed}")
    spec = METHODS[method]
    defaults = {
        "epochs": _EPOCHS.get(dataset, 200),
        "rho": spec.rho(dataset),
        **spec.schedule._asdict(),
        "curvature_every": _CURVATURE_EVERY.get(dataset, 1),
        "curvature_samples": _CURVATURE_SAMPLES.get(dataset, 512),
        "out": out,
        "images": images,
    }
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    filled: dict[str, Any] = defaults | {
        k: defaults.get(k) if v is None else v for k, v in given.items()
    }
    if config.model not in BATCH_NORM:
        filled["curvature_mode"] = "training"
    for name in ("out", "data_dir"):
        filled[name] = None if filled[name] is None else Path(filled[name])
    resolved = ResolvedConfig(**filled)
    try:
        str(resolved.out).encode()
    except UnicodeEncodeError:
        raise UserError(f"--out {resolved.out} is no name in UTF-8: name another.") from None
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
        "image_size": NONE_OR_ONE,
        "trace_probes": (lambda x: x == 0 or x >= 2, "0 or at least 2"),
        "seed": SEED,
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
        "alpha": ALPHA,
    }
    for name, rule in rules.items():
        check(name, getattr(config, name), rule)
