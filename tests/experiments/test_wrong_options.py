"""Every option of every program with wrong values: status 2, one line, no run begun."""

import dataclasses
import importlib
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from experiments.analyse import AnalyseConfig
from experiments.benchmark.__main__ import BenchmarkConfig
from experiments.compare import CompareConfig
from experiments.figures.alpha import Alpha
from experiments.figures.angle import Angle
from experiments.figures.curves import Curves
from experiments.figures.spectrum import Spectrum
from experiments.lambda_max import LambdaMaxConfig
from experiments.rates.plan import RatesConfig
from experiments.speed.__main__ import SpeedConfig
from experiments.speed.gpu import KernelsConfig
from experiments.speed.published import PublishedConfig
from experiments.speed.shapes import ShapesConfig
from experiments.speed.tpu import PlannedConfig
from experiments.tracking.__main__ import TrackingConfig
from experiments.training.config import TrainConfig
from tests.experiments.conftest import Fails

# Module, arguments before the option, options.
PROGRAMS: list[tuple[str, list[str], type]] = [
    ("experiments.train", [], TrainConfig),
    ("experiments.benchmark.__main__", ["digits"], BenchmarkConfig),
    ("experiments.figures.__main__", ["angle"], Angle),
    ("experiments.figures.__main__", ["curves"], Curves),
    ("experiments.figures.__main__", ["spectrum"], Spectrum),
    ("experiments.figures.__main__", ["alpha"], Alpha),
    ("experiments.tracking.__main__", [], TrackingConfig),
    ("experiments.lambda_max", [], LambdaMaxConfig),
    ("experiments.analyse", ["runs/x"], AnalyseConfig),
    ("experiments.compare", ["runs/x"], CompareConfig),
    ("experiments.speed.__main__", ["--model", "mlp"], SpeedConfig),
    ("experiments.rates.__main__", [], RatesConfig),
    ("experiments.speed.published", ["--code", "."], PublishedConfig),
    ("experiments.speed.shapes", [], ShapesConfig),
    ("experiments.speed.tpu", ["--model", "mlp"], PlannedConfig),
    ("experiments.speed.gpu", ["--model", "mlp"], KernelsConfig),
]

WRONG: dict[Any, list[list[str]]] = {
    int: [["x"], ["1.5"], ["-1"], [""], [], ["nan"], ["1", "2"]],
    float: [["x"], ["-1"], ["nan"], ["inf"], ["-inf"], [""], [], ["1e999"]],
    bool: [["3"], ["x"]],
    Path: [[]],
    str: [["nonsense"], [""], []],
}


def wrong_values(hint: Any) -> Iterator[list[str]]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner, *_ = (a for a in arguments if a is not type(None))
        # The word None is a value of these.
        yield from ([v for v in values] for values in wrong_values(inner))
    elif origin is typing.Literal:
        yield from WRONG[str]
    elif origin is tuple:
        # Several values are right, and none is refused too.
        yield from (values for values in wrong_values(arguments[0]) if len(values) < 2)
    else:
        yield from WRONG[hint]


OPTIONS = [
    (module, before, field.name, value)
    for module, before, config in PROGRAMS
    for field in dataclasses.fields(config)
    if field.name != "preset"
    and (field.name != "runs" or config not in (AnalyseConfig, CompareConfig))  # without a name
    for value in wrong_values(typing.get_type_hints(config)[field.name])
]


@pytest.fixture(autouse=True)
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a run has begun")

    monkeypatch.setattr("experiments.training.run.open_run", begun)
    monkeypatch.setattr("experiments.benchmark.__main__.execute", begun)


@pytest.mark.parametrize("module", dict.fromkeys(module for module, *_ in PROGRAMS))
def test_wrong_values(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    monkeypatch.chdir(tmp_path)
    main: Callable[[], None] = importlib.import_module(module).main
    for found, before, name, value in OPTIONS:
        if found == module:
            option = f"--{name.replace('_', '-')}"
            message = fails(main, [*before, option, *value])
            assert message.startswith("error: "), (option, value)
            assert message.rstrip().endswith("."), (option, value)
    assert not any(tmp_path.iterdir())
