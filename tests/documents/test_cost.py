"""What is said of a step's time, computed from the measured rows."""

import json
from collections.abc import Callable

from experiments.speed.steps import BASELINE, BETWEEN, CHOSEN_BETWEEN, FAST_SGD, REFRESH
from tests.documents.speed import (
    COMPARED,
    FREE,
    GPU,
    IMAGES,
    SPEED,
    TEXT,
    mean_ratio,
    memory_mib,
    steps,
)
from tests.documents.text import CHANGELOG, COST, RECIPES, RESULTS, ends, says
from xsam_jax import channels_last


def test_time_of_a_step() -> None:
    def free(*names: str) -> tuple[float, float]:
        return ends(steps(name)[step]["ratio"] for name in names for step in FREE)

    says(COST, "Hessian products, take # to # times the time of optax's SAM,", *free(*IMAGES))
    says(COST, "on the small transformer they take # to #.", *free(TEXT))
    means = {name: mean_ratio(name) for name in COMPARED}
    says(
        COST,
        "p = 100 takes # and # times as long on average on the two image networks and # on",
        *(means[name] for name in (*IMAGES, TEXT)),
    )
    authors = [mean_ratio(name, period=5) for name in (*IMAGES, TEXT)]
    says(COST, "p = 5, takes # and # times as long on average on the two image", *authors[:2])
    says(
        COST,
        "networks and # on the transformer; with p = 3 it is #, # and #.",
        authors[2],
        *(mean_ratio(name, period=3) for name in (*IMAGES, TEXT)),
    )
    between = {name: steps(name)[BETWEEN]["ratio"] for name in COMPARED}
    says(COST, "# to # for its refreshes", *ends(means[name] - between[name] for name in COMPARED))
    says(COST, "# to # for a step between two", *ends(between.values()))


def test_operations_of_a_product() -> None:
    """Of the transformer: the image networks' counts leave out what a loop repeats."""
    found = steps("transformer")
    operations = {name: row["compiled"]["gigaflops"] for name, row in found.items()}
    gradients = (operations[REFRESH] - operations[BASELINE]) / operations["sgd"]
    says(COST, "a product is # gradients,", gradients)
    says(
        COST,
        "in 100 steps are # of SAM's steps, and took #.",
        5 * gradients / 2 / 100,
        (found[REFRESH]["ratio"] - found[BETWEEN]["ratio"]) / 100,
    )


def test_channels_last_on_a_cpu() -> None:
    def ratios(of: Callable[[str], dict[str, float]]) -> list[float]:
        return [of(name)[FAST_SGD] / of(name)["sgd"] for name in IMAGES]

    times = ratios(lambda name: {step: row["ratio"] for step, row in steps(name).items()})
    memory = ratios(memory_mib)
    sentence = (
        "takes # of its time on the six-layer CNN and # on ResNet-18, and # and # of its memory"
    )
    says(RECIPES, sentence, *times, *memory)
    says(CHANGELOG, sentence, *times, *memory)
    says(COST, "of SGD's memory # and # are left on the two image networks", *memory)
    docstring = " ".join(str(channels_last.__doc__).split())
    (cnn, resnet), (small, large) = times, memory
    says(
        docstring,
        "# of its time and # of its memory on a six-layer CNN, # and # on ResNet-18",
        *(cnn, small, resnet, large),
    )


