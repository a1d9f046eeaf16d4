"""Mutation testing of the optimizer modules with cosmic-ray's operators (.ci/mutants.toml).

    python3 -m venv .venv && .venv/bin/pip install -e '.[mutation]'
    .venv/bin/python .ci/mutants.py [module ...]

A mutant is judged in a fork of this process, which has jax imported but not the package, so it
starts at once; the mutated source is compiled in the fork and no file changes. XLA's programs are
cached, as most are those of the unmutated code. What was judged before is read from
runs/mutants/MODULE.jsonl and not judged again, so a run that was interrupted goes on.
"""

import argparse
import importlib.machinery
import json
import os
import random
import re
import shlex
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "mutants"
CONFIG = tomllib.loads((ROOT / ".ci" / "mutants.toml").read_text())
LEFT_OUT = re.compile("|".join(entry["operators"] for entry in CONFIG["left_out"]))

os.chdir(ROOT)
sys.path.insert(0, str(ROOT))
sys.dont_write_bytecode = True
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(RUNS / "cache"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import chex  # noqa: E402,F401
import flax  # noqa: E402,F401
import hypothesis  # noqa: E402
import optax  # noqa: E402,F401
import orbax.checkpoint  # noqa: E402,F401
import pytest  # noqa: E402
from cosmic_ray.ast import ast_nodes, get_ast  # noqa: E402
from cosmic_ray.mutating import mutate_code  # noqa: E402
from cosmic_ray.plugins import get_operator, operator_names  # noqa: E402

# The same examples for each mutant, and no search for a smaller one.
hypothesis.settings.register_profile(
    "mutants",
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
hypothesis.settings.load_profile("mutants")


class Mutant(NamedTuple):
    """What is changed, where, and the whole file that it makes."""

    operator: str
    occurrence: int
    line: int
    column: int
    before: str
    after: str
    source: str


def file_of(module: str) -> Path:
    """Where ``_methods.sam`` stands."""
    return ROOT.joinpath("xsam_jax", *module.split(".")).with_suffix(".py")


def mutants(path: Path) -> Iterator[Mutant]:
    """All mutants of a file that compile and whose operator is not left out."""
    source = path.read_text()
    nodes = list(ast_nodes(get_ast(source)))
    for name in operator_names():
        make = get_operator(name)
        short = name.removeprefix("core/")
        if make.arguments() or LEFT_OUT.fullmatch(short):
            continue
        operator = make()
        places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, (line, column) in enumerate(places):
            mutated = mutate_code(source, operator, occurrence)
            try:
                compile(mutated, str(path), "exec")
            except SyntaxError:
                continue
            if mutated.splitlines()[line - 1][column:].startswith("/,"):
                continue  # the `*` before keyword-only arguments is no product
            pairs = zip(source.splitlines(), mutated.splitlines(), strict=False)
            before, after = next((a, b) for a, b in pairs if a != b)
            yield Mutant(short, occurrence, line, column, before.strip(), after.strip(), mutated)


class FirstFailure:
    """A pytest plugin that writes down which test failed, and begins with the likely ones."""

    def __init__(self, path: Path, likely: list[str]) -> None:
        self.path, self.rank = path, {test: place for place, test in enumerate(likely)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """The likely ones first."""
        items.sort(key=lambda item: self.rank.get(item.nodeid, len(self.rank)))

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called for what was collected too."""
        if report.failed:
            self.path.write_text(report.nodeid)

    pytest_collectreport = pytest_runtest_logreport


def judge(
    path: Path, source: str | None, tests: list[str], likely: list[str]
) -> tuple[str, str, float]:
    """Outcome, killing test and seconds of a mutant, or of the file itself."""
    failure = RUNS / f"{path.stem}.failure"
    failure.unlink(missing_ok=True)
    begin = time.monotonic()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        log = os.open(RUNS / f"{path.stem}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        loader = importlib.machinery.SourceFileLoader
        get_code = loader.get_code

        def mutated_code(self: Any, name: str) -> Any:
            if source is not None and self.path == str(path):
                return compile(source, self.path, "exec")
            return get_code(self, name)

        loader.get_code = mutated_code  # type: ignore[method-assign]
        arguments = ["-q", "-x", "-p", "no:cacheprovider", "--hypothesis-profile=mutants", *tests]
        os._exit(pytest.main(arguments, plugins=[FirstFailure(failure, likely)]))
    while (time.monotonic() - begin) < CONFIG["timeout"]:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.02)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "timed out", "", time.monotonic() - begin
    seconds = time.monotonic() - begin
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return "survived", "", seconds
    if failure.exists():
        return "killed", failure.read_text(), seconds
    if code == 2 or code < 0:  # not even imported, or crashed
        return "killed", f"exit {code}", seconds
    raise RuntimeError(f"pytest ended with {code}, see {RUNS / path.stem}.log")


def ranked(killers: Counter[tuple[int, str]], line: int) -> list[str]:
    """The tests that killed a mutant before, those of a mutant of the same line first."""
    total: Counter[str] = Counter()
    for (_, test), count in killers.items():
        total[test] += count
    return sorted(total, key=lambda test: (killers[line, test], total[test]), reverse=True)


def run(module: str, tests: list[str], again: bool, share: float) -> None:
    """Judges the mutants of a module that were not judged before; ``again``: and the survivors."""
    path = file_of(module)
    results = RUNS / f"{module}.jsonl"
    lines = results.read_text().splitlines() if results.exists() else []
    known = [json.loads(line) for line in lines]
    done = {(r["operator"], r["occurrence"], r["before"], r["after"]): r for r in known}
    killers = Counter((row["line"], row["test"]) for row in known)
    every = list(mutants(path))
    chosen = random.Random(0).sample(every, len(every))[: round(share * len(every))]
    rows = []
    for mutant in sorted(chosen, key=lambda mutant: (mutant.line, mutant.column)):
        record = mutant._asdict()
        del record["source"]
        key = (mutant.operator, mutant.occurrence, mutant.before, mutant.after)
        if key in done and not (again and done[key]["outcome"] == "survived"):
            rows.append(done[key] | record)  # its line may be another by now
            continue
        outcome, test, seconds = judge(path, mutant.source, tests, ranked(killers, mutant.line))
        killers[mutant.line, test] += 1
        rows.append(record | {"outcome": outcome, "test": test, "seconds": round(seconds, 1)})
        with results.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        if outcome != "killed":
            place = f"{path.name}:{mutant.line} {outcome}"
            print(f"{place}\n  {mutant.before}\n  {mutant.after}", flush=True)
    counts = Counter(row["outcome"] for row in rows)
    print(f"{module}: {len(every)} mutants, {len(rows)} judged, {dict(counts)}", flush=True)


def check(module: str, tests: list[str]) -> None:
    """Raises unless the unmutated module passes."""
    path = file_of(module)
    outcome, test, seconds = judge(path, None, tests, [])
    if outcome != "survived":
        raise RuntimeError(f"the unmutated {module} is {outcome} by {test}")
    print(f"{module}: the tests take {seconds:.1f} s", flush=True)


def main() -> None:
    """Runs the modules that are given, by default all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", default=[*CONFIG["tests"]])
    parser.add_argument("--count", action="store_true", help="count the mutants and judge none")
    parser.add_argument("--again", action="store_true", help="judge survivors again")
    parser.add_argument("--share", type=float, default=1.0, help="of the mutants, drawn at random")
    given = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    for module in given.modules:
        if given.count:
            print(module, sum(1 for _ in mutants(file_of(module))))
            continue
        tests = shlex.split(" ".join(CONFIG["tests"][module].split()))
        check(module, tests)
        run(module, tests, given.again, given.share)


if __name__ == "__main__":
    main()
