"""Defaults that depend on the method and the data set, ranges, and names."""

from pathlib import Path
from typing import Any, get_args

import jax
import pytest
from flax import nnx

from experiments.common.errors import UserError
from experiments.models import BATCH_NORM, ModelName, build_model
from experiments.training.config import Method, TrainConfig
from experiments.training.resolve import refuse_ignored, resolve


def test_paper_settings() -> None:
    config = resolve(TrainConfig(dataset="fashion_mnist"))
    assert (config.learning_rate, config.momentum, config.weight_decay) == (0.1, 0.9, 5e-5)
    assert (config.batch_size, config.epochs, config.rho, config.alpha) == (256, 200, 0.05, 0.2)


def test_schedules_of_the_eigenvector() -> None:
    def schedule(method: Method, model: ModelName = "resnet8") -> tuple[int, int, bool, str]:
        c = resolve(TrainConfig(method=method, model=model))
        return c.refresh_every, c.power_iters, c.warm_start, c.curvature_mode

    # Those of the authors' codes, and Algorithm 2's with Eigen-SAM's p.
    assert schedule("xsam") == schedule("xsam_projector") == (5, 5, True, "evaluation")
    assert schedule("eigen_sam") == (100, 5, True, "evaluation")
    assert schedule("xsam_p100") == schedule("xsam_part") == (100, 5, False, "training")
    assert schedule("xsam_random")[0] == 5
    assert schedule("xsam_lanczos")[::3] == (10, "evaluation")
    assert schedule("xsam", "mlp")[3] == "training", "it has one mode"


@pytest.mark.parametrize("model", get_args(ModelName))
def test_networks_with_two_modes(model: ModelName) -> None:
    network = nnx.eval_shape(lambda: build_model(model, (8, 8, 1), 10, jax.random.key(0)))
    assert bool(jax.tree.leaves(nnx.state(network, nnx.BatchStat))) == (model in BATCH_NORM)


def test_defaults_that_depend() -> None:
    assert resolve(TrainConfig(method="wsam", dataset="fashion_mnist")).rho == 2
    assert resolve(TrainConfig(method="wsam", dataset="digits")).rho == 0.05
    assert resolve(TrainConfig(method="asam")).rho == 0.5
    assert resolve(TrainConfig()).epochs == 24
    outs = {str(resolve(TrainConfig(method=method)).out) for method in get_args(Method)}
    assert len(outs) == len(get_args(Method))


def test_a_folder_may_be_a_string() -> None:
    config = resolve(TrainConfig(dataset="cifar10", out="runs/x", data_dir="data"))
    assert (config.out, config.data_dir) == (Path("runs/x"), Path("data"))
    same = TrainConfig(dataset="cifar10", out=Path("runs/x"), data_dir=Path("data"))
    assert resolve(same) == config


def test_what_is_given_wins() -> None:
    config = resolve(TrainConfig(method="wsam", rho=0.0, epochs=1, curvature_every=0))
    assert (config.rho, config.epochs, config.curvature_every) == (0.0, 1, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("seed", -1),
        ("learning_rate", 0.0),
        ("label_noise", 1.0),
        ("momentum", 1.0),
        ("weight_decay", -1e-3),
        ("batch_size", 0),
        ("rho", -1.0),
        ("rho", float("nan")),
        ("alpha", 3.0),
        ("gsam_alpha", float("inf")),
        ("wsam_gamma", 1.0),
        ("fsam_sigma", -1.0),
        ("fsam_decay", 1.5),
        ("refresh_every", 0),
        ("power_iters", 0),
        ("oja_rate", 0.0),
        ("curvature_every", -1),
        ("curvature_samples", 0),
        ("num_matvecs", 0),
    ],
)
def test_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^--{field.replace('_', '-')} must be .*, not "):
        resolve(TrainConfig(**{field: value}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "normalized_sgd", "rho": 0.3}, "--rho is for sam, .*, not for normalized_sgd"),
        ({"method": "sgd", "alpha": 0.3}, "--alpha is for xsam, .*, not for sgd"),
        ({"method": "normalized_sam", "alpha": 0.0}, "--alpha .* not for normalized_sam"),
        (
            {"method": "xsam_oja", "power_iters": 9},
            "--power-iters is for xsam, .* not for xsam_oja",
        ),
        ({"method": "sam", "warm_start": True}, "--warm-start .* not for sam"),
        (
            {"method": "xsam_oja", "curvature_mode": "training"},
            "--curvature-mode is for xsam, .* not for xsam_oja",
        ),
        (
            {"model": "mlp", "curvature_mode": "evaluation"},
            "--curvature-mode is for a network with BatchNorm, not for mlp",
        ),
        ({"validation_images": 9, "test_images": 9}, "--test-images .* --validation-images"),
    ],
)
def test_what_would_be_ignored(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        refuse_ignored(TrainConfig(**options))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sgd", {"learning_rate": 0.2, "momentum": 0.5}),
        ("sam", {"rho": 0.3}),
        ("gsam", {"rho": 0.3, "gsam_alpha": 0.1}),
        ("wsam", {"wsam_gamma": 0.5}),
        ("eigen_sam", {"alpha": 0.3, "warm_start": False, "power_iters": 9}),
        ("friendly_sam", {"fsam_sigma": 0.5, "fsam_decay": 0.5}),
        ("xsam", {"alpha": 0.3, "refresh_every": 7, "power_iters": 9, "warm_start": False}),
        ("xsam", {"model": "resnet8", "curvature_mode": "training"}),
        ("xsam_lanczos", {"model": "resnet8", "curvature_mode": "training"}),
        ("xsam_oja", {"alpha": 0.3, "oja_rate": 0.5}),
        ("xsam_lanczos", {"alpha": 0.3, "refresh_every": 7}),
        ("normalized_sam", {"rho": 0.3}),
        ("xsam_late", {"late_start": 0.5, "oja_rate": 0.5}),
        ("xsam_sparse", {"sparse_every": 2}),
        ("xsam_part", {"ascent_part": 0.5, "power_iters": 9}),
    ],
)
def test_only_what_is_ignored(method: Method, options: dict[str, Any]) -> None:
    refuse_ignored(TrainConfig(method=method, **options))
