"""The documentation without building it: links lead somewhere, names exist, nothing is missing."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from code_in_pages import complaints_about, resolve
from places import DOCS, ROOT

MADE_FOLDERS = ("api", "notebooks", "_build")  # see tutorials/docs/.gitignore

if not DOCS.is_dir():
    pytest.skip("not a checkout: no tutorials/docs beside tests/", allow_module_level=True)


def pages() -> list[Path]:
    """Pages that people wrote."""
    found = sorted(DOCS.rglob("*.md"))
    return [p for p in found if p.relative_to(DOCS).parts[0] not in MADE_FOLDERS]


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


PAGES = pages()
TEXT = {name_of(page): page.read_text(encoding="utf-8") for page in PAGES}
BLOCK = re.compile(r"^( *)(`{3,}|:{3,})\{?([\w-]*)\}?([^\n]*)\n(.*?)^\1\2$", re.M | re.S)
every_page = pytest.mark.parametrize("page", TEXT)


def prose(page: str) -> str:
    """Text outside of fenced blocks and inline code."""
    return re.sub(r"(?<!\})`[^`\n]+`", "", BLOCK.sub("", TEXT[page]))


def fenced(page: str, *kinds: str) -> list[tuple[str, str]]:
    """(argument, content) of fenced blocks."""
    return [(m[4].strip(), m[5]) for m in BLOCK.finditer(TEXT[page]) if m[3] in kinds]


@pytest.fixture(scope="module")
def tools() -> Iterator[dict[str, ModuleType]]:
    """The modules that make tables and lists when the site is built."""
    loaded = {}
    for name in ("_skill", "_architecture", "_gallery", "_names", "_experiments", "_tables"):
        spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
        assert spec and spec.loader
        loaded[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded[name])
    yield loaded
    for name in loaded:
        del sys.modules[name]


@pytest.mark.parametrize("page", [p for p, text in TEXT.items() if ">>> " in text])
def test_examples_of_pages_run(page: str) -> None:
    code = "\n".join(content for _, content in fenced(page, "python") if ">>> " in content)
    parsed = doctest.DocTestParser().get_doctest(code, {}, page, page, 0)
    complaints: list[str] = []
    options = doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    found = doctest.DocTestRunner(verbose=False, optionflags=options)
    found.run(parsed, out=complaints.append)
    assert found.tries > 0
    assert not complaints, "".join(complaints)


# ------------------------------------------------------------------ pages and links


def test_every_page_is_in_one_table_of_contents() -> None:
    listed, globs = [], []
    for page in TEXT:
        for _, content in fenced(page, "toctree"):
            entries = [line.strip() for line in content.splitlines()]
            entries = [e for e in entries if e and not e.startswith(":")]
            for entry in entries:
                where = globs if "*" in entry else listed  # copied when the site is built
                where.append((Path(page).parent / entry).as_posix())
    assert sorted(listed) == sorted(set(TEXT) - {"index"})
    assert sorted(globs) == ["notebooks/*", "notebooks/experiments/*"]


def anchors(page: str) -> set[str]:
    """Targets of a page: headings as Sphinx spells them, and explicit ones."""
    text = BLOCK.sub("", TEXT[page])
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    slugs = {re.sub(r"[^\w\- ]", "", t.lower()).strip().replace(" ", "-") for t in titles}
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", text, re.M))


@every_page
def test_links_lead_somewhere(page: str) -> None:
    explicit = {a for other in TEXT for a in re.findall(r"^\(([\w-]+)\)=$", TEXT[other], re.M)}
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        if not path:
            if anchor not in anchors(page) | explicit:
                wrong.append(target)
            continue
        there = (DOCS / page).parent.joinpath(path).resolve()
        other = name_of(there) if there.is_relative_to(DOCS) else ""
        if other not in TEXT or (anchor and anchor not in anchors(other)):
            wrong.append(target)
    wrong += [
        f"ref {t}" for t in re.findall(r"\{ref\}`[^`]*<([^>`]+)>`", TEXT[page]) if t not in explicit
    ]
    for target, _ in fenced(page, "include") + fenced(page, "image"):
        if not (DOCS / page).parent.joinpath(target).exists():
            wrong.append(f"include {target}")
    assert wrong == []


@every_page
def test_pages_are_well_formed(page: str, tools: dict[str, ModuleType]) -> None:
    text = TEXT[page]
    if page != "changelog":  # its title is in the file that it includes
        assert text.startswith("# ")
        assert len(re.findall(r"^# ", BLOCK.sub("", text), re.M)) == 1
    unknown = [kind for _, _, kind, _, _ in BLOCK.findall(text) if kind not in KINDS]
    assert unknown == []
    for what, _ in fenced(page, "made"):
        assert what.split()[0] in {"names", *tools["_tables"].MADE}
    values = tools["_tables"].substitutions()
    assert set(re.findall(r"\{\{ (\w+) \}\}", text)) <= set(values)


KINDS = ("python", "bash", "toctree", "made", "include", "image")


# ------------------------------------------------------------------ names


@pytest.fixture(scope="module")
def described(tools: dict[str, ModuleType]) -> set[str]:
    """Names that have a page of their own."""
    names = tools["_names"]
    every = names.documented(DOCS).items()
    return {f"{home}.{n}" for home, own in every for n in names.described(home, own, DOCS)}


@every_page
def test_names_in_the_text_are_in_the_reference(page: str, described: set[str]) -> None:
    wrong = []
    for name in re.findall(r"\{py:obj\}`([^`]+)`", TEXT[page]):
        resolve(name)
        owner = name.rpartition(".")[0]  # a method stands on the page of its class
        if name not in described and owner not in described:
            wrong.append(name)
    assert wrong == []


def test_every_public_name_is_in_the_reference(tools: dict[str, ModuleType]) -> None:
    names = tools["_names"]
    found = names.documented(DOCS)
    modules = ["xdiffda"]
    parts_of = ("observations", "plot", "plot.explore", "verify", "networks.graphcast")
    modules += [f"xdiffda.{name}" for name in parts_of]
    folder = ROOT / "xdiffda" / "diffusion"
    parts = {f"xdiffda.diffusion.{p.stem}" for p in folder.glob("[!_]*.py")}
    for module in [*modules, *names.ACCESSORS, *sorted(parts)]:
        expected = names.public_names(module)
        assert sorted(found.get(module, [])) == sorted(expected), module
    for module, listed in found.items():
        assert len(set(listed)) == len(listed), module
        for name in listed:
            resolve(f"{module}.{name}")


# ------------------------------------------------------------------ code in pages


@pytest.mark.parametrize("page", [p for p in TEXT if fenced(p, "python")])
def test_python_in_pages_fits_the_code(page: str) -> None:
    for _, code in fenced(page, "python"):
        if ">>> " not in code:
            assert complaints_about(code) == []


def test_code_that_does_not_fit_is_found() -> None:
    assert complaints_about("import xdiffda\nxdiffda.nothing(1)") == ["no xdiffda.nothing"]
    assert complaints_about("ds.diffda.assimilate(obs, n_member=8)") == [
        "xarray.Dataset.diffda.assimilate without ['n_member']"
    ]
    assert complaints_about("from xdiffda.verify import skill_table\nskill_table(s)") == []


def test_commands_in_pages_exist() -> None:
    typer = pytest.importorskip("typer")
    from xdiffda.cli import app

    commands = typer.main.get_command(app).commands
    stages = (ROOT / "xdiffda" / "experiments" / "osse" / "__main__.py").read_text()
    lines = [
        line.strip()
        for page in TEXT
        for _, content in fenced(page, "bash")
        for line in content.splitlines()
    ]
    seen = 0
    for line in lines:
        options = set(re.findall(r"(?<= )--?[a-z][\w-]*", line))
        if found := re.search(r"(?:^|/)xdiffda (\w+)", line):
            known = {o for p in commands[found[1]].params for o in p.opts}
            assert options <= known, line
            seen += 1
        if found := re.search(r"python -m (xdiffda[\w.]+) ?(\w*)", line):
            assert importlib.util.find_spec(found[1])
            if found[1] == "xdiffda.experiments.osse" and found[2]:
                assert f'add_parser("{found[2]}"' in stages
                assert all(f'"{o}"' in stages for o in options - {"-m"}), line
            seen += 1
        for path in re.findall(r"xdiffda/[\w./-]+\.(?:toml|json)", line):
            assert (ROOT / path).exists(), path
    assert seen > 5


# ------------------------------------------------------------------ tables


def test_tables_hold_what_the_code_knows(tools: dict[str, ModuleType]) -> None:
    import json

    from xdiffda.observations import KNOWN
    from xdiffda.priors.registry import models_folder

    tables = tools["_tables"].MADE
    variables = "".join(tables["variables"](where) for where in ("levels", "surface"))
    for name, known in KNOWN.items():
        row = rf"\| `{re.escape(name)}`( \(\w+\))? \| `{re.escape(known.units)}` \|"
        assert len(re.findall(row, variables + tables["derived"]())) == 1, name
    for path in (models_folder() / "speedy").glob("skill-*.json"):
        shown = tables["skill"](path.stem.removeprefix("skill-"))
        for rows in json.loads(path.read_text())["table"].values():
            for name, row in rows.items():
                assert f"| {name} | **{row['rmse']:.3f}** |" in shown
                assert f"| {row['crps']:.3f} |" in shown
    for name in ("axes", "tidy", "units", "grids", "methods", "models", "command-line"):
        lines = [line for line in tables[name]().splitlines() if line.startswith("|")]
        assert len(lines) > 2, name


def test_pictures_of_the_architecture_name_rooms_and_files_that_exist(
    tools: dict[str, ModuleType],
) -> None:
    page, package = tools["_architecture"], ROOT / "xdiffda"
    rooms = {room for row in page.layers() for room in row} - {"__main__"}
    there = {p.parent.name for p in package.glob("*/__init__.py")}
    there |= {p.stem for p in package.glob("*.py") if not p.stem.startswith("__")}
    assert rooms == there
    assert all(page.purpose(room) for room in rooms)
    steps = [*page.OBSERVATION, *page.BACKGROUND, *page.ANALYSIS]
    assert [file for _, file in steps if file and not (package / file).exists()] == []
    for drawn in (page.rooms(), page.paths()):
        assert drawn.count("<svg") == 1
    assert all(f">{room}" in page.rooms() for room in rooms)
    # where the text of the page sends readers, there is something
    named = re.findall(r"`xdiffda/([\w/.]+)`", TEXT["architecture"])
    assert named and all((package / file).exists() for file in named)


def test_gallery_shows_every_figure(tools: dict[str, ModuleType]) -> None:
    from xdiffda import plot

    source = (DOCS / "_gallery.py").read_text(encoding="utf-8")
    drawn = [what.split()[1] for what, _ in fenced("gallery", "made")]
    assert all(hasattr(tools["_gallery"], name) for name in drawn)
    functions = {n for n in plot.__all__ if n.islower() and callable(getattr(plot, n))}
    others = {"add_coastline", "coastline_lines", "loss_curves", "save", "style"}
    shown = {n for n in functions if f"import {n}" in source}
    assert shown - others == functions - others


def test_results_of_experiments_are_there(tools: dict[str, ModuleType]) -> None:
    from xdiffda.experiments import ExperimentConfig

    asked = [what.split() for page in TEXT for what, _ in fenced(page, "made")]
    shown = [
        tools["_tables"].MADE[name](*rest)
        for name, *rest in asked
        if name.startswith("experiment-")
    ]
    assert len(shown) > 8
    begins = ("| columns |", "```{raw} html", "```toml", "- 416 columns: at most half in ")
    assert all(text.startswith(begins) for text in shown)
    config = ExperimentConfig.read(ROOT / "tutorials" / "results" / "experiments.toml")
    table = tools["_tables"].MADE["experiment-losses"]("lead-time")
    assert all(f"| {name} |" in table for name in config.methods)
    figures = {rest[0] for name, *rest in asked if name == "experiment-figure"}
    assert figures == {p.stem for p in (ROOT / "tutorials/results/figures").iterdir()}


def test_a_table_of_cycles_that_another_model_made_says_so(
    tools: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tools["_experiments"]
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    for made_by, stale in (
        (f"prior speedy {page._current()}, ", False),
        ("", False),
        ("prior speedy 0123456789abcdef, ", True),
    ):
        text = f"| columns |\n\nseed 0, {made_by}xdiffda 0.1.0\n"
        (tmp_path / "cycling.md").write_text(text)
        shown = page.experiment_cycles("cycling")
        assert shown.startswith(text.rstrip()) and (shown != text) == stale
        assert ("an earlier version (`0123456789abcdef`)" in shown) == stale


@pytest.mark.parametrize(
    "page", ["how-good", "experiments", "concepts/verification", "concepts/differences"]
)
def test_no_measured_number_is_typed_by_hand(page: str) -> None:
    assert re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", prose(page)) == []
