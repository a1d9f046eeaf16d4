"""The measurement of a step's cost; not the cost, which no test can know."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.models.transformer import Sizes, Transformer
from experiments.speed.__main__ import fitting_batch, main
from experiments.speed.compilation import compile_step
from experiments.speed.steps import (
    BASELINE,
    BETWEEN,
    CHOSEN_BETWEEN,
    CHOSEN_REFRESH,
    PARTS,
    REFRESH,
    Step,
    all_steps,
    memory_first,
)
from experiments.speed.table import Row, from_json, table
from experiments.speed.workloads import workload
from tests.experiments.conftest import Fails

XSAM = [REFRESH, PARTS, BETWEEN, CHOSEN_BETWEEN, memory_first(BETWEEN)]


@pytest.mark.slow
def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    options = ["--model", "mlp", "--out", str(tmp_path), "--rounds", "2", "--epoch-steps", "2"]
    options += ["--compilations", "1"]
    assert "--steps must be among 'sgd'" in fails(main, [*options, "--steps", "adam"])
    assert "must be at least 1" in fails(main, [*options, "--rounds", "0"])
    message = fails(main, [*options, "--batch-size", "6", "--steps", PARTS])
    assert f"--batch-size must be a multiple of 4 for {PARTS}" in message
    monkeypatch.setattr(sys, "argv", ["program", *options, "--steps", "sam", *XSAM])
    main()
    (file,) = tmp_path.iterdir()
    assert file.name == "cpu-mlp-128.json"
    record = json.loads(file.read_text())
    rows = {row["name"]: from_json(row) for row in record["rows"]}
    assert [*rows][: 2 + len(XSAM)] == [BASELINE, "sam", *XSAM]
    assert rows[BASELINE].ratio == rows[BASELINE].fastest == 1
    # What does not depend on the machine: SAM is optax's SAM, and a refresh needs more memory.
    optax_sam, sam, refresh, parts, chosen = (
        rows[name].compiled for name in (BASELINE, "sam", REFRESH, PARTS, CHOSEN_BETWEEN)
    )
    assert optax_sam is not None
    assert sam is not None
    assert refresh is not None
    assert parts is not None
    assert chosen is not None
    assert sam.gigaflops == pytest.approx(optax_sam.gigaflops, rel=0.02)
    assert refresh.gigaflops > 1.5 * sam.gigaflops
    assert refresh.temporary_mib > sam.temporary_mib
    assert parts.temporary_mib < refresh.temporary_mib
    assert chosen.gigaflops < 1.1 * sam.gigaflops
    assert chosen.temporary_mib < 1.1 * sam.temporary_mib


def test_memory_first() -> None:
    work = workload("transformer")
    steps, batch = all_steps(work), work.batch(8)
    options = steps[memory_first("sam")].compiler_options
    fast, small = (
        compile_step(steps[BASELINE]._replace(compiler_options=each), work.params, batch)[1]
        for each in (None, options)
    )
    assert small.temporary_mib < 0.75 * fast.temporary_mib
    assert small.gigaflops == fast.gigaflops


def test_batch_by_memory() -> None:
    step = Step(lambda params, state, batch: (params, jnp.sort(batch) @ batch.T), jnp.zeros(()))

    def batch(size: int) -> jax.Array:
        return jnp.ones((size, 2**12))

    _, compiled = compile_step(step, jnp.zeros(()), batch(32))
    budget = int(compiled.temporary_mib + compiled.argument_mib) + 1
    assert fitting_batch(step, jnp.zeros(()), batch, budget) == 32
    assert fitting_batch(step, jnp.zeros(()), batch, 1000) == 128


def test_table_has_the_mean_of_each_schedule() -> None:
    rows = [
        Row(BETWEEN, 1.0, 1.0, (1.0, 1.0), 0.1, None),
        Row(REFRESH, 5.0, 6.0, (5.0, 7.0), 0.6, None),
        Row(CHOSEN_REFRESH, 5.0, 6.0, (5.0, 7.0), 0.6, None),
        Row(CHOSEN_BETWEEN, 0.9, 0.9, (0.9, 0.9), 0.1, None),
    ]
    assert "| xsam, p=5 q=5, mean of 5 steps | | 2.00 |" in table(rows)
    assert "| xsam, p=3 q=5, mean of 3 steps | | 2.67 |" in table(rows)
    assert "| xsam, p=100 q=5, mean of 100 steps | | 1.05 |" in table(rows)
    assert "| xsam, p=100 q=5, two steps, mean of 100 steps | | 0.95 |" in table(rows)


def test_transformer_is_causal_and_rematerialises() -> None:
    sizes = Sizes(vocabulary=11, length=16, width=16, depth=6, heads=2)
    plain, remat = (Transformer(sizes, nnx.Rngs(0), remat=remat) for remat in (False, True))
    tokens = jax.random.randint(jax.random.key(0), (32, 16), 0, 11)
    logits = plain(tokens)
    assert logits.shape == (32, 16, 11)
    np.testing.assert_allclose(remat(tokens), logits, rtol=1e-5, atol=1e-6)
    changed = plain(tokens.at[:, 4].add(1) % 11)
    np.testing.assert_allclose(changed[:, :4], logits[:, :4], rtol=1e-5, atol=1e-6)
    assert not np.allclose(changed[:, 4:], logits[:, 4:], rtol=1e-3)

    def memory(model: Transformer) -> float:
        graphdef, params = nnx.split(model)

        def loss(params: Any) -> jax.Array:
            squares: jax.Array = nnx.merge(graphdef, params)(tokens) ** 2
            return jnp.sum(squares)

        step = Step(lambda params, state, batch: jax.grad(loss)(params), ())
        return compile_step(step, params, ())[1].temporary_mib

    assert memory(remat) < 0.7 * memory(plain)
