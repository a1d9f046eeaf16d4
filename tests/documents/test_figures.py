"""What is said of the paper's figures, computed from the files beside the pictures."""

from statistics import mean, median
from typing import Any

from tests.documents.text import BENCHMARKS, ends, rows, says, words

FIGURES = words("results/figures/README.md")


def test_angles() -> None:
    angles = rows("figures/angle.csv")
    # An eigenvector has no sign, so the file's angles are folded to [0, 90].
    shares = [
        100 * sum(float(row[kind]) >= 80 for row in angles) / len(angles)
        for kind in ("plain", "layerwise")
    ]
    says(
        BENCHMARKS, "of # angles #% of the plain and #% of the layerwise lay", len(angles), *shares
    )


def test_what_a_step_does_to_the_eigenvalue() -> None:
    changes = [(float(row["plain"]), float(row["change"])) for row in rows("figures/angle.csv")]
    between = [change for angle, change in changes if 50 <= angle < 80]
    orthogonal = [change for angle, change in changes if angle >= 80]
    raised = sum(change > 0 for change in between)
    for text in (BENCHMARKS, FIGURES):
        sentence = "# steps at 50 to 80 degrees # raised it and # lowered it"
        says(text, sentence, len(between), raised, len(between) - raised)
    lowest, highest = (100 * change for change in ends(orthogonal))
    says(BENCHMARKS, "the # from 80 degrees on changed it by -#", len(orthogonal), -lowest)
    says(BENCHMARKS, f"changed it by -{-lowest:.0f} to +#%", highest)
    says(FIGURES, "with a median of -# %.", -100 * median(between))
    says(FIGURES, "The # steps from 80 degrees on changed it by", len(orthogonal))
    says(
        FIGURES,
        f"by -{-lowest:.0f} to +# %, in the median by # % up or down, not much less than the others"
        " (# %)",
        highest,
        *(100 * median(map(abs, group)) for group in (orthogonal, between)),
    )


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
    says(BENCHMARKS, "after ten epochs every method has # to #%", *ends(accuracy.values()))
    forms = [value for method, value in sharpness.items() if method.startswith("xsam")]
    assert len(forms) == 3
    last = [row for row in rows("figures/curves.csv") if row["epoch"] == "10"]
    of_seed = {(row["method"], row["seed"]): float(row["lambda_max"]) for row in last}
    says(
        BENCHMARKS,
        "ends at # (one seed at #, two at # and #), SAM's at",
        sharpness["sgd"],
        *(of_seed["sgd", seed] for seed in "021"),
    )
    assert min(forms) > sharpness["sam"]
    says(
        BENCHMARKS,
        "SAM's at #, normalised SAM's at #, X-SAM's in its three forms at # to #,",
        *(sharpness[method] for method in ("sam", "normalized_sam")),
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
    says(
        BENCHMARKS, "X-SAM by Eq. 11 falls from # to #% after five epochs", printed[0], printed[-1]
    )
    says(BENCHMARKS, "the projector stays at # to #%", *ends(projector))
    (sam,) = (value for (method, _), value in accuracy.items() if method == "sam")
    says(BENCHMARKS, "SAM has #%, at a learning rate", sam)
    assert sam > max(*printed, *projector)
