"""What importing the package does, in a process of its own: next to nothing."""

import subprocess
import sys

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
