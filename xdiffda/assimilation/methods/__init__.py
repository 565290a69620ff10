"""The methods behind `assimilate`: each turns one analysis time into members of the analysis."""

from __future__ import annotations

from xdiffda.assimilation.methods.base import AnalysisTime, Drawn, Method
from xdiffda.assimilation.methods.guided import Guided
from xdiffda.assimilation.methods.interpolation import Interpolation
from xdiffda.assimilation.methods.letkf import LETKF
from xdiffda.assimilation.methods.optimal_interpolation import OptimalInterpolation
from xdiffda.assimilation.methods.repaint import RePaint
from xdiffda.assimilation.methods.three_d_var import ThreeDVar
from xdiffda.errors import InputError, Problem

__all__ = [
    "LETKF",
    "METHODS",
    "AnalysisTime",
    "Drawn",
    "Guided",
    "Interpolation",
    "Method",
    "OptimalInterpolation",
    "RePaint",
    "ThreeDVar",
    "as_method",
    "method_class",
]

METHODS: dict[str, type[Method]] = {
    "guided": Guided,
    "repaint": RePaint,
    "3dvar": ThreeDVar,
    "oi": OptimalInterpolation,
    "letkf": LETKF,
    "interpolation": Interpolation,
}
"""All that the rest of the package knows of the methods; a new one is a row more."""


def method_class(name: str) -> type[Method]:
    """The class behind a name.

    Raises
    ------
    InputError
        If there is no such method.
    """
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    problem = Problem(
        f"method={name!r}", f"one of {', '.join(METHODS)}", 'assimilate(obs, method="guided")'
    )
    raise InputError([problem], what="settings of assimilate")


def as_method(method: str | Method) -> Method:
    """The object that a name stands for, with its default settings; an object as it is.

    Raises
    ------
    InputError
        If there is no such method.

    Examples
    --------
    >>> as_method("3dvar") == ThreeDVar()
    True
    """
    return method if isinstance(method, Method) else method_class(method)()
