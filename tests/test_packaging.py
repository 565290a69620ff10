"""What is written twice agrees: pyproject, conda, binder, constraints, README, CI."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest
import yaml
from code_in_pages import needed_packages
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import xdiffda
from xdiffda.options import TUNABLE

# conda-forge's name where it is not PyPI's
CONDA_NAMES = {"dask": "dask-core", "matplotlib": "matplotlib-base", "cf-xarray": "cf_xarray"}
PYTHONS = ("3.11", "3.12", "3.13")
LOCKED_EXTRAS = ("test", "dev", "obs", "train", "interactive")


@pytest.fixture(scope="module")
def project(root: Path) -> dict:
    if not (root / "pyproject.toml").exists():
        pytest.skip("not a checkout: no pyproject.toml beside tests/")
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def requirements_of(project: dict, extras: tuple[str, ...]) -> list[Requirement]:
    """Return the requirements of the core and of extras; those that name xdiffda resolved."""
    out = [Requirement(r) for r in project["dependencies"]]
    for extra in extras:
        for text in project["optional-dependencies"][extra]:
            requirement = Requirement(text)
            if requirement.name == "xdiffda":
                out += requirements_of(project, tuple(requirement.extras))
            else:
                out.append(requirement)
    return out


def constraints(root: Path) -> list[Requirement]:
    lines = (root / ".ci/constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def readme_command(root: Path, purpose: str) -> str:
    run = subprocess.run(
        [sys.executable, root / ".ci/readme_command.py", purpose],
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


def test_environment_file_is_in_step(root: Path, project: dict) -> None:
    listed = yaml.safe_load((root / "environment.yml").read_text())["dependencies"]
    names = dict(line.partition(" ")[::2] for line in listed if isinstance(line, str))
    assert names.pop("python") == project["requires-python"]
    names.pop("pip")
    expected = {}
    for requirement in map(Requirement, project["dependencies"]):
        name = canonicalize_name(requirement.name)
        expected[CONDA_NAMES.get(name, name)] = requirement.specifier
    assert {name: SpecifierSet(spec) for name, spec in names.items()} == expected


def test_binder_is_in_step(root: Path, project: dict) -> None:
    listed = yaml.safe_load((root / "binder/environment.yml").read_text())["dependencies"]
    (python,) = (line.split("=")[1] for line in listed if line.startswith("python"))
    assert Version(f"{python}.0") in SpecifierSet(project["requires-python"])
    post_build = root / "binder/postBuild"
    assert post_build.stat().st_mode & stat.S_IXUSR
    extras, lock = re.search(r'"\.\[([\w,]+)\]" -c (\S+)', post_build.read_text()).groups()
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert (root / lock).exists()
    assert "jupyterlab" in {r.name for r in requirements_of(project, tuple(extras.split(",")))}
    start = root / "binder/start"
    assert start.stat().st_mode & stat.S_IXUSR
    assert TUNABLE in start.read_text() and start.read_text().endswith('exec "$@"\n')
    assert TUNABLE in (root / "tutorials/docs/how-to/jupyter-binder.md").read_text()


def test_binder_installs_what_notebooks_import(root: Path, project: dict) -> None:
    """All but training also runs with what `interactive` brings."""
    post_build = (root / "binder/postBuild").read_text()
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', post_build)
    # written in the how-to page as well
    page = (root / "tutorials/docs/how-to/jupyter-binder.md").read_text()
    assert f'pip install ".[{extras}]"' in page
    for path in [*root.glob("tutorials/*.ipynb"), *root.glob("tutorials/experiments/*.ipynb")]:
        needed = notebook_needs(path, root)
        assert needed - installed_with(project, *extras.split(",")) == set(), path.name
        if not path.name.startswith("06"):
            assert needed - installed_with(project, "interactive") == set(), path.name
        else:
            assert needed - installed_with(project, "interactive") >= {"optax", "grain"}


def notebook_needs(path: Path, root: Path) -> set[str]:
    """Distributions behind the imports of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    known = metadata.packages_distributions()
    return {canonicalize_name(known.get(name, [name])[0]) for name in needed_packages(code, root)}


