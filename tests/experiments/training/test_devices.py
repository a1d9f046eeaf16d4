"""Eight devices take the trajectory of one, and what travels between them is counted."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.models.network import as_functions
from experiments.speed.compilation import shapes_on
from experiments.speed.tpu import tpus
from experiments.train import main
from experiments.training.chunk import empty_metrics, make_run_chunk, placed
from experiments.training.config import Method, TrainConfig
from experiments.training.devices import AXIS, ONE_DEVICE, Devices, choose
from experiments.training.program import program_of, start
from experiments.training.resolve import resolve
from experiments.training.run import train
from experiments.training.spec import Varied
from experiments.training.step import TrainState
from tests.experiments.conftest import Fails
from tests.experiments.training.test_train_step import DATA, IMAGES, Small
from tests.meshes import needs_libtpu
from xsam_jax import power_iteration, xsam

PLACES = ("step", "refresh")
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
CONFIG = TrainConfig(
    model="mlp",
    batch_size=64,
    epochs=2,
    refresh_every=3,
    power_iters=2,
    curvature_samples=64,
    num_matvecs=6,
    train_images=192,
    test_images=100,
)


class Collective(NamedTuple):
    """A collective of a compiled program: its computation, its kind and its results."""

    place: str
    kind: str
    shapes: list[tuple[int, ...]]

    @property
    def numbers(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes)


def collectives(program: str) -> Iterator[Collective]:
    """Find all collectives in the text of a compiled program."""
    for line in program.splitlines():
        if found := re.search(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(", line):
            shapes = re.findall(r"\w+\[([\d,]*)\]", found[1])
            place = re.search('op_name="([^"]*)"', line)
            yield Collective(
                "refresh" if place and "/cond/" in place[1] else "step",
                found[2],
                [tuple(map(int, filter(None, shape.split(",")))) for shape in shapes],
            )


def shapes(found: list[Collective], place: str, kind: str) -> list[tuple[int, ...]]:
    return sorted(s for c in found if (c.place, c.kind) == (place, kind) for s in c.shapes)


def compiled(method: Method, devices: Devices) -> tuple[list[Collective], TrainState]:
    config = resolve(replace(CONFIG, method=method))
    program = program_of(config, devices=devices)
    run_chunk, state = start(config, program)
    metrics = devices.replicate(empty_metrics(program.steps))
    assert isinstance(run_chunk, partial)
    lowered = run_chunk.func.lower(*run_chunk.args, state, metrics, program.train_data, 3)
    return list(collectives(lowered.compile().as_text())), state


def test_every_kind_is_counted() -> None:
    """The text of a program that has one of each."""
    mesh = choose(8).mesh
    x = jnp.ones((16, 3))

    def each(x: chex.Array, on: chex.Array) -> tuple[chex.Array, ...]:
        ring = [(i, (i + 1) % 8) for i in range(8)]
        return (
            lax.cond(on, lambda x: lax.psum(x, AXIS), lambda x: x, x),
            lax.all_gather(x, AXIS, tiled=True),
            lax.psum_scatter(jnp.sin(jnp.tile(x, (4, 1))), AXIS, tiled=True),
            lax.all_to_all(jnp.tile(x, (4, 1)), AXIS, 0, 1, tiled=True),
            lax.ppermute(x, AXIS, ring),
        )

    rows = PartitionSpec(AXIS)
    program = jax.shard_map(
        each, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows, check_vma=False
    )
    text = jax.jit(program).lower(x, jnp.array(True)).compile().as_text()
    assert sorted(collectives(text)) == [
        ("refresh", "all-reduce", [(2, 3)]),
        ("step", "all-gather", [(16, 3)]),
        ("step", "all-to-all", [(1, 3)] * 8),  # XLA:CPU has one for each device
        ("step", "collective-permute", [(2, 3)]),
        ("step", "reduce-scatter", [(1, 3)]),
    ]


@pytest.mark.parametrize("method", ["sam", "xsam_oja", "xsam"])
def test_one_all_reduce_a_gradient(method: Method) -> None:
    found, state = compiled(method, choose(8))
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # Of the second gradient, and of the first with loss and accuracy; of each product. Nothing
    # for the eigenvector.
    assert {c.kind for c in found} == {"all-reduce"}
    assert sorted(c.numbers for c in found if c.place == "step") == [size, size + 2]
    assert [c.numbers for c in found if c.place == "refresh"] == [size] * (method == "xsam")


@pytest.mark.parametrize("method", ["sam", "xsam_oja", "xsam"])
def test_fsdp_gathers_and_scatters(method: Method) -> None:
    """Every parameter that can be divided is, with all that is kept for it."""
    found, state = compiled(method, choose(8, fsdp=True))
    params = jax.tree.leaves(state.params)
    divided = [leaf for leaf in params if AXIS in leaf.sharding.spec]
    rest = [leaf.shape for leaf in params if AXIS not in leaf.sharding.spec]
    assert rest == [(10,)]
    for leaf in jax.tree.leaves(state.opt_state):
        assert leaf.sharding.is_fully_replicated == (leaf.shape in [(), (10,)])

    # A product gathers the vector beside the parameters.
    refresh = int(method == "xsam")
    for place, gathered, scattered in (("step", 2, 2), ("refresh", 2 * refresh, refresh)):
        here = {kind: shapes(found, place, kind) for kind in KINDS}
        assert here.pop("all-gather") == sorted(gathered * [leaf.shape for leaf in divided])
        parts = [leaf.sharding.shard_shape(leaf.shape) for leaf in divided]
        assert here.pop("reduce-scatter") == sorted(scattered * parts)
        # And norms and inner products, which are scalars.
        assert [s for s in here.pop("all-reduce") if s] == scattered * rest
        assert not any(here.values())


def test_batch_norm_averages_over_the_whole_batch() -> None:
    """The trajectory is one device's, for two means a channel forwards and two backwards."""
    step, start = batch_norm_steps(ONE_DEVICE)
    expected = step(*start)
    for fsdp in (False, True):
        devices = choose(4, fsdp=fsdp)
        step, (state, *rest) = batch_norm_steps(devices)
        start = (placed(state, devices), *devices.replicate(rest))
        program = step.lower(*start).compile()
        if not fsdp:
            assert_one_all_reduce_a_gradient(program.as_text(), state)
        chex.assert_trees_all_close(devices.fetch(program(*start)), expected, rtol=1e-5, atol=1e-6)