def test_time_on_a_gpu() -> None:
    def ratios(step: str) -> tuple[float, float]:
        found = [steps(name, GPU).get(step) for name in GPU]
        return ends(row["ratio"] for row in found if row)

    networks = (*IMAGES, TEXT)
    large = "transformer_large"
    assert GPU.keys() == {*networks, large}
    says(
        COST,
        "steps of # ms (CNN), # ms (ResNet-18), # ms (the small transformer) and # ms (the large",
        *(1e3 * steps(name, GPU)[BASELINE]["seconds"] for name in (*networks, large)),
    )
    sam, oja, subspace = map(ratios, FREE)
    whole = ends(mean_ratio(name, GPU) for name in networks)
    authors = ends(mean_ratio(name, GPU, period=5) for name in networks)
    two = ends(mean_ratio(name, GPU, REFRESH, CHOSEN_BETWEEN) for name in networks)
    says(
        COST,
        "what is not arithmetic: `sam` takes # to # times the time of optax's SAM, X-SAM with "
        "`oja()` # to # and with `subspace()` # to #, p = 5 # to # and p = 100 # to #, or # to #",
        *(*sam, *oja, *subspace, *authors, *whole, *two),
    )
    over = [end - 1 for end in (*oja, *subspace)]
    sentence = "is # to # of the step of optax's SAM for Oja's rule and # to # for `subspace()`"
    says(COST, sentence, *over)
    says(
        COST,
        "refreshes takes # to # times the time of optax's SAM:",
        *ratios(BETWEEN),
    )
    says(
        COST,
        "has no branch and takes # to # times it,",
        *ratios(CHOSEN_BETWEEN),
    )
    says(
        COST,
        "two compiled steps: # to # on average with its refreshes, and # to # as one step",
        *(*two, *whole),
    )
    says(COST, "took # GiB of the GPU at its peak", GPU[large]["peak_device_mib"] / 1024)


def test_kernels_on_a_gpu() -> None:
    steps = json.loads((RESULTS / "kernels" / "simple_cnn-256.json").read_text())["steps"]
    more = steps["xsam, oja"]["kernels"] - steps[BASELINE]["kernels"]
    says(CHANGELOG, "Oja's rule has # kernels more than optax's SAM on the six-layer CNN,", more)


def test_planned_for_a_tpu() -> None:
    records = [json.loads(file.read_text()) for file in (RESULTS / "planned").glob("*.json")]
    (libtpu,) = {record["versions"]["libtpu"] for record in records}
    assert f"libtpu {libtpu.rpartition('.')[0]})" in COST

    def ratios(step: str, field: str) -> tuple[float, float]:
        plans = [record["steps"] for record in records]
        return ends(plan[step][field] / plan[BASELINE][field] for plan in plans)

    memory, moved = "temporary_mib", "gigabytes"
    says(
        COST,
        "step has # to # times the memory of optax's SAM and # to # times its bytes, with "
        "`subspace()` # to # and # to #. Power iteration reserves # to # times the memory in "
        "every step, or # to # times in those without",
        *ratios("xsam, oja", memory),
        *ratios("xsam, oja", moved),
        *ratios("xsam, subspace", memory),
        *ratios("xsam, subspace", moved),
        *ratios(REFRESH, memory),
        *ratios(CHOSEN_BETWEEN, memory),
    )


def test_buffers_that_the_allocator_keeps() -> None:
    def seconds(folder: str, name: str) -> float:
        (file,) = (RESULTS / "allocator" / folder).glob(f"cpu-{name}-*.json")
        (found,) = (
            r["seconds"] for r in json.loads(file.read_text())["rows"] if r["name"] == "sam"
        )
        return float(found)

    def ratios(name: str) -> tuple[float, float]:
        return ends(seconds(f"kept{i}", name) / seconds(f"plain{i}", name) for i in (1, 2, 3))

    says(
        RECIPES,
        "takes # to # of its time on the transformer, # to # on the six-layer CNN and # to #",
        *(end for name in (TEXT, *IMAGES) for end in ratios(name)),
    )


def test_large_transformer() -> None:
    found = steps("transformer_large")
    says(
        COST,
        "takes # s with `xsam(eigenvector=oja())` on these two cores, # s with `sam` and # s with",
        *(found[step]["seconds"] for step in ("xsam, oja", "sam", BASELINE)),
    )
    says(
        COST,
        "in three rounds; # GiB at the peak of a process that holds four compiled steps' results",
        SPEED["transformer_large"]["peak_resident_mib"] / 1024,
    )
    assert SPEED["transformer_large"]["rounds"] == 3
    assert len(found) == 4
