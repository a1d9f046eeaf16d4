"""Numbers in README's sentences, each computed from the file that it was measured into."""

import csv
import json
import re
from statistics import mean
from typing import Any

import jax
import jax.numpy as jnp

import xsam_jax
from experiments.config import TrainConfig
from tests.readme import RECIPES, RESULTS, ROOT, ends, runs, says

WORDS = {5: "five", 10: "ten"}


def rows(file: str) -> list[dict[str, str]]:
    with (RESULTS / file).open() as lines:
        return list(csv.DictReader(lines))


def test_training_takes_seconds() -> None:
    run = json.loads((RESULTS / "train" / "result.json").read_text())
    default = TrainConfig()
    assert (run["dataset"], run["method"]) == (default.dataset, default.method)
    says("handwritten digits (about # seconds on two cores,", round(run["seconds"], -1))


def test_safe_range_of_alpha() -> None:
    section = (ROOT / "docs" / "faults.md").read_text().split("## The safe range of alpha")[1]
    table = {
        float(alpha): [[float(accuracy) for accuracy in cell.split()] for cell in cells]
        for alpha, *cells in re.findall(r"^\| ([\d.]+) \| (.*) \| (.*) \|$", section, re.MULTILINE)
    }
    says("up to # all runs trained", max(alpha for alpha in table if alpha < 1))
    assert all(min(map(min, table[alpha])) > 94 for alpha in table if alpha < 1)
    usual = mean(accuracy for alpha in table if alpha < 1 for accuracy in table[alpha][1])
    assert round(usual - min(table[1.0][1]), -1) == 10
    says("at 1 Oja's rule lost up to ten points, at 1.5 every run diverged")
    assert max(map(max, table[1.5])) < 15


def test_trackers() -> None:
    trackers = {(row["setting"], row["tracker"]): row for row in rows("tracking/tracking.csv")}
    ours, paper = trackers["cnn", "subspace_4"], trackers["cnn", "paper"]
    says(
        "for # gradients a step instead of #",
        float(ours["gradients_per_step"]),
        float(paper["gradients_per_step"]),
    )
    assert {setting for setting, _ in trackers} == {"cnn", "cnn_bn", "mlp"}
    (seeds,) = {int(row["seeds"]) for row in trackers.values()}
    says(f"on two CNNs and an MLP, {WORDS[seeds]} seeds each,")


def test_table_of_the_trackers() -> None:
    measured: dict[str, list[dict[str, str]]] = {}
    for row in rows("tracking/tracking.csv"):
        measured.setdefault(row["tracker"], []).append(row)
    lines = {
        " | ".join(
            [
                *(
                    f"{float(r['quality']):.2f} ± {float(r['quality_deviation']):.2f}"
                    for r in settings
                ),
                f"{mean(float(r['quality']) for r in settings):.2f}",
            ]
        )
        for settings in measured.values()
    }
    text = (RESULTS / "tracking" / "README.md").read_text()
    quoted = re.findall(r"^\|[^|]*\|[^|]*\| (.*±.*) \|$", text, re.MULTILINE)
    assert len(quoted) >= 20
    assert set(quoted) <= lines


def test_lambda_max() -> None:
    file = RESULTS / "curvature" / "cpu-resnet18-fashion_mnist-2048.json"
    found = json.loads(file.read_text())
    says("on # images of Fashion-MNIST, at its initial", max(map(int, found["products"])))
    says("# s for a Hessian product and image", found["cpu_seconds_per_product_and_image"])


def test_angles() -> None:
    angles = rows("figures/angle.csv")
    # An eigenvector has no sign, so the file's angles are folded to [0, 90].
    shares = [
        100 * sum(float(row[kind]) >= 80 for row in angles) / len(angles)
        for kind in ("plain", "layerwise")
    ]
    says("of # angles #% of the plain and #% of the layerwise lay", len(angles), *shares)


def by_method(file: str, value: str, *keys: str, **chosen: str) -> dict[Any, float]:
    """Means over the seeds of the rows of a figure."""
    found: dict[Any, list[float]] = {}
    for row in rows(f"figures/{file}.csv"):
        if all(row[name] == wanted for name, wanted in chosen.items()):
            found.setdefault(tuple(row[key] for key in ("method", *keys)), []).append(
                float(row[value])
            )
    assert {len(values) for values in found.values()} == {3}
    return {key if keys else key[0]: mean(values) for key, values in found.items()}


def test_figures_2_and_3() -> None:
    accuracy, sharpness = (
        by_method("curves", value, epoch="10") for value in ("test_accuracy", "lambda_max")
    )
    says("after ten epochs every method has # to #%", *ends(accuracy.values()))
    forms = [value for method, value in sharpness.items() if method.startswith("xsam")]
    assert len(forms) == 3
    says(
        "ends at #, SAM's at #, normalised SAM's at #, X-SAM's in its three forms at # to #,",
        *(sharpness[method] for method in ("sgd", "sam", "normalized_sam")),
        *ends(forms),
    )
    for method, value in by_method("spectrum", "eigenvalue", index="1").items():
        assert abs(value / sharpness[method] - 1) < 0.01


def test_figure_4() -> None:
    accuracy = by_method("alpha", "test_accuracy", "alpha")
    printed, projector = (
        [accuracy[method, alpha] for alpha in ("0", "0.1", "0.2", "0.4", "0.8")]
        for method in ("xsam", "xsam_projector")
    )
    assert printed == sorted(printed, reverse=True)
    says("X-SAM as printed falls from # to #% after five epochs", printed[0], printed[-1])
    says("the projector stays at # to #%", *ends(projector))


def test_perturbation_in_bfloat16() -> None:
    def rounded(dtype: Any) -> tuple[float, float, float]:
        keys = jax.random.split(jax.random.key(0))
        w, g = (jax.random.normal(key, (10**7,), jnp.float32) for key in keys)
        w, g = (0.03 * w).astype(dtype), g.astype(dtype)
        tx = xsam_jax.sam(rho=0.05)
        there, _ = tx.update(g, tx.init(w), w, grad_fn=lambda perturbed: perturbed)
        e, g = there.astype(jnp.float32) - w.astype(jnp.float32), g.astype(jnp.float32)
        return norm(e), float(xsam_jax.curvature.angle(g, e)), float(jnp.mean(e != 0))

    norm = lambda x: float(jnp.linalg.norm(x))
    length, degrees, moved = rounded(jnp.bfloat16)
    says("rounding leaves #, at an angle of # degrees", length, degrees, text=RECIPES)
    assert moved < 0.5
    length, degrees, moved = rounded(jnp.float32)
    assert (round(length, 3), round(degrees)) == (0.05, 0)
    assert moved > 0.99


def test_learning_rates() -> None:
    ratios: dict[str, list[float]] = {}
    for name in ("digits", "digits_again", "fashion_small"):
        found = {(run["model"], run["method"]): run["learning_rate"] for run in runs(name)}
        for model in {model for model, _ in found}:
            ratios.setdefault(model, []).append(found[model, "xsam"] / found[model, "sam"])
    assert ratios["resnet8"] == [1]
    says(
        "the best one was # to # times SAM's for an MLP and a small CNN, and the same for ResNet-8",
        *ends([*ratios["mlp"], *ratios["small_cnn"]]),
    )
