"""The tables of ``models/speedy/skill-*.json``, as the evaluation wrote them.

Columns are shown where the file has them: files of earlier evaluations have fewer.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SHOWN = {
    "z500": "geopotential@500",
    "T850": "temperature@850",
    "u300": "u_component_of_wind@300",
    "q850": "specific_humidity@850",
    "T2m": "2m_temperature",
}
BY_CHANNEL = {"channel_spread_skill": "spread / skill", "channel_outer_ranks": "outer ranks"}
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7")


def reports() -> dict[str, dict[str, Any]]:
    """Name of the observation errors -> report, of the bundled model."""
    from xdiffda.priors.registry import models_folder

    files = sorted((models_folder() / "speedy").glob("skill-*.json"))
    return {path.stem.removeprefix("skill-"): json.loads(path.read_text()) for path in files}


def skill(name: str = "") -> str:
    """One table for each number of columns; ``name`` chooses one evaluation."""
    parts = []
    for errors, report in reports().items():
        if name and errors != name:
            continue
        parts.append(_tables_of(report))
    return "\n".join(parts)


def sweep(name: str) -> str:
    """The tables of a sweep of settings on the validation times: ``<name>.json``."""
    from xdiffda.priors.registry import models_folder

    return _tables_of(json.loads((models_folder() / "speedy" / f"{name}.json").read_text()))


def _tables_of(report: Mapping[str, Any]) -> str:
    parts = [_about(report), ""]
    with_cases = len(_counts(report)) > 1
    for columns, rows in report["table"].items():
        shown = _table(rows, with_cases=with_cases)
        parts += [f"**{columns} columns observed**", "", shown, ""]
    return "\n".join(parts)


def _counts(report: Mapping[str, Any]) -> set[int]:
    """Numbers of analysis times in the rows of all tables."""
    every = (row for rows in report["table"].values() for row in rows.values())
    return {row.get("n_case", report.get("n_case")) for row in every}


def _about(report: Mapping[str, Any]) -> str:
    words = {"quarter": "a quarter of the background's error, channel by channel"}
    counts = _counts(report)
    kind = "validation" if report.get("part") == "validation" else "analysis"
    cases = f"{counts.pop()} {kind} times" if len(counts) == 1 else f"{kind} times".capitalize()
    between = f"{cases} from {report['first']} to {report['last']}"
    if report["first"] == report["last"]:
        between = f"One {kind} time, {report['first']},"
    remark = f" {report['remark']}." if "remark" in report else ""
    return (
        f"{between} of the nature run's calendar. Observation errors: "
        f"{words.get(report['errors'], report['errors'])}.{remark}{earlier(report)}"
    )


def earlier(report: Mapping[str, Any]) -> str:
    """A remark where the bundled model was another one when a result was made, or nothing."""
    if report.get("weights") == _current():
        return ""
    return f" **Made with the weights of an earlier version** (`{report.get('weights')}`)."


@functools.cache
def _current() -> str:
    from xdiffda.experiments.osse.evaluate import weights_digest

    return weights_digest("speedy")


def _table(rows: Mapping[str, Mapping[str, Any]], *, with_cases: bool) -> str:
    every = list(rows.items())
    columns = {
        "RMSE": lambda n, r: f"**{r['rmse']:.3f}**",
        **{
            short: lambda n, r, c=c: _number(r.get("channels", {}).get(c))
            for short, c in SHOWN.items()
        },
        "worst": lambda n, r: f"{r['worst']:.3f} ({_short(r['worst_channel'])})",
        "CRPS": lambda n, r: f"{r['crps']:.3f}",
        "spread / skill": lambda n, r: _of_ensemble(n, r, "spread_skill"),
        "outer ranks": lambda n, r: _of_ensemble(n, r, "outer_ranks"),
        "channel by channel": lambda n, r: _span(r),
        "chi-square of ranks (p)": lambda n, r: _flat_ranks(r),
        "calls": lambda n, r: r.get("evaluations") or "-",
        "seconds": lambda n, r: f"{r['seconds']:.1f}",
        "members": lambda n, r: r["members"] if r.get("members", 1) > 1 else "-",
        "cases": lambda n, r: f"{r['n_case']}" if "n_case" in r else "-",
    }
    cells = {head: [str(make(*row)) for row in every] for head, make in columns.items()}
    empty = {head for head, column in cells.items() if set(column) == {"-"}}
    if not with_cases:  # said above the tables
        empty.add("cases")
    cells = {head: column for head, column in cells.items() if head not in empty}
    body = [[name, *(column[i] for column in cells.values())] for i, name in enumerate(rows)]
    return _markdown(["method", *cells], body)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _folded(title: str, table: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{table}\n\n</details>\n"


def _of_ensemble(name: str, row: Mapping[str, Any], score: str) -> str:
    ensemble = row.get("members", 2) > 1 and row["spread_skill"] > 0
    return _number(row.get(score), 2) if ensemble else "-"


def _span(row: Mapping[str, Any]) -> str:
    """Least and greatest share of the outer ranks among variables and levels."""
    every = row.get("channel_outer_ranks")
    return f"{min(every.values()):.2f} to {max(every.values()):.2f}" if every else "-"


def _flat_ranks(row: Mapping[str, Any]) -> str:
    return f"{row['rank_chi_square']:.0f} ({row['rank_p']:.1g})" if "rank_p" in row else "-"


def _short(channel: str) -> str:
    """A channel by the first alias of its variable: ``u 100``."""
    from xdiffda.state.variables import VARIABLES

    name, _, level = channel.partition("@")
    return f"{VARIABLES[name].aliases[0]} {level}".strip()


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def skill_channels(name: str = "") -> str:
    """RMSE of every variable and level, one table for each number of columns."""
    parts = []
    for errors, report in reports().items():
        if name and errors != name:
            continue
        for columns, rows in report["table"].items():
            methods = {m: row["channels"] for m, row in rows.items() if "channels" in row}
            channels = list(next(iter(methods.values())))
            lines = [[f"`{c}`", *(_number(v.get(c)) for v in methods.values())] for c in channels]
            table = _markdown(["channel", *methods], lines)
            parts.append(_folded(f"{columns} columns observed", table))
    return "\n".join(parts)


def skill_figure(name: str = "quarter") -> str:
    """RMSE against the number of observed columns, as a drawing inside the page."""
    table = reports().get(name, {"table": {}})["table"]
    count = {columns: int(columns) for columns in table}
    if len(count) < 2:
        return ""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    methods = dict.fromkeys(m for rows in table.values() for m in rows)
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "xdiffda", "font.size": 9}):
        figure, axes = plt.subplots(1, 2, figsize=(8.6, 4.2), layout="constrained", sharex=True)
        for colour, method in zip(COLOURS * 3, methods, strict=False):
            rows = [(count[c], rows[method]) for c, rows in table.items() if method in rows]
            if len(rows) < 2:
                continue
            for ax, score in zip(axes, ("rmse", "crps"), strict=True):
                ax.plot(
                    *zip(*((n, r[score]) for n, r in rows), strict=True),
                    "o-",
                    color=colour,
                    label=method,
                    linewidth=1.3,
                    markersize=4,
                )
        for ax, label in zip(axes, ("RMSE of the mean", "fair CRPS"), strict=True):
            ax.set(xscale="log", xlabel="observed columns", title=f"{label} / background's")
            ax.set_ylim(0, 1.25)
            ax.set_xticks(sorted(count.values()), [f"{n:,}" for n in sorted(count.values())])
            ax.minorticks_off()
            ax.grid(color="0.9", linewidth=0.6)
            ax.spines[["top", "right"]].set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        return drawing(figure)


def drawing(figure: Any) -> str:
    """A figure as a drawing inside the page; closes it."""
    from matplotlib import pyplot as plt

    text = io.StringIO()
    figure.savefig(text, format="svg")
    plt.close(figure)
    drawn = text.getvalue()
    lines = drawn[drawn.index("<svg") :].splitlines()
    return "\n".join(["```{raw} html", *(line for line in lines if line.strip()), "```"])


def skill_ensembles() -> str:
    """Spread over error and outer ranks of guided sampling, channel by channel: drawn and told."""
    rows, notes = _ensembles()
    if not rows:
        return ""
    told = "\n".join(f"- {_told(n, row)}" for n, row in rows.items())
    return "\n\n".join([_ensembles_figure(rows), told, *notes, _ensembles_table(rows)])


def _ensembles() -> tuple[dict[int, dict[str, Any]], list[str]]:
    """By number of columns, rows that tell it by channel; the usual table goes first."""
    from xdiffda.priors.registry import models_folder

    folder = models_folder() / "speedy"
    rows: dict[int, dict[str, Any]] = {}
    notes = set()
    for path in (folder / "skill-quarter.json", *sorted(folder.glob("required-*.json"))):
        report = json.loads(path.read_text())
        for columns, table in report["table"].items():
            row = table.get("guided, warm start, 8 evaluations", {})
            if int(columns) not in rows and BY_CHANNEL.keys() <= row.keys():
                rows[int(columns)] = row
                notes.add(earlier(report).strip())
    return dict(sorted(rows.items())), sorted(notes - {""})


def _told(columns: int, row: Mapping[str, Any]) -> str:
    parts = []
    for name, title in BY_CHANNEL.items():
        every = row[name]
        least, most = (pick(every, key=every.get) for pick in (min, max))
        inside = sum(0.9 <= value <= 1.1 for value in every.values())
        parts.append(
            f"{title} from 0.9 to 1.1 in {inside} of {len(every)}, least {every[least]:.2f} "
            f"({_short(least)}), greatest {every[most]:.2f} ({_short(most)})"
        )
    return f"{columns:,} columns: {'; '.join(parts)}."


def _ensembles_table(rows: Mapping[int, Mapping[str, Any]]) -> str:
    kinds = {"channel_crps": "CRPS", **BY_CHANNEL}
    shown = {
        f"{title}, {n:,}": row[name]
        for name, title in kinds.items()
        for n, row in rows.items()
        if name in row
    }
    channels = list(next(iter(rows.values()))["channel_spread_skill"])
    lines = [[f"`{c}`", *(_number(v.get(c), 2) for v in shown.values())] for c in channels]
    return _folded("the numbers, by columns", _markdown(["channel", *shown], lines))


def _ensembles_figure(rows: Mapping[int, Mapping[str, Any]]) -> str:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    channels = list(next(iter(rows.values()))["channel_spread_skill"])
    names = [c.partition("@")[0] for c in channels]
    groups = [[i for i, own in enumerate(names) if own == name] for name in dict.fromkeys(names)]
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "xdiffda", "font.size": 9}):
        figure, axes = plt.subplots(2, 1, figsize=(8.6, 5.0), layout="constrained", sharex=True)
        for ax, (score, title) in zip(axes, BY_CHANNEL.items(), strict=True):
            ax.axhspan(0.9, 1.1, color="0.93", zorder=0)
            ax.axhline(1, color="0.6", linewidth=0.8)
            for (n, row), colour, mark in zip(rows.items(), COLOURS[1:], "os^Dv", strict=False):
                for group in groups:  # levels of one variable are joined
                    values = [row[score].get(channels[i]) for i in group]
                    ax.plot(
                        group,
                        values,
                        marker=mark,
                        color=colour,
                        linewidth=1,
                        markersize=3.5,
                        label=f"{n:,} columns" if group is groups[0] else None,
                    )
            ax.set_title(title, loc="left")
            ax.spines[["top", "right"]].set_visible(False)
            for group in groups[1:]:
                ax.axvline(group[0] - 0.5, color="0.85", linewidth=0.6)
        axes[1].set_xticks(range(len(channels)), [_short(c) for c in channels], rotation=90)
        axes[1].tick_params(axis="x", labelsize=7.5)
        axes[1].margins(x=0.02)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        return drawing(figure)
