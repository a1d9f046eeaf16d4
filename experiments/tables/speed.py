"""Tables of a step's cost, from the files of `experiments.speed`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.common.files import read_json
from experiments.common.tables import markdown
from experiments.speed import gpu, tpu
from experiments.speed import published as code
from experiments.speed import shapes as layers
from experiments.speed.compilation import Compiled
from experiments.speed.steps import (
    BASELINE,
    BETWEEN,
    CHOSEN_BETWEEN,
    CHOSEN_REFRESH,
    FAST_SGD,
    PARTS,
    QUARTER,
    REFRESH,
    memory_first,
)
from experiments.speed.table import PERIODS, from_json, mean_of, table

_STEPS = ("sgd", FAST_SGD, BASELINE, "sam", "xsam, oja", "xsam, subspace", memory_first("sam"))
# Power iteration: what it is called, a step with a refresh, one without.
_SCHEDULES = (
    ("", REFRESH, BETWEEN),
    (", two steps", CHOSEN_REFRESH, CHOSEN_BETWEEN),
    (", memory first", memory_first(REFRESH), memory_first(BETWEEN)),
)
# The same as programs: one for all steps, but for the third.
_PROGRAMS = {
    BETWEEN: "xsam, q=5",
    QUARTER: "xsam, q=5, products of 1/4 of the batch",
    PARTS: "xsam, q=5, products in 4 parts",
    CHOSEN_BETWEEN: "xsam, two steps, the one without a refresh",
    memory_first(BETWEEN): "xsam, q=5, memory first",
}
_NETWORKS = {
    "simple_cnn": "six-layer CNN",
    "resnet18": "ResNet-18",
    "transformer": "transformer",
    "transformer_large": "large transformer",
}
# README's, beside the published code.
_BESIDE = ("published code, X-SAM, p=5 q=5", "xsam, p=5 q=5", "xsam, oja")
# What is compared: the fields of a row, or of what the compiler says of it.
_FIELDS = {"time": "ratio", "memory": "temporary_mib", "compilation": "compile_seconds"}


def cost(results: Path, file: str) -> str:
    """Everything that was measured of the steps of one network."""
    record = read_json(results / file)
    peak = record.get("peak_device_mib") or record["peak_resident_mib"]
    of = "process" if record.get("peak_device_mib") is None else "process on the GPU"
    said = f"{record['rounds']} rounds; peak memory of the {of} {peak / 1024:.1f} GiB."
    return _with_command(record, table([from_json(row) for row in record["rows"]]), said)


def ratios(results: Path, what: str, *files: str) -> str:
    """Time, memory or compilation of the steps of several networks, relative to optax's SAM."""
    columns = [_relative(read_json(results / file)["rows"], _FIELDS[what]) for file in files]
    names = dict.fromkeys(name for column in columns for name in column)
    header = ("step", *map(_title, files))
    rows = [
        (name, *(f"{column[name]:.2f}" if name in column else "" for column in columns))
        for name in names
    ]
    return markdown(header, rows)


def published(results: Path, file: str) -> str:
    """Time of a step of X-SAM's published code and of ours."""
    record = read_json(results / file)
    return _with_command(record, code.table(record["seconds"]))


def beside(results: Path, *files: str) -> str:
    """Time of the main steps on several networks, relative to SAM in X-SAM's published code."""
    columns = [code.relative(read_json(results / file)["seconds"]) for file in files]
    header = ("step", *map(_title, files))
    rows = [(name, *(f"{column[name]:.2f}" for column in columns)) for name in _BESIDE]
    return markdown(header, rows)


def shapes(results: Path, file: str) -> str:
    """Speed of each convolution of a network, by XLA, by `channels_last` and by oneDNN."""
    record = read_json(results / file)
    return _with_command(record, layers.table(record["rows"]))


def planned(results: Path, file: str) -> str:
    """What the compiler for TPUs plans for the steps of one network."""
    record = read_json(results / file)
    steps = {name: Compiled(0.0, **step) for name, step in record["steps"].items()}
    return _with_command(record, tpu.table(steps))


def kernels(results: Path, file: str) -> str:
    """How many kernels the compiler for GPUs plans for the steps of one network."""
    record = read_json(results / file)
    steps = {name: gpu.Program(**step) for name, step in record["steps"].items()}
    return _with_command(record, gpu.table(steps))


def allocator(results: Path, *networks: str) -> str:
    """Time of SAM's step with buffers that the allocator keeps, relative to that without."""
    rows = []
    for network in networks:
        kept, plain = (
            [_seconds_of_sam(folder, network) for folder in sorted(folders)]
            for folders in ((results / "allocator").glob(kind) for kind in ("kept*", "plain*"))
        )
        pairs = zip(kept, plain, strict=True)
        rows.append((network, ", ".join(f"{ours / theirs:.2f}" for ours, theirs in pairs)))
    return markdown(("network", "time with the variables to time without, each run"), rows)


def _title(file: str) -> str:
    """Name the network and the batch size of a file of `experiments.speed`."""
    *_, network, batch_size = Path(file).stem.split("-")
    return f"{_NETWORKS[network]}, batch {batch_size}"


def _relative(rows: list[Mapping[str, Any]], field: str) -> dict[str, float]:
    """Divide a field by that of optax's SAM; the time of a schedule is a mean over its steps."""
    values = {
        row["name"]: row[field] if field in row else row["compiled"][field]
        for row in rows
        if row["compiled"] is not None
    }
    to_sam = {name: value / values[BASELINE] for name, value in values.items()}
    found = {name: to_sam[name] for name in _STEPS if name in to_sam}
    if field != "ratio":
        return found | {_PROGRAMS[name]: to_sam[name] for name in _PROGRAMS if name in to_sam}
    for how, refresh, between in _SCHEDULES:
        if refresh in to_sam and between in to_sam:
            for p in PERIODS:
                found[f"xsam, p={p} q=5{how}"] = mean_of(p, to_sam[refresh], to_sam[between])
    return found


def _with_command(record: Mapping[str, Any], rows: str, said: str = "") -> str:
    parts = [f"```sh\n{record['command']}\n```", said, rows]
    return "\n\n".join(part for part in parts if part)


def _seconds_of_sam(folder: Path, network: str) -> float:
    (file,) = folder.glob(f"*-{network}-*.json")
    (seconds,) = (row["seconds"] for row in read_json(file)["rows"] if row["name"] == "sam")
    return float(seconds)
