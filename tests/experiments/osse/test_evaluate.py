"""Sums of scores against closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from xdiffda.experiments.osse.publish import publish
from xdiffda.experiments.osse.tables import Ledger, Record, as_text, pool, score, summary
from xdiffda.state.grid import Grid, Layout

GRID = Grid(tuple(np.linspace(-75.0, 75.0, 6).tolist()), tuple((np.arange(12) * 30.0).tolist()))
N = GRID.n_node
AREA = GRID.area_weights()


class Tally:
    """Records of several cases, pooled."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def add(self, members: np.ndarray, truth: np.ndarray, seconds: float) -> None:
        self.records.append(score(members, truth, AREA, seconds=seconds))

    def result(self) -> dict:
        return pool(self.records)


def test_two_members_in_closed_form() -> None:
    """Members 0 and 3, truth 1: mean error 0.5, fair CRPS (1 + 2) / 2 - 3 / 2 = 0, variance 4.5."""
    tally = Tally()
    tally.add(np.stack([np.zeros((N, 2)), np.full((N, 2), 3.0)]), np.ones((N, 2)), 2.0)
    found = tally.result()
    np.testing.assert_allclose(found["rmse"], 0.5)
    np.testing.assert_allclose(found["crps"], 0.0, atol=1e-12)
    # sample variance 4.5, times (N + 1) / N
    np.testing.assert_allclose(found["spread"], np.sqrt(4.5 * 3 / 2))
    assert found["seconds"] == 2.0


def test_one_member_has_its_absolute_error_and_no_spread() -> None:
    tally = Tally()
    tally.add(np.full((1, N, 2), 2.0), np.full((N, 2), 5.0), 0.0)
    found = tally.result()
    np.testing.assert_allclose([found["rmse"], found["crps"]], 3.0)
    np.testing.assert_allclose(found["spread"], 0.0)


def test_averages_are_by_area_and_pool_squares_over_cases() -> None:
    tally = Tally()
    lat = np.repeat(GRID.lat, 12)
    north = np.where(lat > 60, 1.0, 0.0)[:, None] * np.ones(2)
    share = (np.sin(np.pi / 2) - np.sin(np.deg2rad(60.0))) / 2
    for factor in (1.0, 3.0):
        tally.add(factor * north[None], np.zeros((N, 2)), 0.0)
    np.testing.assert_allclose(tally.result()["rmse"], np.sqrt(share * (1 + 9) / 2), rtol=1e-6)
    np.testing.assert_allclose(tally.result()["crps"], share * (1 + 3) / 2, rtol=1e-6)


def test_the_fair_score_is_the_double_sum() -> None:
    rng = np.random.default_rng(0)
    members, truth = rng.normal(size=(5, N, 2)), rng.normal(size=(N, 2))
    tally = Tally()
    tally.add(members, truth, 0.0)
    distance = np.abs(members[:, None] - members[None]).sum((0, 1)) / (2 * 5 * 4)
    field = np.abs(members - truth).mean(0) - distance
    area = GRID.area_weights() / N
    np.testing.assert_allclose(tally.result()["crps"], area @ field, rtol=1e-6)


@pytest.mark.parametrize("n_member", [2, 8])
def test_a_perfect_ensemble_has_the_gaussian_values(n_member: int) -> None:
    """Truth and members from N(0, 1): CRPS 1 / sqrt(pi), whatever N; spread equals RMSE."""
    rng, tally = np.random.default_rng(1), Tally()
    for _ in range(150):
        tally.add(rng.normal(size=(n_member, N, 2)), rng.normal(size=(N, 2)), 0.0)
    found = tally.result()
    np.testing.assert_allclose(found["crps"], 1 / np.sqrt(np.pi), rtol=0.04)
    np.testing.assert_allclose(found["rmse"], np.sqrt(1 + 1 / n_member), rtol=0.03)
    np.testing.assert_allclose(found["spread"] / found["rmse"], 1.0, rtol=0.04)
    # the truth is one more member: all ranks are as likely
    np.testing.assert_allclose(found["ranks"] * (n_member + 1), 1.0, atol=0.05)