@needs_libtpu
def test_tpus_send_as_much() -> None:
    """By the program that is compiled for eight of them, which are not there."""
    mesh = jax.make_mesh((8,), (AXIS,), axis_types=(AxisType.Auto,), devices=tpus("v5e:2x4"))
    step, start = batch_norm_steps(Devices(mesh))
    everywhere = NamedSharding(mesh, PartitionSpec())
    shapes = shapes_on(everywhere, jax.eval_shape(lambda: start))
    assert_one_all_reduce_a_gradient(step.lower(*shapes).compile().as_text(), start[0])


def assert_one_all_reduce_a_gradient(program: str, state: TrainState) -> None:
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    statistics = sum(leaf.size for leaf in jax.tree.leaves(state.batch_stats))
    # A TPU's compiler divides the drawing of crops, and moves a few numbers.
    found = [c for c in collectives(program) if c.kind == "all-reduce" or c.numbers > 8]
    assert {c.kind for c in found} == {"all-reduce"}
    numbers = {place: sum(c.numbers for c in found if c.place == place) for place in PLACES}
    # A product derives the means too.
    assert numbers == {"step": 2 * (size + 2 * statistics) + 2, "refresh": size + 4 * statistics}


def batch_norm_steps(devices: Devices) -> Any:
    """Make steps of a CNN with BatchNorm, and what they start from."""
    network = as_functions(Small(), IMAGES, None if devices.mesh is None else AXIS)
    tx = optax.chain(
        xsam(0.5, eigenvector=power_iteration(every=2, iters=2)), optax.sgd(0.1, momentum=0.9)
    )
    run_chunk = make_run_chunk(
        network.train,
        lambda _: tx,
        batch_size=8,
        crop_padding=1,
        flip=True,
        devices=devices,
    )
    state = TrainState(
        jnp.zeros((), jnp.int32), network.params, network.batch_stats, tx.init(network.params)
    )
    one_run = partial(run_chunk, Varied(0, 0.0, 0.0), jax.random.key(0))
    return jax.jit(one_run), (state, empty_metrics(3), DATA, jnp.int32(3))


def test_eight_devices_take_the_trajectory_of_one(tmp_path: Path) -> None:
    def run(name: str, devices: Devices) -> tuple[dict[str, float], TrainState]:
        ends: list[TrainState] = []
        config = replace(CONFIG, out=tmp_path / name)
        result = train(config, devices=devices, on_end=ends.append, draw=False).result
        numbers = {k: v for k, v in result._asdict().items() if isinstance(v, float)}
        return numbers | {"seconds": 0}, devices.fetch(ends[0])

    numbers, state = run("one", ONE_DEVICE)
    for fsdp in (False, True):
        found = run(f"eight {fsdp}", choose(8, fsdp=fsdp))
        assert found[0] == pytest.approx(numbers, rel=1e-5)
        chex.assert_trees_all_close(found[1], state, rtol=1e-5, atol=1e-6)


def test_devices_that_there_are_not(fails: Fails) -> None:
    assert "--devices must be in [1, 8], not 9." in fails(main, ["--devices", "9"])
    message = fails(main, ["--batch-size", "100"])
    assert "--batch-size must be divisible by the 8 devices, not 100" in message
