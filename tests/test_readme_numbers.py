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
from experiments.speed.steps import BASELINE, BETWEEN, FAST_SGD, PARTS, QUARTER, REFRESH
from tests.readme import COST, RECIPES, RESULTS, ROOT, ends, says

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
    says("Fig. 1, # measurements, #% of the plain and #% of the layerwise", len(angles), *shares)


def test_figures_2_to_4() -> None:
    says("one or two seeds")
    for file in ("curves", "alpha", "angle", "spectrum"):
        assert len({row["seed"] for row in rows(f"figures/{file}.csv")}) in (1, 2)
    says("in Fig. 2 and 3 X-SAM's largest eigenvalue ends above SAM's")
    last = {
        (row["method"], row["seed"]): float(row["lambda_max"]) for row in rows("figures/curves.csv")
    }
    top = {
        row["method"]: float(row["eigenvalue"])
        for row in rows("figures/spectrum.csv")
        if row["index"] == "1"
    }
    assert top["xsam"] > top["sam"]
    assert all(last["xsam", seed] > last["sam", seed] for seed in ("0", "1"))
    says("in Fig. 4 alphas differ by less than the seeds of one alpha")
    accuracies: dict[tuple[str, str], list[float]] = {}
    for row in rows("figures/alpha.csv"):
        if row["alpha"]:
            key = row["method"], row["alpha"]
            accuracies.setdefault(key, []).append(float(row["test_accuracy"]))
    means = [mean(found) for found in accuracies.values()]
    assert max(means) - min(means) < max(max(found) - min(found) for found in accuracies.values())


def speed(platform: str) -> dict[str, Any]:
    """What was measured there, by network."""
    return {
        file.stem.split("-")[1]: json.loads(file.read_text())
        for file in (RESULTS / "speed").glob(f"{platform}-*.json")
    }


SPEED, GPU = speed("cpu"), speed("gpu")
# With one round there are no quartiles: its table says how large a step can be, not how fast.
COMPARED = {name: record for name, record in SPEED.items() if record["rounds"] > 1}
FREE = ("sam", "xsam, oja", "xsam, subspace")


def steps(name: str, measured: dict[str, Any] = SPEED) -> dict[str, Any]:
    return {row["name"]: row for row in measured[name]["rows"]}


def memory_mib(name: str) -> dict[str, float]:
    rows = steps(name).items()
    return {step: row["compiled"]["temporary_mib"] for step, row in rows if row["compiled"]}


def mean_ratio(name: str, measured: dict[str, Any] = SPEED) -> float:
    """Of a step of the paper's schedule to optax's SAM."""
    found = steps(name, measured)
    return (99 * found[BETWEEN]["ratio"] + found[REFRESH]["ratio"]) / 100


IMAGES, TEXT = ("simple_cnn", "resnet18"), "transformer"


def test_time_of_a_step() -> None:
    assert COMPARED.keys() == {*IMAGES, TEXT}

    def free(*names: str) -> tuple[float, float]:
        return ends(steps(name)[step]["ratio"] for name in names for step in FREE)

    says("Hessian products, take # to # times the time of optax's SAM,", *free(*IMAGES))
    says("on the transformer they take # to #.", *free(TEXT))
    says("nothing beside it, # rounds", SPEED["resnet18"]["rounds"])
    means = {name: mean_ratio(name) for name in COMPARED}
    says(
        "schedule takes # and # times as long on average on the two image networks and # on",
        *(means[name] for name in (*IMAGES, TEXT)),
    )
    between = {name: steps(name)[BETWEEN]["ratio"] for name in COMPARED}
    says("# to # for its refreshes", *ends(means[name] - between[name] for name in COMPARED))
    says("# to # for a step between two", *ends(between.values()))


def test_operations_of_a_product() -> None:
    """Of the transformer: the image networks' counts leave out what a loop repeats."""
    found = steps("transformer")
    operations = {name: row["compiled"]["gigaflops"] for name, row in found.items()}
    gradients = (operations[REFRESH] - operations[BASELINE]) / operations["sgd"]
    says("a product is # gradients,", gradients, text=COST)
    says(
        "in 100 steps are # of SAM's steps, and took #.",
        5 * gradients / 2 / 100,
        (found[REFRESH]["ratio"] - found[BETWEEN]["ratio"]) / 100,
        text=COST,
    )


