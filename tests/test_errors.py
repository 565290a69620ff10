"""Errors list every problem and survive the border between processes."""

from __future__ import annotations

import contextlib
import io
import pickle

import pytest

from xdiffda.errors import InputError, ModelError, Problem, StorageError, XdiffdaError, raise_if

NAN = Problem("3 NaN", "finite values", "ds.fillna(0)")
UNITS = Problem("units 'm'", "K", 'ds["t"].attrs["units"] = "K"')


def test_all_problems_are_listed_with_their_repairs():
    error = InputError([NAN, UNITS], what="background")
    assert str(error).splitlines() == [
        "background: 2 problems",
        "  1. found 3 NaN; needed finite values; repair: `ds.fillna(0)`",
        """  2. found units 'm'; needed K; repair: `ds["t"].attrs["units"] = "K"`""",
    ]
    assert error.problems == (NAN, UNITS)


def test_a_problem_without_repair_promises_none():
    assert str(Problem("a", "b", "")) == "found a; needed b"


def test_errors_are_value_errors():
    assert all(issubclass(e, ValueError) for e in (XdiffdaError, StorageError, ModelError))
    with pytest.raises(ValueError, match="obs: 1 problem"):
        raise InputError([NAN], what="obs")


def test_input_error_survives_another_process():
    error = InputError([NAN, UNITS], what="background")
    again = pickle.loads(pickle.dumps(error))
    assert (again.problems, again.what, str(again)) == (error.problems, error.what, str(error))


def test_raise_if_is_silent_without_problems():
    raise_if([], what="background")
    with pytest.raises(InputError, match=r"repair: `ds.fillna\(0\)`"):
        raise_if([NAN], what="background")


def test_an_input_error_without_problems_is_a_mistake():
    with pytest.raises(TypeError, match="at least one Problem"):
        InputError([], what="background")


def test_notebooks_show_the_call_and_the_message_only():
    """IPython asks an error how it is shown; frames inside the package are left out."""
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    shell.run_cell("from xdiffda.errors import raise_if, Problem")
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        shell.run_cell('x = 1\nraise_if([Problem("3 NaN", "none", "ds.fillna(0)")], what="obs")')
    assert shown.getvalue().strip().splitlines() == [
        'line 2: raise_if([Problem("3 NaN", "none", "ds.fillna(0)")], what="obs")',
        "InputError: obs: 1 problem",
        "  1. found 3 NaN; needed none; repair: `ds.fillna(0)`",
    ]
