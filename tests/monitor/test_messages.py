"""How problems are told: sentences with one full stop, from the user's own line and not from one of a library."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from models import AnyBatch, ColumnNet, fit, small_monitor
from torch import nn

import lightning_interactions
from lightning_interactions import CallAlert, InteractionsWarning, PhaseEvent, compute_interactions, log_histogram
from lightning_interactions.errors import ArgumentError, BatchError, sentence, warn
from lightning_interactions.monitor.auto import AutoMonitor
from lightning_interactions.monitor.faults import Faults
from lightning_interactions.monitor.run import Run
from lightning_interactions.report.alerts import WandbAlert

PACKAGE = Path(lightning_interactions.__file__).parent
DOUBLED = re.compile(r"(?<!\.)\.\.(?!\.)|[!?]\.|\. \.")


def caught_during(run: Callable[[], object]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [w for w in caught if issubclass(w.category, InteractionsWarning)]


# -- full stops ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it failed", "it failed."), ("it failed.", "it failed."), ("it failed. ", "it failed."), ("why?", "why?"),
        ("no!", "no!"), ("a, b, ...", "a, b, ..."), ("(see x.)", "(see x.)."), ("got '.'", "got '.'."),
    ],
)  # fmt: skip
def test_a_text_ends_with_one_full_stop(text: str, expected: str) -> None:
    assert sentence(text) == expected


def joined_strings() -> Iterator[tuple[str, ast.JoinedStr]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield f"{path.name}:{node.lineno}", node


def ends_a_nested_text(node: ast.JoinedStr) -> bool:
    """Whether the text of an error or a problem is followed by a full stop of ours."""
    names = {"error", "problem", "reason", "message", "text", "why", "note"}
    for part, after in zip(node.values, node.values[1:], strict=False):
        if not isinstance(part, ast.FormattedValue) or part.conversion != -1 or not isinstance(after, ast.Constant):
            continue
        value = part.value.args[0] if isinstance(part.value, ast.Call) and part.value.args else part.value
        named = value.id if isinstance(value, ast.Name) else value.attr if isinstance(value, ast.Attribute) else ""
        if named in names and str(after.value).startswith("."):
            return True
    return False


def test_no_full_stop_is_put_behind_a_text_that_may_have_one() -> None:
    assert ends_a_nested_text(ast.parse('f"{what} failed: {error}. Go on."', mode="eval").body)  # type: ignore[arg-type]
    assert not [place for place, node in joined_strings() if ends_a_nested_text(node)]


def test_a_failed_measurement_is_told_and_kept_with_one_full_stop_each() -> None:
    run = Run(None, follow=False)
    for error in (BatchError("Nothing fits. Give other `players`."), ValueError("broken.")):
        faults = Faults("warn")

        def fail(faults: Faults = faults, error: Exception = error) -> None:
            with faults.contain("measuring", lambda problem: run.failed(3, 30, problem)):
                raise error

        (told,) = caught_during(fail)
        assert str(told.message).startswith("TwoPhaseMonitor: measuring failed: ")
        assert str(told.message).endswith(".")
        for text in (str(told.message), run.events[-1].message):
            assert not DOUBLED.search(text), text
    assert run.events[0].message == (
        "Epoch 3: measuring failed: Nothing fits. Give other `players`. Training is not affected."
    )


def test_an_alert_that_fails_and_a_monitor_that_steps_aside(tmp_path: Path) -> None:
    event = PhaseEvent("boundary", 1, 2, message="Epoch 1 was the boundary.")

    class Failing(WandbAlert):
        def _deliver(self, event: PhaseEvent) -> str | None:
            return "it could not be sent."

    def step_aside() -> None:
        fit(AutoMonitor(verbose=False), tmp_path, model=AnyBatch, data=AnyBatch.strange_batches(), max_epochs=1)

    (sent,) = caught_during(lambda: Failing().send(event))
    (aside,) = caught_during(step_aside)
    assert str(sent.message) == "Failing: it could not be sent. The event was: Epoch 1 was the boundary."
    assert str(aside.message).endswith(".")
    for told in (sent, aside):
        assert not DOUBLED.search(str(told.message))


def test_an_import_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_interactions.__main__ import _import

    def fail(name: str) -> Any:
        raise ImportError("it needs another library. Install it.")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(ArgumentError, match=r"fails: it needs another library\. Install it\.$"):
        _import("model", "a.b.C", None)


# -- the line that is shown ------------------------------------------------------------------------------------------


def test_only_one_function_warns() -> None:
    """All others go through it: whoever calls `warnings.warn` shows a line of this package."""
    # `WarnAlert` tells as from the epoch.
    allowed = {"errors.py": 2, "alerts.py": 1}
    found: dict[str, int] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.rpartition(".")[2] in ("warn_explicit", "rank_zero_warn") or called == "warnings.warn":
                found[path.name] = found.get(path.name, 0) + 1
    assert {name: count for name, count in found.items() if count > allowed.get(name, 0)} == {}


def test_a_warning_is_told_from_the_line_that_called_the_package() -> None:
    line = sys._getframe().f_lineno + 1
    (told,) = caught_during(lambda: compute_interactions(nn.Linear(3, 2), torch.randn(2, 3), torch.tensor([0, 1])))
    assert (told.filename, told.lineno) == (__file__, line)


def test_in_a_training_it_is_the_call_of_fit() -> None:
    told = caught_during(lambda: fit(small_monitor(num_players=12, monitor="never_logged"), max_epochs=1))
    assert len(told) >= 2
    source = Path(models.__file__).read_text(encoding="utf-8").splitlines()
    for one in told:
        assert one.filename == models.__file__
        assert "trainer.fit(" in source[one.lineno - 1]


def test_a_problem_inside_of_the_users_own_code_that_calls_back() -> None:
    """An alert of the user's that uses the package is the user's line."""
    shown = []

    def ask(event: PhaseEvent) -> None:
        shown.extend(
            caught_during(lambda: compute_interactions(nn.Linear(3, 2), torch.randn(2, 3), torch.zeros(2).long()))
        )

    CallAlert(ask).send(PhaseEvent("boundary", 1, 2))
    assert [w.filename for w in shown] == [__file__]


class NoLogger:
    """Takes nothing."""


def test_a_logger_without_histograms_is_told_of_once_from_the_users_line() -> None:
    told = caught_during(lambda: [log_histogram(NoLogger(), "x", [1], [0.0, 1.0], 0) for _ in range(3)])
    assert [w.filename for w in told] == [__file__]
    assert "cannot take histograms." in str(told[0].message)


def test_filters_work_by_category_text_and_module() -> None:
    for options in (
        {"category": InteractionsWarning}, {"message": "something"}, {"module": re.escape(__name__)},
        {"category": UserWarning},
    ):  # fmt: skip
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", **options)  # type: ignore[arg-type]
            warn("something")
        assert not caught, options
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InteractionsWarning, match="something"):
            warn("something")
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("default")
        for text in ("one thing", "one thing", "another"):
            warn(text)
    assert [str(w.message) for w in caught] == ["one thing", "another"]


def run_script(code: str, folder: Path, *options: str) -> str:
    script = folder / "train.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, *options, str(script)],
        capture_output=True, text=True, cwd=folder, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_what_a_script_shows(tmp_path: Path) -> None:
    shown = run_script(
        """
        import torch
        from lightning_interactions import compute_interactions

        compute_interactions(torch.nn.Linear(3, 2), torch.randn(2, 3), torch.tensor([0, 1]), num_players=4)
        """,
        tmp_path,
    )
    own = [line for line in shown.splitlines() if "InteractionsWarning" in line]
    assert len(own) == 1
    assert own[0].startswith(f"{tmp_path / 'train.py'}:5: InteractionsWarning: num_players=4, but")
    assert "site-packages" not in own[0]
    assert str(PACKAGE) not in own[0]


def test_without_any_code_of_the_users_no_path_is_shown(tmp_path: Path) -> None:
    """A console script lies among what is installed."""
    installed = tmp_path / "site-packages"
    installed.mkdir()
    shown = run_script("from lightning_interactions.errors import warn\nwarn('Something is left out.')", installed)
    assert shown.strip() == "lightning_interactions:0: InteractionsWarning: Something is left out."


def test_a_run_without_problems_says_nothing() -> None:
    assert caught_during(lambda: fit(small_monitor(), model=ColumnNet, max_epochs=1)) == []
