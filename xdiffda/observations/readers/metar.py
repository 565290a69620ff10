"""METARs: bulletins as they are sent, and tables of decoded ones.

An altimeter setting is no pressure at sea level: it is the pressure at the station, brought down
through the ICAO standard atmosphere. It is brought up again in the same way, to
``surface_pressure`` at the height of the station.

A bulletin says neither where its stations are nor the month. Five groups of a report are of use
(wind, temperatures, altimeter setting, and of the remarks sea-level pressure and temperatures in
tenths); they are found here, because MetPy's parser asks the network for a table of stations at
its first report and does not read those remarks. Codes: WMO No. 306, FM 15; FMH-1, chapter 12.
"""

from __future__ import annotations

import functools
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.observations.readers.fields import Field, Meaning, add_fields
from xdiffda.observations.readers.files import need_content, text_of, unreadable
from xdiffda.observations.readers.reports import Reports, as_numbers

if TYPE_CHECKING:
    import pandas as pd

DECODED = {
    "Unix_time",
    "ICAO",
    "Latitude",
    "Longitude",
    "Temp",
    "Dewp",
    "Wdir",
    "Wspd",
    "Altimeter",
}
_PLACES = ("DateString", "Length", "Raw", "QcFlag", "Elev")
INCH_OF_MERCURY = 3386.389  # Pa, at 0 degrees Celsius and standard gravity
_MEANING = Meaning(
    {
        "Temp": "2m_temperature",
        "Dewp": "2m_dewpoint_temperature",
        "sea-level pressure": "mean_sea_level_pressure",
    },
    winds=(("Wspd", "Wdir"),),
    altimeter="Altimeter",
)
# The head of a report, perhaps after the line with a full date that NOAA's hourly files have.
_HEAD = re.compile(
    r"(?:(?P<date>\d{4}/\d\d/\d\d) \d\d:\d\d\s+)?(?<!\w)(?P<kind>TAF (?:AMD |COR )?)?"
    r"(?P<station>[A-Z][A-Z0-9]{3}) (?P<day>\d\d)(?P<hour>\d\d)(?P<minute>\d\d)Z(?=\s|=)"
)
BULLETIN = re.compile(r"(?m)^(?:(?:METAR|SPECI)\s+(?:COR\s+)?)?[A-Z][A-Z0-9]{3} \d{6}Z\s")
_END = re.compile(r"=|\n\s*\n|\x03")
_NO_REPORT = re.compile(r"\s*(NIL|CNL|\d{4}/\d{4}\s)")
_WIND = re.compile(r"\s(\d{3}|VRB|///)P?(\d\d\d?)(?:GP?\d\d\d?)?(KT|MPS|KMH)(?=\s|$)")
_TEMPERATURES = re.compile(r"\s(M?\d\d)/(M?\d\d)?(?=\s|/|$)")
_SETTING = re.compile(r"\s(?:A(\d{4})|Q(\d{4}))(?=\s|$)")
_TENTHS = re.compile(r"\sT([01]\d{3})([01]\d{3})?(?=\s|$)")
_SEA_LEVEL = re.compile(r"\sSLP(\d{3})(?=\s|$)")
_KNOTS = {"KT": 1.0, "MPS": 1 / 0.514444, "KMH": 1 / 1.852}
_ROLES = {
    "station": ("station", "icao", "id", "icao_id", "station_id"),
    "lat": ("lat", "latitude"),
    "lon": ("lon", "longitude", "long"),
    "station_height": ("station_height", "elevation", "elev", "altitude", "station_elevation"),
}


def read_metar(path: Path, *, stations: Any = None, time: Any = None) -> xr.Dataset:
    """Read METARs.

    Parameters
    ----------
    path
        Bulletins, or a CSV of decoded reports.
    stations
        Where the stations of bulletins are: a table with ``station``, ``lat``, ``lon`` and
        ``station_height`` (m), or the CSV file of one.
    time
        A time next to which the reports of bulletins lie: these say the day of the month only.
    """
    text = text_of(path)
    if BULLETIN.search(text) and not {*text.split("\n", 1)[0].strip().split(",")} >= DECODED:
        return _bulletins(path, text, stations, time).to_dataset()
    return _decoded(path, text).to_dataset()