def installed_with(project: dict, *extras: str) -> set[str]:
    names = {canonicalize_name(r.name) for r in requirements_of(project, extras)}
    return names | {"pandas"} | ({"ipython"} if "jupyterlab" in names else set())  # theirs


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_pin_every_requirement(root: Path, project: dict, python: str) -> None:
    """Exactly one version for each Python, and one that pyproject allows."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    pins: dict[str, list[Version]] = {}
    for pin in constraints(root):
        if pin.marker is None or pin.marker.evaluate(environment):
            (only,) = pin.specifier
            assert only.operator == "=="
            pins.setdefault(canonicalize_name(pin.name), []).append(Version(only.version))
    assert [name for name, versions in pins.items() if len(versions) != 1] == []
    for requirement in requirements_of(project, LOCKED_EXTRAS):
        name = canonicalize_name(requirement.name)
        assert pins[name][0] in requirement.specifier, requirement


def test_both_jax_versions_are_covered(root: Path, project: dict) -> None:
    (jax,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "jax")
    for version in ("0.10.0", "0.10.2", "0.11.0", "0.11.2"):
        assert Version(version) in jax.specifier
    pinned = {str(p.specifier)[2:6] for p in constraints(root) if p.name == "jax"}
    assert pinned == {"0.10", "0.11"}


def test_core_is_free_of_testbed_and_name_traps(project: dict) -> None:
    core = {canonicalize_name(r.name) for r in requirements_of(project, ("test",))}
    assert not core & {"jcm", "dinosaur", "dinosaur-dycore", "graphcast"}


def test_extras(project: dict) -> None:
    assert set(project["optional-dependencies"]) == {
        "cuda",
        "interactive",
        "obs",
        "odb",
        "train",
        "cloud",
        "scale",
        "icechunk",
        "osse",
        "test",
        "docs",
        "dev",
    }
    (eccodeslib,) = (r for r in requirements_of(project, ("obs",)) if r.name == "eccodeslib")
    assert Version("2.47.3") in eccodeslib.specifier
    assert Version("2.48.0") not in eccodeslib.specifier


def test_readme_commands_make_their_own_environment(root: Path, project: dict) -> None:
    demo, test = readme_command(root, "demo"), readme_command(root, "test")
    for command in (demo, test):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert (root / re.search(r" -c (\S+)", command)[1]).exists()
    assert demo.endswith("&& .venv/bin/xdiffda demo")
    assert project["scripts"]["xdiffda"] == "xdiffda.cli:main"
    assert re.search(r"&& \.venv/bin/python -m pytest( -\S+| \d+)*$", test)
    (extra,) = re.search(r"\.\[(\w+)\]", test).groups()
    assert extra in project["optional-dependencies"]


def test_ci_runs_the_readme_command(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    script = root / ".ci/run"
    assert script.stat().st_mode & stat.S_IXUSR
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert 'command="$(python3 .ci/readme_command.py test)"' in text
    assert "pytest -" not in text  # the command itself is written only in the README
    assert 'long="${command##*&& } -m long"' in text  # what that command leaves out
    assert (project["tool"]["pytest"]["ini_options"]["addopts"])[-2:] == ["-m", "not long"]
    for tool in ("ruff check", "ruff format --check", "basedpyright", "lint-imports"):
        assert tool in text


def test_every_module_has_a_layer(root: Path) -> None:
    tools = tomllib.loads((root / "pyproject.toml").read_text())["tool"]
    (contract,) = tools["importlinter"]["contracts"]
    layered = set(re.findall(r"\w+", " ".join(contract["layers"])))
    package = root / "xdiffda"
    modules = {p.stem for p in package.glob("*.py") if not p.stem.startswith("__")}
    modules |= {p.parent.name for p in package.glob("*/__init__.py")}
    assert modules <= layered, f"give a layer to {sorted(modules - layered)} in pyproject.toml"


def test_versions_agree(root: Path) -> None:
    assert Version(xdiffda.__version__).release
    headings = re.findall(r"^## (.+)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0].startswith(xdiffda.__version__)


def test_licence_is_apache_2(root: Path, project: dict) -> None:
    text = (root / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert project["license"] == "Apache-2.0"


def test_coastline_is_in_the_package() -> None:
    assert resources.files("xdiffda.plot").joinpath("coastline_110m.npz").is_file()


def test_top_of_the_repository_is_tidy(root: Path) -> None:
    """The README's neighbours are the usual ones; data and tools live in folders."""
    allowed = {
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "pyproject.toml",
        "environment.yml",
        "CITATION.cff",
        "CONTRIBUTING.md",
    }
    files = {p.name for p in root.iterdir() if p.is_file() and not p.name.startswith(".")}
    assert files <= allowed


def test_the_formatter_is_never_overruled(root: Path) -> None:
    """Where a line reads badly as formatted, the code is cut where a concept ends."""
    overruled = re.compile("fmt" + r":\s*(skip|off)|" + "noqa" + r":\s*E731")
    found = [
        f"{path.relative_to(root)}:{number}"
        for folder in ("xdiffda", "tests", "tutorials", ".ci")
        for path in sorted((root / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if overruled.search(line)
    ]
    assert found == []
    assert overruled.search("x = 1  # fmt" + ": skip")
