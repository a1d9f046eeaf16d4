"""What the tests of command lines share."""

import sys
from collections.abc import Callable, Iterator

import pytest

from experiments.data import tfds as tfds_source

Fails = Callable[[Callable[[], None], list[str]], str]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave the programs' tests out of the library's coverage; measuring takes time."""
    item.add_marker(pytest.mark.no_cover)


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run a command that must end with status 2 and one line on stderr; return the line."""

    def run(main: Callable[[], None], arguments: list[str]) -> str:
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err

    return run


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep compiled programs for the processes that the tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
        yield


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for data sets neither on the network nor in the home folder."""
    monkeypatch.setattr(tfds_source, "reachable", lambda url: False)
    monkeypatch.setenv("TFDS_DATA_DIR", "no-such-directory")
