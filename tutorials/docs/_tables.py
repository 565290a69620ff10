"""Tables and numbers that pages take from the code and the model's files when they are built.

Every function returns Markdown; `MADE` names those that a page can ask for by
``{made} NAME``, `substitutions` the values it can write as ``{{ name }}``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import _architecture
import _experiments
from _gallery import gallery
from _skill import drawing, earlier, skill, skill_channels, skill_ensembles, skill_figure, sweep

from xdiffda.priors import registry
from xdiffda.storage.model_folder import read_card


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown table; bars inside cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def code(words: Iterable[object]) -> str:
    """Words as inline code, separated by commas."""
    return ", ".join(f"`{word}`" for word in words)


def first_line(thing: object) -> str:
    """First line of a docstring, with names as inline code."""
    return (inspect.getdoc(thing) or "").partition("\n")[0].replace("`", "").rstrip(".")


def variables(where: str) -> str:
    """Variables of a state on ``levels`` or at the ``surface``, and their other names."""
    from xdiffda.state.variables import VARIABLES

    return _variables(v for v in VARIABLES.values() if v.on_levels == (where == "levels"))


def derived() -> str:
    """What can be observed besides."""
    from xdiffda.observations import KNOWN
    from xdiffda.state.variables import VARIABLES

    return _variables(v for name, v in KNOWN.items() if name not in VARIABLES)


def _variables(every: Iterable[Any]) -> str:
    rows = [
        (
            f"`{v.name}`" + (f" ({v.role})" if v.role != "state" else ""),
            f"`{v.units}`",
            "; ".join(filter(None, (code(v.aliases), v.standard_name and f"*{v.standard_name}*"))),
            f"{v.default_error_std:.4g}",
            f"{v.valid_range[0]:g} to {v.valid_range[1]:g}",
        )
        for v in every
    ]
    head = ("name", "unit", "aliases; *standard name*", "default error", "plausible")
    return table(head, rows)


def axes() -> str:
    """Names under which dimensions and coordinates are found."""
    from xdiffda.state import coordinates as _coordinates

    standard: dict[str, list[str]] = {}
    for word, name in _coordinates._STANDARD_NAMES.items():
        standard.setdefault(name, []).append(word)
    rows = [
        (f"`{name}`", code(words), code(standard.get(name, ())))
        for name, words in _coordinates._NAMES.items()
    ]
    return table(("axis", "names understood", "standard names"), rows)


def tidy() -> str:
    """Columns of a table of observations."""
    from xdiffda.observations.forms import OPTIONAL, TIDY_NAMES

    needed = ("variable", "value", "lat", "lon")
    rows = [
        (
            f"`{name}`",
            code(words),
            "yes" if name in needed else "no" if name in OPTIONAL else "no, but see below",
        )
        for name, words in TIDY_NAMES.items()
    ]
    return table(("column", "names understood", "needed"), rows)


def units() -> str:
    """Spellings of units, by the unit they are converted to."""
    from xdiffda.state import units as _units

    rows = [
        (unit, ", ".join(f"`{word}`" for word in words)) for unit, words in _units._KNOWN.items()
    ]
    return table(("converted to", "understood without asking pint"), rows)


def height_errors() -> str:
    """Default errors of geopotential by level."""
    from xdiffda.observations.error_std import HEIGHT_ERROR_M

    ordered = sorted(HEIGHT_ERROR_M.items(), reverse=True)
    return table(["hPa", *(str(p) for p, _ in ordered)], [["m", *(f"{e:g}" for _, e in ordered)]])


def grids() -> str:
    """Grids that have a name."""
    from xdiffda.state.grid import NAMED_GRIDS

    rows = [(f"`{name}`", make()) for name, make in NAMED_GRIDS.items()]
    return table(("name", "rows x meridians"), rows)


def methods() -> str:
    """Methods of assimilate."""
    from xdiffda.assimilation.methods import METHODS

    return table(
        ("`method`", "its settings", "what it does"),
        [
            (f"`{name}`", f"`xdiffda.{method.__name__}`", first_line(method))
            for name, method in METHODS.items()
        ],
    )


def models() -> str:
    """Bundled models."""
    found = registry.models()
    rows = [
        (f"`{name}`", *(found[field].sel(model=name).item() for field in found.data_vars))
        for name in found.model.values
    ]
    return table(("name", *map(str, found.data_vars)), rows)


def denoising() -> str:
    """What the network adds to the Gaussian estimate, by noise level."""
    share = _card()["denoising_error_over_gaussian"]
    return table(
        ["sigma", *share], [["error variance / Gaussian", *(f"{v:.2f}" for v in share.values())]]
    )


def training() -> str:
    """How the networks of the bundled model were trained."""
    runs = _card()["training"]
    names = ("steps", "batch", "rollout", "seed")
    rows = [
        (
            task,
            *(run.get(name, "") for name in names),
            f"{run['optimiser']['peak']:g}",
            f"{run['optimiser']['ema']:g}",
        )
        for task, run in runs.items()
    ]
    return table(("network", *names, "peak learning rate", "averaging"), rows)


def protocol() -> str:
    """The protocol that `verify` writes into its results."""
    from xdiffda.verify import PROTOCOL

    return f"> {PROTOCOL}"


def extras() -> str:
    """Optional dependencies, from pyproject.toml."""
    import tomllib
    from pathlib import Path

    path = Path(__file__).resolve().parents[2] / "pyproject.toml"
    found = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return table(("extra", "brings"), [(f"`{k}`", code(v)) for k, v in found.items()])


def command_line() -> str:
    """Every command with its arguments and options."""
    import typer

    from xdiffda.cli import app

    parts = []
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        usage = [p.name.upper() for p in command.params if p.param_type_name == "argument"]
        parts += [f"**`{' '.join(['xdiffda', name, *usage])}`**", "", command.help or "", ""]
        rows = [
            (code(p.opts), _default(p), p.help or "")
            for p in command.params
            if p.param_type_name == "option"
        ]
        if rows:
            parts += [table(("option", "default", ""), rows), ""]
    return "\n".join(parts)


def _default(parameter: Any) -> str:
    value = parameter.default
    return "needed" if parameter.required else "" if value is None else f"`{value}`"


def _card() -> dict[str, Any]:
    return read_card(registry.model_folder("speedy"))


def substitutions() -> dict[str, str]:
    """Values for the running text."""
    from xdiffda.assimilation.assimilate import assimilate
    from xdiffda.assimilation.methods import Guided, RePaint, ThreeDVar

    card, guidance, repaint = _card(), Guided().guidance, RePaint()
    parameters = inspect.signature(assimilate).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    levels = card["levels"]
    n_channel = sum(len(levels) if name in _on_levels() else 1 for name in card["variables"])
    found: dict[str, Any] = {
        "n_steps": guidance.n_steps,
        "n_members": defaults["n_members"],
        "max_batch": Guided().max_batch,
        "gross_check": defaults["quality"].gross_check,
        "window": defaults["window"],
        "sigma_max": guidance.sigma_max,
        "sigma_min": guidance.sigma_min,
        "sigma_start": guidance.sigma_start,
        "tolerance": guidance.solver.tolerance,
        "tolerance_3dvar": ThreeDVar().solver.tolerance,
        "repaint_levels": repaint.n_levels,
        "repaint_jump": repaint.jump_length,
        "repaint_resamplings": repaint.resamplings,
        "repaint_evaluations": f"{repaint.evaluations:,}",
        "mask_sigma": repaint.mask_sigma,
        "speedy_grid": card["grid"],
        "speedy_channels": n_channel,
        "speedy_levels": ", ".join(map(str, levels)),
        "speedy_parameters": f"{card['parameters']:,}",
        "speedy_data": card["data"],
        "speedy_licence": card["licence"],
    }
    return {name: f"{v:g}" if isinstance(v, float) else str(v) for name, v in found.items()}


def _on_levels() -> set[str]:
    from xdiffda.state.variables import VARIABLES

    return {name for name, variable in VARIABLES.items() if variable.on_levels}


def figure(notebook: str) -> str:
    """The first figure of a tutorial, as committed."""
    import html
    from pathlib import Path

    path = Path(__file__).resolve().parents[1] / f"{notebook}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    images = (
        output["data"]["image/png"]
        for cell in cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    )
    data, name = "".join(next(images)).replace("\n", ""), html.escape(notebook)
    return f'```{{raw}} html\n<img alt="{name}" src="data:image/png;base64,{data}">\n```'


def sbc() -> str:
    """Simulation-based calibration of the bundled model."""
    from xdiffda.experiments.osse.sbc import markdown

    reports = _sbc_reports()
    notes = sorted({earlier(report).strip() for report in reports.values()} - {""})
    return "\n\n".join([markdown(reports).rstrip(), *notes])


def sbc_figure() -> str:
    """Its first rank histograms, as a drawing inside the page."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from xdiffda.experiments.osse.sbc import figure

    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "xdiffda"}):
        return drawing(figure(next(iter(_sbc_reports().values()))))


def _sbc_reports() -> dict[str, dict[str, Any]]:
    from xdiffda.experiments.osse.sbc import FILE

    return json.loads((registry.models_folder() / "speedy" / FILE).read_text())


def card_json() -> str:
    """The model card without what other tables show."""
    hidden = ("skill", "sha256", "training", "denoising_error_over_gaussian")
    kept = {name: value for name, value in _card().items() if name not in hidden}
    return f"```json\n{json.dumps(kept, indent=1)}\n```"


MADE: dict[str, Callable[..., str]] = {
    "axes": axes,
    "card": card_json,
    "command-line": command_line,
    "denoising": denoising,
    "derived": derived,
    "extras": extras,
    "figure": figure,
    "gallery": gallery,
    "grids": grids,
    "height-errors": height_errors,
    "methods": methods,
    "models": models,
    "protocol": protocol,
    "sbc": sbc,
    "sbc-figure": sbc_figure,
    "skill": skill,
    "skill-channels": skill_channels,
    "skill-ensembles": skill_ensembles,
    "skill-figure": skill_figure,
    "sweep": sweep,
    "tidy": tidy,
    "training": training,
    "units": units,
    "variables": variables,
    **_architecture.MADE,
    **_experiments.MADE,
}
