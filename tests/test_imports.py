"""What importing the package does, in a process of its own: next to nothing; and what it gives."""

import inspect
import re
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Any

import pytest

import xsam_jax
from xsam_jax import curvature

# What it is built on, whole.
DEPENDENCIES = "chex, jax.extend.core.primitives, matfree.stochtrace, optax"


def said(code: str) -> str:
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_imports_nothing_but_itself_and_its_dependencies() -> None:
    code = (
        f"import sys, {DEPENDENCIES}; before = set(sys.modules); import xsam_jax; "
        "print({name.split('.')[0] for name in set(sys.modules) - before})"
    )
    assert said(code) == "{'xsam_jax'}"


def test_it_touches_no_device() -> None:
    code = "import xsam_jax; from jax._src import xla_bridge; print(xla_bridge._backends)"
    assert said(code) == "{}"
    code = code.replace("import xsam_jax", "import jax; jax.devices()")
    assert said(code) != "{}"  # it would be seen here


@pytest.mark.parametrize("module", [xsam_jax, curvature])
def test_all_names_what_there_is(module: Any) -> None:
    """What `help` lists: all that is public, with a docstring each where it has one of its own."""
    names = {name for name in vars(module) if not name.startswith("_")}
    assert set(module.__all__) == names
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert value.__doc__
            assert value.__module__.startswith("xsam_jax.")
        else:
            assert isinstance(value, types.ModuleType) or name in ("GradFn", "ScalarOrSchedule")


def test_private_names_stay_in_the_library() -> None:
    private = re.compile(r"\bxsam_jax(\.\w+)*(\._[a-z]| import .*\b_[a-z])")
    files = [*(Path(__file__).parent.parent / "experiments").rglob("*.py")]
    assert files
    found = {file for file in files if private.search(file.read_text())}
    assert not found


def test_a_signature_names_types_and_trackers_as_they_are_written() -> None:
    parameters = inspect.signature(xsam_jax.xsam).parameters
    assert parameters["rho"].annotation == "ScalarOrSchedule"
    assert str(parameters["eigenvector"]) == (
        "eigenvector: Tracker = power_iteration(every=5, iters=5, warm_start=True)"
    )
    assert typing.get_type_hints(xsam_jax.xsam)["eigenvector"] is xsam_jax.Tracker


@pytest.mark.parametrize(
    "public",
    [
        value
        for module in (xsam_jax, curvature)
        for value in map(vars(module).get, module.__all__)
        if inspect.isfunction(value) or inspect.isclass(value)
    ],
    ids=lambda value: value.__name__,
)
def test_help_shows_signatures_as_they_are_written(public: Any) -> None:
    """Without quotes around types, and without what an alias stands for."""
    called = public.__new__ if inspect.isclass(public) else public
    signature = inspect.signature(called)
    kinds = [parameter.annotation for parameter in signature.parameters.values()]
    for kind in (*kinds, signature.return_annotation):
        assert kind is inspect.Signature.empty or repr(kind) == str(kind)
    assert not re.search(r"ForwardRef|Union\[|: '|-> '", str(signature))
