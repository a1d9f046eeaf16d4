"""Marks for tests of what one compiler does."""

import jax
import pytest

only_on_a_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="says where XLA:CPU puts its arrays"
)
