"""Numbers in the documents' sentences, computed from what they were measured into."""

import json
import math
import re
from statistics import mean
from typing import Any

import jax
import jax.numpy as jnp

import xsam_jax
from experiments.training.config import TrainConfig
from tests.documents.benchmarks import FORMS_OF_X_SAM
from tests.documents.text import (
    CURVATURE_PAGE,
    METHODS_PAGE,
    README,
    RECIPES,
    RESULTS,
    ROOT,
    ends,
    rows,
    runs,
    says,
)

WORDS = {5: "five", 10: "ten"}


def test_training_takes_seconds() -> None:
    run = json.loads((RESULTS / "train" / "result.json").read_text())
    default = TrainConfig()
    assert (run["dataset"], run["method"]) == (default.dataset, default.method)
    says(README, "handwritten digits (about # seconds on two cores,", round(run["seconds"], -1))


def test_safe_range_of_alpha() -> None:
    section = (ROOT / "docs" / "faults.md").read_text().split("## The safe range of alpha")[1]
    table = {
        float(alpha): [[float(accuracy) for accuracy in cell.split()] for cell in cells]
        for alpha, *cells in re.findall(r"^\| ([\d.]+) \| (.*) \| (.*) \|$", section, re.MULTILINE)
    }
    says(METHODS_PAGE, "up to # all runs trained", max(alpha for alpha in table if alpha < 1))
    assert all(min(map(min, table[alpha])) > 94 for alpha in table if alpha < 1)
    usual = mean(accuracy for alpha in table if alpha < 1 for accuracy in table[alpha][1])
    assert round(usual - min(table[1.0][1]), -1) == 10
    says(
        METHODS_PAGE,
        "at 1 Oja's rule lost up to ten points, at 1.2 all runs with Oja's rule failed, at 1.5",
    )
    assert max(*table[1.2][1], *map(max, table[1.5])) < 15


def test_trackers() -> None:
    trackers = {(row["setting"], row["tracker"]): row for row in rows("tracking/tracking.csv")}
    ours, printed = trackers["cnn", "subspace_4"], trackers["cnn", "p100"]
    says(
        METHODS_PAGE,
        "for # gradients a step instead of #;",
        float(ours["gradients_per_step"]),
        float(printed["gradients_per_step"]),
    )
    settings = ("cnn", "cnn_bn", "mlp")
    says(
        METHODS_PAGE,
        "lambda_1` is #, # and #, where Algorithm 2 with p = 100 has #, # and #,",
        *(
            float(trackers[setting, tracker]["quality"])
            for tracker in ("subspace_4", "p100")
            for setting in settings
        ),
    )
    assert {setting for setting, _ in trackers} == {*settings}
    (seeds,) = {int(row["seeds"]) for row in trackers.values()}
    says(METHODS_PAGE, f"on two CNNs and an MLP, {WORDS[seeds]} seeds each,")


def test_lambda_max() -> None:
    file = RESULTS / "curvature" / "cpu-resnet18-fashion_mnist-2048.json"
    found = json.loads(file.read_text())
    says(
        CURVATURE_PAGE,
        "on # images of Fashion-MNIST, at its initial parameters, is # with a residual of #: "
        "# minutes of CPU time on two cores, # s for a Hessian product and image",
        max(map(int, found["products"])),
        found["lambda_max"],
        found["residual"],
        found["cpu_seconds"] / 60,
        found["cpu_seconds_per_product_and_image"],
    )


def test_perturbation_in_bfloat16() -> None:
    def rounded(dtype: Any, in_loss: Any) -> tuple[float, float, float, float]:
        """Norm, angle to the gradient, share along it and share of coordinates that move."""
        keys = jax.random.split(jax.random.key(0))
        w, g = (jax.random.normal(key, (10**7,), jnp.float32) for key in keys)
        w, g = (0.03 * w).astype(dtype), g.astype(dtype)
        tx = xsam_jax.sam(rho=0.05)
        there, _ = tx.update(g, tx.init(w), w, grad_fn=lambda perturbed: perturbed)
        seen = lambda w: w.astype(in_loss).astype(jnp.float32)
        e, g = seen(there) - seen(w), g.astype(jnp.float32)
        degrees = float(xsam_jax.curvature.angle(g, e))
        share = norm(e) * math.cos(math.radians(degrees)) / 0.05
        return norm(e), degrees, share, float(jnp.mean(e != 0))

    norm = lambda x: float(jnp.linalg.norm(x))
    _, degrees, share, moved = rounded(jnp.bfloat16, jnp.bfloat16)
    says(RECIPES, "keep a share of #, at an angle of # degrees", share, degrees)
    assert moved < 0.5
    length, degrees, share, _ = rounded(jnp.float32, jnp.bfloat16)
    says(RECIPES, "that are cast keep a share of #:", share)
    says(RECIPES, "so that the norm is # and the angle # degrees", length, degrees)
    length, degrees, _, moved = rounded(jnp.float32, jnp.float32)
    assert (round(length, 3), round(degrees)) == (0.05, 0)
    assert moved > 0.99


def test_learning_rates() -> None:
    ratios: list[float] = []
    for name in ("digits", "digits_again", "fashion_small"):
        found = {(run["model"], run["method"]): run["learning_rate"] for run in runs(name)}
        ratios += [
            rate / found[model, "sam"]
            for (model, method), rate in found.items()
            if method in FORMS_OF_X_SAM
        ]
    says(
        METHODS_PAGE,
        "the best one was # to # times SAM's (at the upper end, on the small CNN, one",
        *ends(ratios),
    )