def test_ranks_count_the_members_below_by_area() -> None:
    truth = np.repeat(np.where(np.array(GRID.lat) > 0, 2.5, 9.0), 12)[:, None]
    members = np.broadcast_to(np.arange(4.0)[:, None, None], (4, N, 1))
    np.testing.assert_allclose(score(members, truth, AREA).ranks, [[0, 0, 0, 0.5, 0.5]])


def test_an_evaluation_goes_on_where_it_stopped(tmp_path) -> None:
    record = score(np.zeros((2, N, 1)), np.ones((N, 1)), AREA, evaluations=8, seconds=1.5)
    Ledger(tmp_path / "records.jsonl", "weights one").add((416, "guided", 3), record)
    again = Ledger(tmp_path / "records.jsonl", "weights one")
    assert (416, "guided", 3) in again and (416, "guided", 4) not in again
    assert again.of(416, "guided", range(20)) == [record] and again.cases(416, "guided") == [3]
    # records of other weights are not mixed in
    assert (416, "guided", 3) not in Ledger(tmp_path / "records.jsonl", "weights two")


def row_of_two_channels() -> dict:
    """Members 0 and 3, then 2 and 4, of a truth of 1, twice, against a background of 3."""
    layout = Layout(GRID, ("2m_temperature", "mean_sea_level_pressure"))
    members = np.stack([np.tile(x, (N, 1)) for x in ([0.0, 2.0], [3.0, 4.0])])
    truth, background = np.ones((N, 2)), np.full((1, N, 2), 3.0)
    own, base = ([score(x, truth, AREA)] * 2 for x in (members, background))
    return summary(own, base, layout)


def test_every_channel_has_its_own_scores() -> None:
    row = row_of_two_channels()
    names = ("channels", "channel_crps", "channel_spread_skill", "channel_outer_ranks")
    found = {name: list(row[name].values()) for name in names}
    # errors of the mean 0.5 and 2 of 2; fair CRPS 0 and 3 - 1 - 2 / 2 of 2
    assert found["channels"] == [0.25, 1.0] and found["channel_crps"] == [0.0, 0.5]
    # sample variances 4.5 and 2, times (N + 1) / N, over squared errors of 0.25 and 4
    expected = [round(float(np.sqrt(x)), 3) for x in (4.5 * 1.5 / 0.25, 2 * 1.5 / 4)]
    assert found["channel_spread_skill"] == expected
    # three ranks: the truth is always the second, and always the first
    assert found["channel_outer_ranks"] == [0.0, 1.5]
    assert row["outer_ranks"] == 0.75 and row["ranks"] == [1.5, 1.5, 0.0]


def test_the_file_is_short_and_holds_all() -> None:
    report = {"remark": "odd [ text { here", "table": {"416": {"guided": row_of_two_channels()}}}
    text = as_text(report)
    assert json.loads(text) == report
    assert text.count("\n") < json.dumps(report, indent=1).count("\n") / 1.5


def test_cards_leave_out_what_is_told_by_channel(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("xdiffda.experiments.osse.publish.models_folder", lambda: tmp_path)
    monkeypatch.setattr(
        "xdiffda.experiments.osse.evaluate.model_folder", lambda model: tmp_path / model
    )
    row = "guided, warm start, 8 evaluations"
    report = {"weights": "0", "table": {"416": {row: row_of_two_channels()}}}
    (tmp_path / "tiny").mkdir()
    for name, content in (("card", {"sha256": {}}), ("skill-quarter", report)):
        (tmp_path / "tiny" / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "README.md").write_text("<!-- skill:quarter --><!-- /skill -->")
    publish(tmp_path / "README.md", model="tiny")
    card = json.loads((tmp_path / "tiny" / "card.json").read_text())
    kept = card["skill"]["quarter"]["416"][row]
    assert kept["rmse"] == 0.625 and not any(k.startswith("channel") for k in kept)
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert lines[1].startswith("|  | RMSE, 416 columns | CRPS, 416 |")
    assert lines[3].startswith(f"| {row} | 0.62 |")
