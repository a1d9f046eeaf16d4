"""What README and docs/cost.md say of a step's cost, computed from the measured rows."""

import json
from typing import Any

from experiments.speed.steps import (
    BASELINE,
    BETWEEN,
    CHOSEN_BETWEEN,
    CHOSEN_REFRESH,
    FAST_SGD,
    PARTS,
    QUARTER,
    REFRESH,
    memory_first,
)
from tests.readme import COST, RECIPES, RESULTS, ends, says


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


def mean_ratio(
    name: str,
    measured: dict[str, Any] = SPEED,
    refresh: str = REFRESH,
    between: str = BETWEEN,
) -> float:
    """Of a step of the paper's schedule to optax's SAM."""
    found = steps(name, measured)
    return (99 * found[between]["ratio"] + found[refresh]["ratio"]) / 100


IMAGES, TEXT = ("simple_cnn", "resnet18"), "transformer"


def test_time_of_a_step() -> None:
    assert COMPARED.keys() == {*IMAGES, TEXT}

    def free(*names: str) -> tuple[float, float]:
        return ends(steps(name)[step]["ratio"] for name in names for step in FREE)

    says("Hessian products, take # to # times the time of optax's SAM,", *free(*IMAGES))
    says("on the small transformer they take # to #.", *free(TEXT))
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
        (memory_mib(name)[BETWEEN] / memory_mib(name)[BASELINE], name) for name in COMPARED
    )
    (least, _), *_, (most, where) = reserved
    says("in each: # to # times that of optax's SAM, the most on ResNet-18.", least, most)
    assert where == "resnet18"
    says("it is # times with the products of a quarter", memory[QUARTER] / memory[BASELINE])
    times = {name: row["ratio"] for name, row in steps("resnet18").items()}
    says(
        "in four parts it is # times, and a refresh takes # times as long",
        memory[PARTS] / memory[BASELINE],
        times[PARTS] / times[REFRESH],
    )
    both = [memory_mib(TEXT)[name] for name in ("sam", BASELINE)]
    says("`sam` needs # MiB, optax's SAM #.", *both)
    says("optax's SAM # MiB on the transformer.", both[1], text=COST)
    says("which is a computation of its own: # MiB.", both[0], text=COST)
    for name in COMPARED:
        # Parameters, momentum and the batch.
        copy = steps(name)["sgd"]["compiled"]["argument_mib"] / 2
        memory = memory_mib(name)
        for step in FREE:
            assert memory[step] - memory[BASELINE] <= copy


def test_two_compiled_steps() -> None:
    without = {name: steps(name)[CHOSEN_BETWEEN]["compiled"] for name in COMPARED}
    memory = [
        compiled["temporary_mib"] / memory_mib(name)[BASELINE] for name, compiled in without.items()
    ]
    times = [
        compiled["compile_seconds"] / steps(name)["sam"]["compiled"]["compile_seconds"]
        for name, compiled in without.items()
    ]
    says(
        "the step without needs # to # times that of optax's SAM and # to # times `sam`'s",
        *ends(memory),
        *ends(times),
    )
    says(
        "the schedule takes the same time, #, # and #.",
        *(mean_ratio(name, SPEED, CHOSEN_REFRESH, CHOSEN_BETWEEN) for name in (*IMAGES, TEXT)),
    )


def test_memory_first() -> None:
    found = {name: (steps(name), memory_mib(name)) for name in (TEXT, "resnet18", "simple_cnn")}
    first = memory_first("sam")
    less = {name: memory[first] / memory["sam"] for name, (_, memory) in found.items()}
    times = [found[name][0][first]["ratio"] / found[name][0]["sam"]["ratio"] for name in IMAGES]
    says(
        "needs # times its memory on ResNet-18 and # on the six-layer CNN, and takes # and # times",
        *(less[name] for name in IMAGES[::-1]),
        *times[::-1],
        text=RECIPES,
    )
    schedule = [
        found[name][1][memory_first(BETWEEN)] / found[name][1][BETWEEN]
        for name in (*IMAGES[::-1], TEXT)
    ]
    says(
        "schedule needs # and # times its memory, and # on a transformer.", *schedule, text=RECIPES
    )
    refresh, between = memory_first(REFRESH), memory_first(BETWEEN)
    says("With it SAM needs # to # times its memory, and the", *ends(less.values()))
    says(
        "schedule # to # times that of optax's SAM compiled",
        *ends(memory[refresh] / memory[BASELINE] for _, memory in found.values()),
    )
    means = [mean_ratio(name, refresh=refresh, between=between) for name in found]
    says("in # to # times its time on average", *ends(means))


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
        "takes # to # of its time on the transformer, # to # on the six-layer CNN and # to #",
        *(end for name in (TEXT, *IMAGES) for end in ratios(name)),
        text=RECIPES,
    )


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
        "takes # s with `xsam(eigenvector=oja())` on these two cores, # s with `sam` and # s with",
        *(found[step]["seconds"] for step in ("xsam, oja", "sam", BASELINE)),
    )
    says(
        "in a single round; # GiB at the peak of a process that holds four compiled steps' results",
        SPEED["transformer_large"]["peak_resident_mib"] / 1024,
    )
    assert SPEED["transformer_large"]["rounds"] == 1
    assert len(found) == 4
