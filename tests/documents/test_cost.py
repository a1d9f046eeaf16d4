"""What is said of a step's time, computed from the measured rows."""

import json

from experiments.speed.steps import BASELINE, BETWEEN, FAST_SGD, REFRESH
from tests.documents.speed import COMPARED, FREE, GPU, IMAGES, SPEED, TEXT, mean_ratio, steps
from tests.documents.text import COST, README, RECIPES, RESULTS, ends, says


def test_time_of_a_step() -> None:
    assert COMPARED.keys() == {*IMAGES, TEXT}

    def free(*names: str) -> tuple[float, float]:
        return ends(steps(name)[step]["ratio"] for name in names for step in FREE)

    says(COST, "Hessian products, take # to # times the time of optax's SAM,", *free(*IMAGES))
    says(COST, "on the small transformer they take # to #.", *free(TEXT))
    says(README, "Hessian products take # to # times the time of optax's SAM", *free(*IMAGES))
    says(README, "and # to # on a transformer, in", *free(TEXT))
    says(README, "nothing beside it, # rounds", SPEED["resnet18"]["rounds"])
    means = {name: mean_ratio(name) for name in COMPARED}
    says(
        COST,
        "schedule takes # and # times as long on average on the two image networks and # on",
        *(means[name] for name in (*IMAGES, TEXT)),
    )
    says(README, "The paper's schedule takes # to # on average", *ends(means.values()))
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


def test_convolutions_on_cpu() -> None:
    ratios = []
    for name in IMAGES:
        found = steps(name)
        ratios.append(found[FAST_SGD]["ratio"] / found["sgd"]["ratio"])
    says(RECIPES, "takes # of its time on the six-layer CNN and # on ResNet-18", *ratios)


def test_time_on_a_gpu() -> None:
    def ratios(step: str) -> list[float]:
        found = [steps(name, GPU).get(step) for name in GPU]
        return [row["ratio"] for row in found if row]

    networks = ("simple_cnn", "resnet18", "transformer_large")
    assert GPU.keys() == set(networks)
    milliseconds = [1e3 * steps(name, GPU)[BASELINE]["seconds"] for name in networks]
    says(COST, "steps of # ms (CNN), # ms (ResNet-18) and # ms (the large", *milliseconds)
    sam, oja, subspace = map(ratios, FREE)
    between, whole = ratios(BETWEEN), [mean_ratio(name, GPU) for name in networks[:2]]
    says(COST, "show what is not arithmetic: `sam` takes # to # times", *ends(sam))
    says(COST, "X-SAM with `oja()` # to #, but on", *ends(oja))
    says(
        COST, "`subspace()` # to # and the paper's schedule # to #.", *ends(subspace), *ends(whole)
    )
    says(
        README,
        "On a GPU, `sam` takes # to #, `oja()` # to #, `subspace()` # to # and the paper's "
        "schedule # to #.",
        *ends(sam),
        *ends(oja),
        *ends(subspace),
        *ends(whole),
    )
    over = [[ratio - 1 for ratio in found] for found in (oja, subspace, between)]
    says(COST, "# to # of SAM's step for Oja's rule, # to # for", *ends(over[0]), *ends(over[1]))
    says(COST, "refreshes takes # to # longer than SAM's:", *ends(over[2]))
    peak = GPU["transformer_large"]["peak_device_mib"] / 1024
    says(COST, "took # GiB of the GPU at its peak", peak)
    cnn = steps("simple_cnn", GPU)
    says(
        COST,
        "loses # where X-SAM loses #;",
        cnn["eigen_sam, between"]["ratio"] - 1,
        cnn[BETWEEN]["ratio"] - 1,
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
        "in a single round; # GiB at the peak of a process that holds four compiled steps' results",
        SPEED["transformer_large"]["peak_resident_mib"] / 1024,
    )
    assert SPEED["transformer_large"]["rounds"] == 1
    assert len(found) == 4
