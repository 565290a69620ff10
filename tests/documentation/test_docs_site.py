"""The documentation site builds without a warning, and its pages lead somewhere.

Takes two minutes and the extra ``docs``, which `.ci/run` installs before the long tests.
"""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from places import DOCS

NEEDED = ("sphinx", "furo", "myst_nb", "sphinx_autosummary_accessors")
LINK = re.compile(r"<(?:a|img|link|script)\b[^>]*?\s(?:href|src)=\"([^\"]*)\"")
ANCHOR = re.compile(r"<[a-z][^>]*?\s(?:id|name)=\"([^\"]*)\"")

if not DOCS.is_dir():
    pytest.skip("not a checkout: no tutorials/docs beside tests/", allow_module_level=True)


def dead_links(site: Path) -> list[str]:
    """Links between pages of a site, and within a page, that lead nowhere."""
    pages = {p: p.read_text(encoding="utf-8") for p in sorted(site.rglob("*.html"))}
    # the text of scripts and pictures inside pages is no markup
    pages = {
        p: re.sub(r"(<script[^>]*>).*?</script>|base64,[\w+/=]+", r"\1", text, flags=re.DOTALL)
        for p, text in pages.items()
    }
    anchors = {p: {html.unescape(a) for a in ANCHOR.findall(text)} for p, text in pages.items()}
    dead = []
    for page, text in pages.items():
        for link in set(map(html.unescape, LINK.findall(text))):
            if re.match(r"[a-z]+:|//", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            path = path.partition("?")[0]
            there = (page.parent / path).resolve() if path else page
            known = anchors.get(there)
            if not there.exists() or (anchor and known is not None and anchor not in known):
                dead.append(f"{page.relative_to(site)}: {link}")
    return sorted(dead)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built by the command of `conf.py`."""
    for name in NEEDED:
        pytest.importorskip(name, reason='pip install "xdiffda[docs]"')
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(DOCS), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    return out


@pytest.mark.long
def test_site_builds_without_warning_and_its_links_lead_somewhere(site: Path) -> None:
    assert dead_links(site) == []
    objects = (site / "api" / "xdiffda.assimilate.html").read_text(encoding="utf-8")
    assert 'id="xdiffda.assimilate"' in objects


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top">x</h1> <a class="c" href="sub/page.html#here">a</a> <a href="#top">b</a>'
        '<a href="https://example.org/no">c</a> <img src="no.png"> <a href="#no">d</a>'
        '<script>"<a href=\\"script.html\\">"</script>'
    )
    (tmp_path / "sub" / "page.html").write_text(
        '<p id="here">x</p> <a href="../index.html">a</a> <a href="../index.html#no">b</a>'
        '<a href="gone.html">c</a>'
    )
    assert dead_links(tmp_path) == [
        "index.html: #no",
        "index.html: no.png",
        "sub/page.html: ../index.html#no",
        "sub/page.html: gone.html",
    ]