def _decoded(path: Path, text: str) -> Reports:
    import pandas as pd

    try:
        table = pd.read_csv(
            io.StringIO(text), skipinitialspace=True, keep_default_na=False, na_values=[""]
        )
    except ValueError as error:
        raise unreadable(path, error) from error
    words = [str(word) for word in table.columns]
    if absent := sorted(DECODED - {*words}):
        raise InputError(
            [
                Problem(
                    f"columns {', '.join(words[:8])}",
                    f"bulletins, or decoded METARs with {', '.join(absent)}",
                    f"xdiffda.read_obs({str(path)!r})",
                )
            ],
            what=str(path),
        )
    number = {word: as_numbers(table[word]) for word in DECODED - {"ICAO"}}
    place = {
        "lat": number["Latitude"],
        "lon": number["Longitude"],
        "time": pd.to_datetime(number["Unix_time"], unit="s", errors="coerce").to_numpy(
            "datetime64[ns]"
        ),
        "station": table["ICAO"].fillna("").astype(str).to_numpy(str),
        "kind": np.full(len(table), "metar"),
    }
    if "Elev" in table:
        place["station_height"] = as_numbers(table["Elev"])
    reports = Reports(place, marks="metar")
    marks = as_numbers(table["QcFlag"]) if "QcFlag" in table else None
    number["Altimeter"] = number["Altimeter"] * INCH_OF_MERCURY
    _add(reports, number, marks)
    for word in words:
        if word not in DECODED and word not in _PLACES:
            reports.unused[word] += int(table[word].notna().sum())
    return reports


def _add(reports: Reports, number: dict[str, np.ndarray], marks: np.ndarray | None) -> None:
    units = {"Temp": "degC", "Dewp": "degC", "Wspd": "knots", "Altimeter": "Pa"}
    units["sea-level pressure"] = "hPa"
    observed = [*_MEANING.variables, *_MEANING.winds[0], _MEANING.altimeter]
    fields = {
        word: Field(number[word], units.get(word, ""), marks) for word in observed if word in number
    }
    add_fields(reports, fields, _MEANING, surface=np.ones(reports.place["lat"].size, bool))


# ------------------------------------------------------------------------------ bulletins


def _bulletins(path: Path, text: str, stations: Any, time: Any) -> Reports:
    heads = [*_HEAD.finditer(text)]
    ends = [*(head.start() for head in heads[1:]), len(text)]
    bodies = [_body(text, head.end(), end) for head, end in zip(heads, ends, strict=True)]
    found = [
        (head, body)
        for head, body in zip(heads, bodies, strict=True)
        if head["kind"] is None and not _NO_REPORT.match(body)
    ]
    dated = all(head["date"] for head, _ in found)
    near = _near(time)
    _need(path, near is not None or dated, stations is not None)
    groups = [_groups_of(body) for _, body in found]
    number = {
        word: np.array([group.get(word, np.nan) for group in groups])
        for word in (*_MEANING.variables, *_MEANING.winds[0], _MEANING.altimeter)
    }
    place = {
        "time": np.array([_time_of(head, near) for head, _ in found], "datetime64[ns]"),
        "station": np.array([head["station"] for head, _ in found], str),
        "kind": np.full(len(found), "metar"),
    }
    reports = Reports(place)
    reports.unused["forecasts, and reports that are nil"] += len(heads) - len(found)
    known = _place(path, reports, stations)
    _add(reports, number, None)
    reports.drop("station that is not in the table", ~known)
    return reports


def _body(text: str, start: int, stop: int) -> str:
    end = _END.search(text, start, stop)
    return text[start : end.start() if end else stop]


def _need(path: Path, dated: bool, placed: bool) -> None:
    """Raise an InputError if bulletins come without what they do not say."""
    problems = []
    call = f"xdiffda.read_obs({str(path)!r}, stations='stations.csv', time='2019-12-12T00')"
    if not placed:
        problems.append(
            Problem(
                "METAR bulletins, which do not say where their stations are",
                "a table of stations with columns station, lat, lon and station_height (m), or "
                "its CSV file",
                call,
            )
        )
    if not dated:
        problems.append(
            Problem(
                "METAR bulletins, which say the day of the month and not the month",
                "a time (UTC) next to which the reports lie",
                call,
            )
        )
    if problems:
        raise InputError(problems, what=str(path))


def _near(time: Any) -> np.datetime64 | None:
    if time is None:
        return None
    try:
        return np.datetime64(str(getattr(time, "values", time))).astype("datetime64[m]")
    except ValueError as error:
        repair = "xdiffda.read_obs(path, stations='stations.csv', time='2019-12-12T00')"
        problem = Problem(f"time={time!r}", "a time, UTC", repair)
        raise InputError([problem], what="read_obs") from error


def _time_of(head: re.Match[str], near: np.datetime64 | None) -> np.datetime64:
    """The time of a report: in the month that brings it next to ``near``; NaT if there is none."""
    return _next_to(head["date"], near, int(head["day"]), int(head["hour"]), int(head["minute"]))


