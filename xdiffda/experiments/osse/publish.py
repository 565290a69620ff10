"""Copy the skill tables into the README and the model card, between their markers.

python -m xdiffda.experiments.osse publish --readme README.md
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from xdiffda.experiments.osse.evaluate import weights_digest
from xdiffda.experiments.osse.tables import markdown
from xdiffda.priors.registry import models_folder

LONG = ("channel", "ranks")
"""Beginnings of the names of scores that are too long for a card."""


def publish(readme: str | Path, *, model: str = "speedy") -> None:
    """Replace ``<!-- skill:NAME --> ... <!-- /skill -->`` by the table of ``skill-NAME.json``.

    The summary of every table goes into ``card.json`` under ``skill``.

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

    def table(found: re.Match[str]) -> str:
        name = found[1]
        report = json.loads((folder / f"skill-{name}.json").read_text())
        card["skill"][name] = {
            columns: {
                row: {k: v for k, v in scores.items() if not k.startswith(LONG)}
                for row, scores in rows.items()
            }
            for columns, rows in report["table"].items()
        }
        made_by = report.get("weights")
        earlier = (
            ""
            if made_by == weights_digest(model)
            else (f"\nMade with the weights of an earlier version (`{made_by}`).\n")
        )
        return f"<!-- skill:{name} -->\n{markdown(report)}{earlier}<!-- /skill -->"

    text = re.sub(r"<!-- skill:([\w-]+) -->.*?<!-- /skill -->", table, text, flags=re.DOTALL)
    for path, content in ((Path(readme), text), (folder / "card.json", json.dumps(card, indent=1))):
        temporary = path.with_suffix(".tmp")
        temporary.write_text(content)
        os.replace(temporary, path)