def test_convolutions_on_cpu() -> None:
    ratios = []
    for name in IMAGES:
        found = steps(name)
        ratios.append(found[FAST_SGD]["ratio"] / found["sgd"]["ratio"])
    says("takes # of its time on the six-layer CNN and # on ResNet-18", *ratios, text=RECIPES)


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
        lines = map(json.loads, (RESULTS / name / "results.jsonl").read_text().splitlines())
        found = {
            (config["model"], config["method"]): config["learning_rate"]
            for line in lines
            if line["stage"] == "final"
            for config in [line["config"]]
        }
        for model in {model for model, _ in found}:
            ratios.setdefault(model, []).append(found[model, "xsam"] / found[model, "sam"])
    assert ratios["resnet8"] == [1]
    says(
        "the best one was # to # times SAM's for an MLP and a small CNN, and the same for ResNet-8",
        *ends([*ratios["mlp"], *ratios["small_cnn"]]),
    )


def test_time_on_a_gpu() -> None:
    def ratios(step: str) -> list[float]:
        found = [steps(name, GPU).get(step) for name in GPU]
        return [row["ratio"] for row in found if row]

    networks = ("simple_cnn", "resnet18", "transformer_large")
    assert GPU.keys() == set(networks)
    milliseconds = [1e3 * steps(name, GPU)[BASELINE]["seconds"] for name in networks]
    says("steps of # ms (CNN), # ms (ResNet-18) and # ms (the large", *milliseconds)
    sam, oja, subspace = map(ratios, FREE)
    between, whole = ratios(BETWEEN), [mean_ratio(name, GPU) for name in networks[:2]]
    says("show what is not arithmetic: `sam` takes # to # times", *ends(sam))
    says("X-SAM with `oja()` # to #, but on", *ends(oja))
    says("`subspace()` # to # and the paper's schedule # to #.", *ends(subspace), *ends(whole))
    over = [[ratio - 1 for ratio in found] for found in (oja, subspace, between)]
    says(
        "# to # of SAM's step for Oja's rule, # to # for", *ends(over[0]), *ends(over[1]), text=COST
    )
    says("refreshes takes # to # longer than SAM's:", *ends(over[2]), text=COST)
    peak = GPU["transformer_large"]["peak_device_mib"] / 1024
    says("took # GiB of the GPU at its peak", peak, text=COST)
    cnn = steps("simple_cnn", GPU)
    says(
        "loses # where X-SAM loses #;",
        cnn["eigen_sam, between"]["ratio"] - 1,
        cnn[BETWEEN]["ratio"] - 1,
        text=COST,
    )


def test_memory_of_a_step() -> None:
    memory = memory_mib("resnet18")
    reserved = sorted(
        (memory_mib(name)[BETWEEN] / memory_mib(name)["sam"], name) for name in COMPARED
    )
    (least, _), *_, (most, where) = reserved
    says("in each: # to # times SAM's, the most on ResNet-18", least, most)
    assert where == "resnet18"
    says("it is # times with the products of a quarter", memory[QUARTER] / memory["sam"])
    times = {name: row["ratio"] for name, row in steps("resnet18").items()}
    says(
        "in four parts it is # times, and a refresh takes # times as long",
        memory[PARTS] / memory["sam"],
        times[PARTS] / times[REFRESH],
    )
    for name in COMPARED:
        # Parameters, momentum and the batch.
        copy = steps(name)["sgd"]["compiled"]["argument_mib"] / 2
        memory = memory_mib(name)
        for step in FREE:
            assert memory[step] - memory[BASELINE] <= copy


def test_compilation() -> None:
    def range_of(*names: str) -> tuple[float, float]:
        found = [
            row["compiled"]["compile_seconds"] / steps(name)["sam"]["compiled"]["compile_seconds"]
            for name in SPEED
            for step, row in steps(name).items()
            if step in names
        ]
        return ends(found)

    says(
        "# to # times `sam`'s with `oja()`, # to # with `subspace()` and # to # with the paper's",
        *range_of("xsam, oja"),
        *range_of("xsam, subspace"),
        *range_of(REFRESH, BETWEEN),
    )
    own = {
        name: steps(name)["sam"]["compiled"]["compile_seconds"]
        / steps(name)[BASELINE]["compiled"]["compile_seconds"]
        for name in SPEED
    }
    says("`sam`'s own takes up to # times that of optax's", max(own.values()))
    assert max(own, key=lambda name: own[name]) in IMAGES


def test_large_transformer() -> None:
    found = steps("transformer_large")
    says(
        "takes # s with `xsam(eigenvector=oja())` on these two cores, SAM's # s, in # GiB",
        found["xsam, oja"]["seconds"],
        found["sam"]["seconds"],
        SPEED["transformer_large"]["peak_resident_mib"] / 1024,
    )
    says("a process that holds four compiled steps' results")
    assert len(found) == 4
