"""How many kernels a program starts, counted in a compiled program's text."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from experiments.speed.gpu import kernels_of, main
from experiments.speed.steps import BASELINE
from tests.experiments.conftest import Fails

PROGRAM = """\
HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[4]{0})->(f32[4]{0}, f32[4]{0})}

%fused_computation (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %b = f32[4]{0} multiply(%a, %a)
  ROOT %c = f32[4]{0} negate(%b)
}

%body (carry: (s32[], f32[4])) -> (s32[], f32[4]) {
  %carry = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %x = f32[4]{0} get-tuple-element(%carry), index=1
  %next = s32[] fusion(%i), kind=kLoop, calls=%fused_computation
  %y = (f32[4]{0}, u8[0]{0}) custom-call(%x), custom_call_target="gemm"
  %z = f32[4]{0} get-tuple-element(%y), index=0
  ROOT %out = (s32[], f32[4]{0}) tuple(%next, %z)
}

%condition (carry: (s32[], f32[4])) -> pred[] {
  %carry.1 = (s32[], f32[4]{0}) parameter(0)
  %j = s32[] get-tuple-element(%carry.1), index=0
  ROOT %less = pred[] fusion(%j), kind=kLoop, calls=%fused_computation
}

%left (a: f32[4]) -> f32[4] {
  ROOT %p = f32[4]{0} parameter(0)
}

%right (a: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  ROOT %r = f32[4]{0} copy(%q)
}

ENTRY %main (w: f32[4]) -> (f32[4], f32[4]) {
  %w = f32[4]{0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[4]{0}) tuple(%zero, %w)
  %loop = (s32[], f32[4]{0}) while(%start), condition=%condition, body=%body
  %last = f32[4]{0} get-tuple-element(%loop), index=1
  %one = f32[4]{0} conditional(%zero, %last, %last), branch_computations={%left, %right}
  %two = f32[4]{0} call(%one), to_apply=%right
  %yes = pred[] constant(true)
  %both = f32[4]{0} conditional(%yes, %two, %two), true_computation=%left, false_computation=%right
  ROOT %outputs = (f32[4]{0}, f32[4]{0}) tuple(%one, %both)
}
"""


def test_fusions_are_one_kernel_and_bodies_count_once() -> None:
    assert kernels_of(PROGRAM) == 3 + 1 + 1 + 1


def test_text_of_this_jax() -> None:
    """The form is XLA's, and may change."""

    def f(x: jax.Array) -> jax.Array:
        return lax.fori_loop(0, 3, lambda _, x: jnp.sin(jnp.sort(x)), x)

    assert kernels_of(jax.jit(f).lower(jnp.ones(4)).compile().as_text() or "") >= 3


def test_without_a_compiler_for_cuda(monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = "needs CUDA: pip install -e '.[experiments,cuda13]'."
    assert message in fails(main, ["--model", "mlp"])


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None,
    reason="needs CUDA: pip install -e '.[dev,cuda13]'",
)
def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--model", "mlp", "--out", str(tmp_path), "--steps", "sam", "xsam, oja"]
    monkeypatch.setattr(sys, "argv", ["program", *options])
    main()
    found = json.loads((tmp_path / "mlp-256.json").read_text())["steps"]
    assert [*found] == [BASELINE, "sam", "xsam, oja"]
    baseline, sam, oja = (step["kernels"] for step in found.values())
    assert 10 < baseline < 100
    assert abs(sam - baseline) <= 2
    assert sam < oja < sam + 20
