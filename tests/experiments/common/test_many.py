"""Work on many things: all of it, in order, and an end at what goes wrong first."""

import time

import pytest
from rich.console import Console

from experiments.common import many
from experiments.common.many import bars_shown, for_all


def test_results_are_in_order() -> None:
    values = list(range(1000))
    assert for_all("squaring", lambda x: x * x, values) == [x * x for x in values]
    assert for_all("nothing", lambda x: x, []) == []


def test_the_first_error_counts() -> None:
    def refuse(value: int) -> None:
        if value >= 300:
            raise ValueError(value)

    with pytest.raises(ValueError, match=r"^300$"):
        for_all("refusing", refuse, range(1000))


def test_it_ends_at_once() -> None:
    """After an error, as after Ctrl-C, no thread goes on with its part."""
    done: list[int] = []

    def work(value: int) -> None:
        if value == 0:
            raise KeyboardInterrupt
        time.sleep(0.01)
        done.append(value)

    with pytest.raises(KeyboardInterrupt):
        for_all("working", work, range(6400))
    assert len(done) < 64  # less than one part


@pytest.mark.parametrize(
    ("terminal", "shown", "seen"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_who_sees_a_bar(
    terminal: bool,
    shown: bool,
    seen: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(many, "Console", lambda: Console(force_terminal=terminal, width=80))
    with bars_shown(shown):
        for_all("at work", lambda x: x, range(200))
    assert ("at work" in capsys.readouterr().out) is seen
    for_all("at work", lambda x: x, range(200))
    assert "at work" not in capsys.readouterr().out
