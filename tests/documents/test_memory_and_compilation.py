"""What is said of a step's memory and compilation, computed from the measured rows."""

from experiments.speed.steps import (
    BASELINE,
    BETWEEN,
    CHOSEN_BETWEEN,
    CHOSEN_REFRESH,
    PARTS,
    QUARTER,
    REFRESH,
    memory_first,
)
from tests.documents.speed import COMPARED, FREE, IMAGES, SPEED, TEXT, mean_ratio, memory_mib, steps
from tests.documents.text import COST, RECIPES, ends, says


def test_memory_of_a_step() -> None:
    memory = memory_mib("resnet18")
    reserved = sorted(
        (memory_mib(name)[BETWEEN] / memory_mib(name)[BASELINE], name) for name in COMPARED
    )
    (least, _), *_, (most, where) = reserved
    says(COST, "in each: # to # times that of optax's SAM, the most on ResNet-18.", least, most)
    assert where == "resnet18"
    says(COST, "it is # times with the products of a quarter", memory[QUARTER] / memory[BASELINE])
    times = {name: row["ratio"] for name, row in steps("resnet18").items()}
    says(
        COST,
        "in four parts it is # times, and a refresh takes # times as long",
        memory[PARTS] / memory[BASELINE],
        times[PARTS] / times[REFRESH],
    )
    both = [memory_mib(TEXT)[name] for name in ("sam", BASELINE)]
    says(COST, "There `sam` needs # MiB and optax's SAM #:", *both)
    says(COST, "optax's SAM # MiB on the transformer.", both[1])
    says(COST, "which is a computation of its own: # MiB.", both[0])
    for name in COMPARED:
        memory = memory_mib(name)
        assert max(memory[step] for step in FREE) <= memory[BASELINE]


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
        COST,
        "the step without needs # to # times that of optax's SAM and # to # times `sam`'s",
        *ends(memory),
        *ends(times),
    )
    says(
        COST,
        "p = 100 takes the same time, #, # and #.",
        *(mean_ratio(name, SPEED, CHOSEN_REFRESH, CHOSEN_BETWEEN) for name in (*IMAGES, TEXT)),
    )


def test_memory_first() -> None:
    found = {name: (steps(name), memory_mib(name)) for name in (TEXT, "resnet18", "simple_cnn")}
    first = memory_first("sam")
    less = {name: memory[first] / memory["sam"] for name, (_, memory) in found.items()}
    times = [found[name][0][first]["ratio"] / found[name][0]["sam"]["ratio"] for name in IMAGES]
    says(
        RECIPES,
        "needs # times its memory on ResNet-18 and # on the six-layer CNN, and takes # and # times",
        *(less[name] for name in IMAGES[::-1]),
        *times[::-1],
    )
    schedule = [
        found[name][1][memory_first(BETWEEN)] / found[name][1][BETWEEN]
        for name in (*IMAGES[::-1], TEXT)
    ]
    says(
        RECIPES,
        "power iteration needs # and # times its memory, and # on a transformer.",
        *schedule,
    )
    refresh, between = memory_first(REFRESH), memory_first(BETWEEN)
    says(COST, "With it SAM needs # to # times its memory, and", *ends(less.values()))
    says(
        COST,
        "power iteration # to # times that of optax's SAM compiled",
        *ends(memory[refresh] / memory[BASELINE] for _, memory in found.values()),
    )
    means = [mean_ratio(name, refresh=refresh, between=between) for name in found]
    says(COST, "in # to # times its time on average", *ends(means))


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
        COST,
        "# to # times `sam`'s with `oja()`, # to # with `subspace()` and up to # with power",
        *range_of("xsam, oja"),
        *range_of("xsam, subspace"),
        range_of(REFRESH, BETWEEN)[1],
    )
    own = {
        name: steps(name)["sam"]["compiled"]["compile_seconds"]
        / steps(name)[BASELINE]["compiled"]["compile_seconds"]
        for name in SPEED
    }
    says(COST, "`sam`'s own takes up to # times that of optax's", max(own.values()))
    assert max(own, key=lambda name: own[name]) in IMAGES