@functools.lru_cache(4096)
def _next_to(
    date: str | None, near: np.datetime64 | None, day: int, hour: int, minute: int
) -> np.datetime64:
    if not (1 <= day <= 31 and hour <= 24 and minute < 60):
        return np.datetime64("NaT")
    try:
        around = near if date is None else np.datetime64(date.replace("/", "-"), "m")
    except ValueError:
        return np.datetime64("NaT")
    if around is None:
        return np.datetime64("NaT")
    month = around.astype("datetime64[M]")
    after = np.timedelta64((day - 1) * 1440 + hour * 60 + minute, "m")
    times = [
        start.astype("datetime64[m]") + after
        for start in (month - 1, month, month + 1)
        if day <= ((start + 1).astype("datetime64[D]") - start.astype("datetime64[D]")).astype(int)
    ]
    return min(times, key=lambda time: abs(time - around))


def _groups_of(body: str) -> dict[str, float]:
    """What of use is in a report, under the names of the decoded form.

    Examples
    --------
    >>> found = _groups_of(" AUTO 35012G20KT 10SM CLR M01/M05 A3012 RMK SLP203 T10061050")
    >>> [round(found[name], 1) for name in ("Wspd", "Wdir", "Temp", "Dewp", "sea-level pressure")]
    [12.0, 350.0, -0.6, -5.0, 1020.3]
    """
    body = " " + " ".join(body.split())
    main, _, remarks = body.partition(" RMK")
    # trends and forecasts of the next two hours have winds as well
    main = re.split(r" (?:TEMPO|BECMG|NOSIG)(?= |$)", main)[0]
    out: dict[str, float] = {}
    if wind := _WIND.search(main):
        out["Wspd"] = int(wind[2]) * _KNOTS[wind[3]]
        if wind[1].isdigit():
            out["Wdir"] = float(wind[1])
    if pair := _TEMPERATURES.search(main):
        for name, digits in zip(("Temp", "Dewp"), pair.groups(), strict=True):
            if digits:
                out[name] = float(digits.replace("M", "-"))
    if pair := _TENTHS.search(remarks):
        for name, digits in zip(("Temp", "Dewp"), pair.groups(), strict=True):
            if digits:
                out[name] = int(digits[1:]) / 10 * (-1 if digits[0] == "1" else 1)
    if setting := _SETTING.search(main):
        inches, hectopascals = setting.groups()
        out["Altimeter"] = (
            int(inches) / 100 * INCH_OF_MERCURY if inches else int(hectopascals) * 100.0
        )
    if tenths := _SEA_LEVEL.search(remarks):
        # tens and units only: the hundreds are those next to the altimeter setting
        near = out.get("Altimeter", 101325.0) / 100
        out["sea-level pressure"] = min(
            (base + int(tenths[1]) / 10 for base in (900.0, 1000.0)), key=lambda p: abs(p - near)
        )
    return out


def _place(path: Path, reports: Reports, stations: Any) -> np.ndarray:
    """Put the reports where a table says that their stations are; which ones it knows."""
    table = _stations(path, stations)
    row = {name: i for i, name in enumerate(table.pop("station"))}
    at = np.array([row.get(name, -1) for name in reports.place["station"]], np.int64)
    for name, column in table.items():
        values = np.append(column, np.nan)
        reports.place[name] = values[at]
    return at >= 0


def _stations(path: Path, stations: Any) -> dict[str, Any]:
    import pandas as pd

    frame: pd.DataFrame
    if isinstance(stations, str | os.PathLike):
        file = Path(stations).expanduser()
        need_content(file)
        try:
            frame = pd.read_csv(io.StringIO(text_of(file)), dtype=str, keep_default_na=False)
        except ValueError as error:
            raise unreadable(file, error) from error
    else:
        frame = stations.to_dataframe().reset_index() if hasattr(stations, "coords") else stations
    lower = {str(word).strip().lower(): word for word in getattr(frame, "columns", ())}
    columns = {
        role: next((lower[word] for word in words if word in lower), None)
        for role, words in _ROLES.items()
    }
    absent = [role for role in ("station", "lat", "lon") if columns[role] is None]
    if absent:
        raise InputError(
            [
                Problem(
                    f"stations with columns {', '.join(map(str, lower)) or 'none'}",
                    f"a table with {', '.join(absent)}",
                    "stations.rename(columns={'...': 'station'})",
                )
            ],
            what=str(path),
        )
    out = {
        role: as_numbers(frame[word])
        for role, word in columns.items()
        if word and role != "station"
    }
    return {"station": frame[columns["station"]].astype(str).str.strip().tolist(), **out}
