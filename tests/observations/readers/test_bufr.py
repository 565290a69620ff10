"""BUFR: real files against another decoder, one report made by hand, and damaged bytes."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda import InputError, StorageError, XdiffdaError, read_obs
from xdiffda.observations.readers.air import standard_pressure
from xdiffda.observations.readers.marks import RULES

Find = Callable[[str], Path]


class Bits:
    """Section 4 of a message, element by element."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, value: float | None, scale: int, reference: int, width: int) -> Bits:
        code = 2**width - 1 if value is None else round(value * 10**scale) - reference
        self.text += f"{code:0{width}b}"
        return self


def message(category: int, descriptors: list[int], data: Bits) -> bytes:
    """A message of edition 4 with one subset."""
    body = int(data.text.ljust(-(-len(data.text) // 16) * 16, "0"), 2)
    body = body.to_bytes(-(-len(data.text) // 16) * 2, "big")
    head = bytes([0, 0, 22, 0, 0, 98, 0, 0, 0, 0, category, 0, 0, 29, 0])
    head += (2024).to_bytes(2, "big") + bytes([6, 3, 11, 31, 0])
    codes = [(d // 100000 << 6 | d // 1000 % 100, d % 1000) for d in descriptors]
    template = bytes([0, 0, 7 + 2 * len(codes), 0, 0, 1, 128]) + bytes(b for c in codes for b in c)
    data4 = (4 + len(body)).to_bytes(3, "big") + b"\0" + body
    size = 8 + len(head) + len(template) + len(data4) + 4
    return b"BUFR" + size.to_bytes(3, "big") + b"\4" + head + template + data4 + b"7777"


def placed() -> Bits:
    bits = Bits().add(3, 0, 0, 7).add(894, 0, 0, 10)  # WMO block and station
    for value, width, reference in ((2024, 12, 0), (6, 4, 0), (3, 6, 0), (11, 5, 0), (31, 6, 0)):
        bits.add(value, 0, reference, width)
    return bits.add(52.21, 5, -9000000, 25).add(14.12, 5, -18000000, 26)


PLACE = [1001, 1002, 4001, 4002, 4003, 4004, 4005, 5001, 6001]


def aircraft() -> bytes:
    bits = placed().add(9000, -1, -40, 16).add(228.5, 1, 0, 12)
    return message(4, [*PLACE, 7002, 12001, 11001, 11002], bits.add(270, 0, 0, 9).add(50, 1, 0, 12))


def pilot() -> bytes:
    """Three levels of winds: heights, of which the first and the last have a pressure too."""
    bits = placed().add(3, 0, 0, 8)
    for height, pressure, speed in ((1000, 90000, 5), (2000, None, 10), (3000, 70000, 15)):
        bits.add(height, 0, -1000, 17).add(pressure, -1, 0, 14)
        bits.add(360, 0, 0, 9).add(speed, 1, 0, 12)
    return message(2, [*PLACE, 104000, 31001, 7009, 7004, 11001, 11002], bits)


def of(obs: xr.Dataset, name: str, field: str = "value") -> list:
    return obs[field].values[obs["variable"].values == name].tolist()


def assumed(obs: xr.Dataset) -> dict[str, int]:
    return json.loads(obs.attrs["xdiffda_observations_assumed"])


def test_aircraft_made_by_hand(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\1\r\r\nIUAA01 EDZW\r\r\n" + aircraft())
    obs = read_obs(tmp_path / "a")
    assert of(obs, "temperature") == [228.5] and set(obs["kind"].values) == {"aircraft"}
    np.testing.assert_allclose(obs["level"], 307.42, atol=0.01)  # ICAO Doc 7488, 9,000 m
    np.testing.assert_allclose(of(obs, "u_component_of_wind"), [50.0])
    assert (obs["time"] == np.datetime64("2024-06-03T11:31")).all()
    assert assumed(obs) == {
        "pressures from flight levels through the ICAO standard atmosphere": 1,
    }


def test_heights_of_winds_become_pressures_through_the_sounding(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(pilot())
    obs = read_obs(tmp_path / "a")
    np.testing.assert_allclose(of(obs, "v_component_of_wind"), [-5, -10, -15])
    middle = np.sqrt(900.0 * 700.0)  # ln p is linear in height
    np.testing.assert_allclose(of(obs, "v_component_of_wind", "level"), [900, middle, 700])
    assert set(obs["kind"].values) == {"pilot"}
    assert assumed(obs) == {"pressures from heights through the sounding itself": 1}
    assert float(standard_pressure(np.array(2000.0))) / 100 == pytest.approx(794.95, abs=0.01)


def test_soundings_drift(shared: Find) -> None:
    path = shared("cases/temp_309052_drift.bufr")
    obs = read_obs(path)
    one = obs.isel(obs=np.flatnonzero(obs["variable"].values == "temperature"))
    assert one["level"].values.tolist() == [1000.0, 500.0, 100.0]
    np.testing.assert_allclose(one["lat"], [52.21, 52.26, 52.33], atol=1e-6)
    np.testing.assert_allclose(one["lon"], [14.12, 14.42, 15.22], atol=1e-6)
    times = ["2024-06-03T11:31", "2024-06-03T11:51", "2024-06-03T12:37:40"]
    np.testing.assert_array_equal(one["time"], np.array(times, "datetime64[ns]"))
    launch = read_obs(path, drift=False)
    assert np.unique(launch["lat"].values.round(6)).tolist() == [52.21]
    assert json.loads(launch.attrs["xdiffda_observations_unused"])["drift"] == 3


@pytest.mark.long
@pytest.mark.parametrize("name", ["obs_3day.bufr", "synop_GER_20210516_1200.bufr"])
def test_surface_reports_are_those_of_another_decoder(shared: Find, name: str) -> None:
    pdbufr = pytest.importorskip("pdbufr", reason="pdbufr is not installed")
    path = shared(f"data/bufr/{name}")
    table, obs = pdbufr.read_bufr(str(path), reader="synop"), read_obs(path)
    for word, variable in (
        ("t2m", "2m_temperature"),
        ("td2m", "2m_dewpoint_temperature"),
        ("mslp", "mean_sea_level_pressure"),
        ("pressure", "surface_pressure"),
    ):
        theirs = np.sort(table[word].dropna().to_numpy())
        np.testing.assert_allclose(np.sort(of(obs, variable)), theirs, atol=1e-9)


def test_sixteen_thousand_reports_take_seconds(shared: Find) -> None:
    start = time.process_time()
    obs = read_obs(shared("data/bufr/perf_synop.bufr"))
    assert time.process_time() - start < 10  # 36 s through pdbufr
    assert len(of(obs, "2m_temperature")) == 7802  # 7,803, of which one says 372 K


def test_soundings_of_a_day(shared: Find) -> None:
    obs = read_obs(shared("data/bufr/temp.bufr"))
    assert np.unique(obs["station"]).size > 300
    assert of(obs, "temperature").__len__() == 18742  # as pdbufr finds with a pressure


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(aircraft() + aircraft()[:-3])
    at = len(aircraft())
    with pytest.raises(StorageError, match=f"message 2 at byte {at}, the last message, has"):
        read_obs(path)
    damaged = bytearray(aircraft() * 3)
    damaged[at + 30 : at + 34] = b"\xff\xff\xff\xff"
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match=f"1 of 3 messages cannot.*message 2 at byte {at}"):
        obs = read_obs(path)
    assert len(of(obs, "temperature")) == 2
    monkeypatch.setitem(sys.modules, "earth2bufr", None)  # as if it were not installed
    with pytest.raises(StorageError, match=r'pip install "xdiffda\[obs\]"'):
        read_obs(path)


def test_lists_in_lists_are_not_given_to_the_decoder(tmp_path: Path) -> None:
    """A few kilobytes of them have cost it gigabytes."""
    codes = [*PLACE, 103000, 31001, 101000, 31001, 12001]
    (tmp_path / "a").write_bytes(message(2, codes, placed().add(200, 0, 0, 8)))
    with pytest.warns(UserWarning, match="lists inside of lists"), pytest.raises(InputError):
        read_obs(tmp_path / "a")


@pytest.mark.parametrize("make", [aircraft, pilot])
def test_damaged_bytes(tmp_path: Path, make: Callable[[], bytes]) -> None:
    """Any byte flipped, any end cut: an error of the package or the good part, and soon."""
    whole, draw = make(), np.random.default_rng(0)
    start = time.process_time()
    for trial in range(120):
        data = bytearray(whole * 2)
        for at in draw.integers(0, len(data), 1 + trial % 3):
            data[at] = draw.integers(0, 256)
        (tmp_path / "a").write_bytes(data[: len(data) - (trial % 4 == 0) * draw.integers(40)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert read_obs(tmp_path / "a").sizes["obs"] > 0
            except XdiffdaError as error:
                assert "a" in str(error) and len(str(error)) > 20
    assert time.process_time() - start < 60


def test_bombs_and_pipes(tmp_path: Path) -> None:
    import gzip
    import os

    (tmp_path / "bomb").write_bytes(gzip.compress(b"BUFR\0\0\0\4" + bytes(5 * 10**6), 1))
    with (
        xdiffda.set_options(decompressed_limit="4 MB"),
        pytest.raises(StorageError, match="more than 3.8 MiB.*decompressed_limit='1 GB'"),
    ):
        read_obs(tmp_path / "bomb", format="bufr")
    # what is left when that repair is made is no bomb, and no BUFR either
    with (
        xdiffda.set_options(decompressed_limit="1 GB"),
        pytest.raises(StorageError, match="message 1 at byte 0"),
    ):
        read_obs(tmp_path / "bomb", format="bufr")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a pipe, a socket or a device"):
        read_obs(tmp_path / "pipe")


def test_flags_of_wind_vector_cells() -> None:
    flags = np.array([0.0, np.nan, 2.0 ** (24 - 7), 2.0 ** (24 - 13)])
    assert RULES["scatterometer"].good(flags).tolist() == [True, True, False, True]
