"""The compiled functions of a training run, which runs of one configuration share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from experiments.common.machine import versions
from experiments.data.dataset import Dataset, first_of_every_class, hold_out, with_wrong_labels
from experiments.data.sources import load
from experiments.models.network import Batch, build_network
from experiments.training.batches import check_batch_size, part_size, steps_per_epoch
from experiments.training.chunk import RunChunk, SharedChunk, make_run_chunk, placed
from experiments.training.config import ResolvedConfig, TrainConfig, canonical
from experiments.training.devices import AXIS, ONE_DEVICE, Devices
from experiments.training.hosts import check_same, everywhere
from experiments.training.measure import (
    Evaluation,
    Sharpness,
    fixed_subset,
    make_evaluate,
    make_measure,
    make_trace,
)
from experiments.training.methods import ascent_part, build_method
from experiments.training.resolve import resolve
from experiments.training.spec import Varied, varied
from experiments.training.step import TrainState
from xsam_jax import curvature

_EVALUATION_BATCH = 256

# (method, number of steps) -> the method with something beside it that watches its steps
Observe = Callable[
    [optax.GradientTransformationExtraArgs, int], optax.GradientTransformationExtraArgs
]


class Program(NamedTuple):
    """What is compiled once for all runs that differ in `Varied` and in their seed alone."""

    data: Dataset
    devices: Devices
    steps: int  # of an epoch
    train_data: Batch
    test_data: Batch
    subset: Batch  # on which the curvature is measured
    method: Callable[[Varied], optax.GradientTransformationExtraArgs]
    run_chunk: SharedChunk
    evaluate: Callable[[chex.ArrayTree, chex.ArrayTree, Batch], Evaluation]
    measure: Callable[[chex.ArrayTree, chex.ArrayTree, Batch], Sharpness]
    trace: Callable[[chex.ArrayTree, chex.ArrayTree, Batch], curvature.Estimate]


def program_of(
    config: ResolvedConfig, observe: Observe | None = None, devices: Devices = ONE_DEVICE
) -> Program:
    """Build the program of a run, or take the last run's if it is the same.

    Args:
        config: The run.
        observe: Wraps the method.
        devices: Those that it is for.

    Returns:
        The program; it is compiled as it is used.

    Raises:
        UserError: The data are missing or damaged, or fewer than a batch, or a batch cannot be
            divided among the devices.
    """
    return _program(_shared(config), observe, devices)


def prepare(
    config: TrainConfig, observe: Observe | None, devices: Devices
) -> tuple[ResolvedConfig, Program]:
    """Resolve a run and build its program, in all of its processes.

    Raises:
        UserError: See `resolve` and `program_of`, or the processes do not agree.
    """
    resolved = everywhere(partial(resolve, config))
    check_same("options and versions", f"{canonical(resolved)} {devices.fsdp} {versions()}")
    return resolved, everywhere(partial(program_of, resolved, observe, devices))


def start(config: ResolvedConfig, program: Program) -> tuple[RunChunk, TrainState]:
    """Make the state of a run before its first step.

    Args:
        config: The run.
        program: Its program.

    Returns:
        What takes its steps, and its initial state.
    """
    devices = program.devices
    init_key, batch_key = jax.random.split(jax.random.key(config.seed))
    batch_key = jax.random.wrap_key_data(devices.replicate(jax.random.key_data(batch_key)))
    network = build_network(config.model, program.data, init_key)
    opt_state = program.method(varied(config)).init(network.params)
    none = jnp.zeros((), jnp.int32)
    # Two buffers, because both are donated.
    state = TrainState(none, network.params, network.batch_stats, opt_state, jnp.array(none))
    return partial(program.run_chunk, varied(config), batch_key), placed(state, devices)


@dataclass(frozen=True)
class _Shared:
    """The key of a kept program: equal for runs that may share it."""

    fields: tuple[tuple[str, object], ...]
    config: ResolvedConfig = field(compare=False)


def _shared(config: ResolvedConfig) -> _Shared:
    own = {*Varied._fields, "out"}
    fields = ((name, value) for name, value in vars(config).items() if name not in own)
    return _Shared(tuple(fields), config)


# One program, with its data, is kept: runs that share it come one after the other.
@lru_cache(maxsize=1)
def _program(shared: _Shared, observe: Observe | None, devices: Devices) -> Program:
    config = shared.config
    devices.check_batch(config.batch_size)
    part = part_size(ascent_part(config), config.batch_size)
    devices.check_batch(part, "--ascent-part of --batch-size")
    data = load_for(config)
    check_batch_size(config.batch_size, len(data.train_images))
    steps = steps_per_epoch(len(data.train_images), config.batch_size)
    train_data = Batch(data.train_images, data.train_labels)
    axis_name = None if devices.mesh is None else AXIS
    network = build_network(config.model, data, jax.random.key(0), axis_name)

    def predict(
        params: chex.ArrayTree, batch_stats: chex.ArrayTree, images: jax.Array
    ) -> tuple[jax.Array, chex.ArrayTree]:
        return network.predict(params, batch_stats, devices.split(images))

    def method(values: Varied) -> optax.GradientTransformationExtraArgs:
        tx = build_method(config, config.epochs * steps, values)
        return tx if observe is None else observe(tx, config.epochs * steps)

    run_chunk = make_run_chunk(
        network.train,
        method,
        batch_size=config.batch_size,
        crop_padding=data.crop_padding if config.augment else 0,
        flip=data.flip and config.augment,
        ascent_part=ascent_part(config),
        devices=devices,
        max_bad_steps=config.max_bad_steps,
        curvature_apply=network.predict if config.curvature_mode == "evaluation" else None,
    )
    return Program(
        data=data,
        devices=devices,
        steps=steps,
        train_data=devices.replicate(train_data),
        test_data=devices.replicate(Batch(data.test_images, data.test_labels)),
        subset=devices.replicate(fixed_subset(train_data, config.curvature_samples)),
        method=method,
        run_chunk=jax.jit(run_chunk, donate_argnums=(2, 3)),
        evaluate=make_evaluate(predict, _EVALUATION_BATCH),
        measure=make_measure(predict, config.num_matvecs),
        trace=make_trace(predict, config.trace_probes),
    )


def load_for(config: ResolvedConfig) -> Dataset:
    """Load the data that a run is trained and tested on.

    Args:
        config: The run.

    Returns:
        Its data set, reduced if the run is one of fewer images, and with its wrong labels.

    Raises:
        UserError: The files are missing or damaged, or hold too few images.
    """
    data = load(config.dataset, config.data_dir, config.image_size)
    if config.validation_images is None:
        data = first_of_every_class(data, config.train_images, config.test_images)
    else:
        # Of all training images: a run of a few has the same ones with and without a held-out set.
        data = hold_out(data, config.validation_images)
        data = first_of_every_class(data, config.train_images)
    return with_wrong_labels(data, config.label_noise)
