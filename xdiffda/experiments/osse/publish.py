"""Copy the skill tables, shortened, into the README between their markers, and into the card.

python -m xdiffda.experiments.osse publish --readme README.md
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from xdiffda.experiments.osse.evaluate import weights_digest
from xdiffda.experiments.osse.tables import short
from xdiffda.priors.registry import models_folder

LONG = ("channel", "ranks")
"""Beginnings of the names of scores that are too long for a card."""


def publish(readme: str | Path, *, model: str = "speedy") -> None:
    """Replace ``<!-- skill:NAME --> ... <!-- /skill -->`` by ``skill-NAME.json``, shortened.

    The summary of every ``skill-*.json`` goes into ``card.json`` under ``skill``.

    Parameters
    ----------
    readme : path
        A Markdown file with markers.
    model : str
        Bundled model whose tables are taken.

    Raises
    ------
    FileNotFoundError
        If a marker names a table that was not made.
    """
    folder = models_folder() / model
    text = Path(readme).read_text()
    card = json.loads((folder / "card.json").read_text())
    card["skill"] = {}
    reports = {
        path.stem.removeprefix("skill-"): json.loads(path.read_text())
        for path in sorted(folder.glob("skill-*.json"))
    }
    for name, report in reports.items():
        card["skill"][name] = {
            columns: {
                row: {k: v for k, v in scores.items() if not k.startswith(LONG)}
                for row, scores in rows.items()
            }
            for columns, rows in report["table"].items()
        }

    def table(found: re.Match[str]) -> str:
        name = found[1]
        if name not in reports:
            raise FileNotFoundError(f"{folder / f'skill-{name}.json'}: the table was not made")
        report = reports[name]
        made_by = report.get("weights")
        earlier = (
            ""
            if made_by == weights_digest(model)
            else (f"\nMade with the weights of an earlier version (`{made_by}`).\n")
        )
        return f"<!-- skill:{name} -->\n{short(report)}{earlier}<!-- /skill -->"

    text = re.sub(r"<!-- skill:([\w-]+) -->.*?<!-- /skill -->", table, text, flags=re.DOTALL)
    for path, content in ((Path(readme), text), (folder / "card.json", json.dumps(card, indent=1))):
        temporary = path.with_suffix(".tmp")
        temporary.write_text(content)
        os.replace(temporary, path)
