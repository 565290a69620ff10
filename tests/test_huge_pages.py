"""Long runs start again with large memory pages, once, and only where that helps."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from xdiffda import options as _huge_pages

PROGRAM = """
import os, sys
from xdiffda import options as _huge_pages
_huge_pages._helps = lambda: {helps}
print("start", flush=True)
_huge_pages.request_huge_pages()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
"""


def run(*, helps: bool, **environment: str) -> tuple[int, list[str]]:
    kept = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", PROGRAM.format(helps=helps), "--out", "a b"]
    with subprocess.Popen(
        command, env=kept | environment, stdout=subprocess.PIPE, text=True
    ) as process:
        lines = process.communicate()[0].splitlines()
    assert process.returncode == 0
    return process.pid, lines


def test_starts_again_once_as_the_same_process():
    pid, lines = run(helps=True)
    assert lines == ["start", "start", f"{pid} {_huge_pages.TUNABLE} ['--out', 'a b']"]


@pytest.mark.parametrize(("helps", "environment"), [(True, {"GLIBC_TUNABLES": ""}), (False, {})])
def test_leaves_the_process_alone(helps, environment):
    pid, lines = run(helps=helps, **environment)
    assert lines == ["start", f"{pid} {environment.get('GLIBC_TUNABLES')} ['--out', 'a b']"]


def test_needs_glibc_and_pages_on_request(monkeypatch, tmp_path):
    policy = tmp_path / "enabled"
    monkeypatch.setattr(_huge_pages, "_POLICY", policy)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    assert not _huge_pages._helps()  # no such file
    for text, helps in {"always [madvise] never": True, "[always] madvise never": False}.items():
        policy.write_text(text)
        assert _huge_pages._helps() is helps
    for version in (("glibc", "2.31"), ("", "")):
        monkeypatch.setattr("platform.libc_ver", lambda version=version: version)
        policy.write_text("always [madvise] never")
        assert not _huge_pages._helps()


KEPT = """
from pathlib import Path
import numpy as np
from xdiffda import options as _huge_pages

def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024

before = resident()
for _ in range(2):
    block = np.ones(256 << 20, np.uint8)
    del block
    print((resident() - before) >> 20)
    _huge_pages.return_large_blocks()
"""


def test_nothing_is_asked_of_an_allocator_that_keeps_nothing(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("asked"))
    _huge_pages.return_large_blocks()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_large_blocks_are_returned_when_asked_for():
    environment = os.environ | {"GLIBC_TUNABLES": _huge_pages.TUNABLE}
    run = subprocess.run(
        [sys.executable, "-c", KEPT], env=environment, capture_output=True, text=True, check=True
    )
    kept, returned = map(int, run.stdout.split())
    assert returned < 32  # the second block, which the first one's memory could have held
    if platform.libc_ver()[1] >= "2.35":
        assert kept > 200  # or there was nothing to return
