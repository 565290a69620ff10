"""Options are checked as a whole before any is applied, and restored after a block."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from xdiffda.errors import InputError
from xdiffda.options import get_options, set_options


def test_a_block_restores_what_was_before():
    before = get_options()
    with set_options(progress=not before.progress, default_model="other"):
        assert get_options().progress is not before.progress
        with set_options(default_model="third"):
            assert get_options().default_model == "third"
        assert get_options().default_model == "other"
    assert get_options() == before


def test_a_block_restores_after_an_error():
    before = get_options()
    with pytest.raises(RuntimeError, match="inside"), set_options(progress=False):
        raise RuntimeError("inside")
    assert get_options() == before


def test_nothing_is_applied_if_one_is_wrong():
    before = get_options()
    with pytest.raises(InputError, match="options: 2 problems") as caught:
        set_options(default_model="fine", progress="yes", cache_dir=3)
    assert get_options() == before
    found = [problem.found for problem in caught.value.problems]
    assert found == ["cache_dir=3", "progress='yes'"]


def test_cache_folder_is_a_path(tmp_path):
    with set_options(cache_dir=str(tmp_path)):
        assert get_options().cache_dir == tmp_path
    with set_options(cache_dir="~/weights"):
        assert get_options().cache_dir == Path.home() / "weights"


def test_cache_folder_cannot_be_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="needed a folder"):
        set_options(cache_dir=tmp_path / "file")


def test_mirror_is_a_folder_an_address_or_none(tmp_path, monkeypatch):
    with set_options(mirror=tmp_path):
        assert get_options().mirror == str(tmp_path)
        with set_options(mirror=""):
            assert get_options().mirror is None
    with pytest.raises(InputError, match=r"mirror=3; needed a folder or an address"):
        set_options(mirror=3)


def test_threads_see_their_own_options_and_leave_the_common_ones(tmp_path):
    """Eight at once: each sees its own folder, whatever the others set meanwhile."""
    before, start = get_options(), threading.Barrier(8)

    def work(i: int) -> bool:
        start.wait()
        with set_options(cache_dir=tmp_path / str(i)):
            start.wait()
            seen = get_options().cache_dir == tmp_path / str(i)
            start.wait()
        return seen and get_options() == before

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert get_options() == before


def test_options_set_for_good_hold_in_other_threads():
    before = get_options()
    set_options(progress=not before.progress)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(get_options).result().progress is not before.progress
        # set in another thread, they are that thread's
        pool.submit(set_options, default_model="other").result()
    assert get_options().default_model == before.default_model
    set_options(progress=before.progress)
    assert get_options() == before
