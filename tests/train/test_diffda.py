"""From published weights to a prior: forecasts, fine-tuning, assimilation, on a small store."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import era5_world
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import load_file, save_file

import xdiffda
from xdiffda.diffusion.denoiser import Conditioning
from xdiffda.diffusion.pretrained import find_places, from_published, places_of
from xdiffda.errors import InputError, ModelError, StorageError
from xdiffda.networks import graphcast
from xdiffda.networks.graphcast.bare import Channel
from xdiffda.priors import registry
from xdiffda.priors.diffda import DiffDAPrior, build
from xdiffda.state.grid import Grid, Layout
from xdiffda.storage.model_folder import flatten, write_card
from xdiffda.train.__main__ import main
from xdiffda.train.config import Compute, Era5, TrainConfig
from xdiffda.train.era5 import Reanalysis, open_store
from xdiffda.train.finetune import World, run, with_steps
from xdiffda.train.forecasts import make_forecasts, valid_times
from xdiffda.train.official import read_forecaster
from xdiffda.train.run_folder import make_optimiser

pytestmark = pytest.mark.long  # a training, and forecasts for it

CONFIG = """
task = "diffda"
data = "{folder}/era5.zarr"
pairs = "{folder}/forecasts.zarr"
out = "{folder}/run"
initial = "{golden}/checkpoint.npz"
steps = 3
batch = 4
log_every = 1
log_samples = true
[network]
conditioning_width = 8
[optimiser]
peak = 1e-3
warmup_steps = 1
[era5]
variables = {variables}
levels = [500, 850, 1000]
first = "2000-01-02T12"
last = "2000-01-03T18"
leads = [6, 12]
statistics = "{folder}/stats"
n_statistics = 6
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("era5")
    era5_world.write_store(folder / "era5.zarr")
    era5_world.write_statistics(folder / "stats")
    text = CONFIG.format(folder=folder, golden=era5_world.GOLDEN, variables=list(era5_world.STATE))
    (folder / "diffda.toml").write_text(text)
    return TrainConfig.read(folder / "diffda.toml")


@pytest.fixture(scope="module")
def forecasts(config: TrainConfig) -> Path:
    main(["forecasts", str(Path(config.out).with_name("diffda.toml"))])
    return Path(config.pairs)


@pytest.fixture(scope="module")
def prior(config: TrainConfig, forecasts: Path) -> DiffDAPrior:
    main([str(Path(config.out).with_name("diffda.toml"))])
    return xdiffda.load_model(Path(config.out) / "model")


def test_the_recipe_is_the_papers(root: Path) -> None:
    """Huang et al. (2024), arXiv 2401.05932, as the project's notes on peers have it."""
    config = TrainConfig.read(root / "xdiffda/train/diffda-era5-0p25.toml")
    era5, rate = config.era5, config.optimiser
    assert era5 is not None
    on_levels = [n for n in era5.variables if n[0] not in "12" and n != "mean_sea_level_pressure"]
    assert (len(on_levels), len(era5.levels), len(era5.variables) - len(on_levels)) == (6, 13, 4)
    layout = Layout(Grid.from_coords([-45, 45], [0, 120, 240]), era5.variables, era5.levels)
    assert layout.n_channel == 6 * 13 + 4
    times = valid_times(era5, "train")
    assert str(times[0]) == "1979-01-01T00:00:00.000000000"
    assert str(times[-1]) == "2016-12-31T18:00:00.000000000"
    assert sorted(era5.leads) == [6, 48]
    assert (config.batch, config.epochs) == (48, 20)
    steps = with_steps(config, 2 * len(times)).steps
    assert steps == -(-20 * 2 * len(times) // 48)
    assert (rate.start, rate.peak, rate.end, rate.warmup_share) == (1e-5, 1e-4, 3e-6, 0.12)
    assert xdiffda.RePaint().mask_sigma == 1.5  # sigma_G: of the sampler, not of the training


def test_the_learning_rate_warms_up_and_falls_as_in_the_paper() -> None:
    """The first update of Adam is the learning rate itself."""
    from xdiffda.train.config import Optimiser

    rate = Optimiser(start=1e-5, peak=1e-4, end=3e-6, warmup_share=0.12, weight_decay=0.0)
    optimiser = make_optimiser(rate, 100)
    weights = {"w": jnp.ones(1)}
    state, found = optimiser.init(weights), []
    for _ in range(101):
        update, state = optimiser.update({"w": jnp.ones(1)}, state, weights)
        found.append(-float(update["w"][0]))
    assert found[0] == pytest.approx(1e-5, rel=1e-3)
    assert int(np.argmax(found)) == 12 and max(found) == pytest.approx(1e-4, rel=1e-3)
    assert found[56] == pytest.approx((1e-4 + 3e-6) / 2, rel=1e-3)  # half-way down the cosine
    assert found[100] == pytest.approx(3e-6, rel=1e-3)


def test_untrained_it_is_the_published_network_on_residual_and_background(
    config: TrainConfig,
) -> None:
    """Against the published network fed through Datasets, whatever sigma, r and Wiener estimate."""
    net = graphcast.load(era5_world.GOLDEN / "checkpoint.npz")
    with xr.open_dataset(era5_world.GOLDEN / "norm_inputs.nc", decode_timedelta=True) as ds:
        inputs = ds.load()
    with xr.open_dataset(era5_world.GOLDEN / "norm_forcings.nc", decode_timedelta=True) as ds:
        forcings = ds.load()
    grid = Grid.from_coords(inputs.lat.values, inputs.lon.values)
    layout = Layout(grid, era5_world.STATE, era5_world.LEVELS)
    rng = np.random.default_rng(0)
    residual, background, wiener = (
        rng.normal(size=(grid.n_node, 1, layout.n_channel)).astype(np.float32) for _ in range(3)
    )
    for name in layout.variables:  # by hand: the two times of every variable
        for frame, x in enumerate((residual, background)):
            field = x[:, 0, layout.channel_slice(name)].reshape(*grid.shape, -1)
            place = inputs[name].dims
            values = xr.DataArray(field, dims=("lat", "lon", "level"))
            values = values if "level" in place else values.isel(level=0)
            part = values.transpose(*[d for d in place if d not in ("batch", "time")])
            inputs[name].values[:, frame] = part.values
    inputs["total_precipitation_6hr"].values[:] = 0.0
    expected = net(inputs, forcings)

    places = places_of(net, inputs, forcings, layout)
    network = from_published(net.net, places, conditioning_width=8, key=jax.random.key(1))
    x = net.stack(*net.select(inputs, forcings))
    given = Conditioning(
        jnp.asarray(background),
        jnp.zeros((1, 2)),
        jnp.asarray([1.7]),
        jnp.asarray(x[..., np.array(places.forcings)]),
    )
    found = network(
        jnp.asarray(residual),
        jnp.asarray(wiener),
        given,
        jnp.asarray([0.3]),
        jnp.zeros((grid.n_node, 0)),
        net.graph_for(inputs),
    )
    for i, (name, level) in enumerate(layout.channels):
        one = expected[name].isel(batch=0, time=0)
        one = one if level is None else one.sel(level=level)
        np.testing.assert_allclose(found[:, 0, i], one.values.reshape(-1), atol=2e-5)


def test_a_state_that_the_network_does_not_know_is_refused() -> None:
    grid = Grid.from_coords([-45, 45], [0, 120, 240])
    layout = Layout(grid, ("2m_temperature", "temperature"), (500,))
    inputs = (Channel("2m_temperature", 0), Channel("2m_temperature", 1), Channel("temperature", 0))
    with pytest.raises(InputError, match="temperature@500.*at two times"):
        find_places(inputs, (Channel("2m_temperature", 0),), layout, ())


def test_forecasts_are_those_of_the_forecaster(config: TrainConfig, forecasts: Path) -> None:
    forecaster = read_forecaster(config)
    with xr.open_zarr(forecasts, consolidated=False, decode_timedelta=True) as ds:
        made = ds.load()
    assert (made.complete == 1).all() and len(made.init_time) == 7
    assert made.lead_time.values.tolist() == (np.array([6, 12]) * 3600 * 10**9).tolist()
    truth = Reanalysis(
        open_store(config.data),
        forecaster.net.task,
        variables=config.era5.variables,
        levels=config.era5.levels,
    )
    start = made.init_time.values[3]
    times = start + np.array([6, 12]) * np.timedelta64(1, "h")
    out = forecaster.rollout(truth.inputs(start), truth.forcings(times), steps=2)
    for name in ("temperature", "2m_temperature"):
        np.testing.assert_allclose(made[name].isel(init_time=3), out[name][0], rtol=1e-5)


def test_an_interrupted_forecast_is_made_again_and_no_other(
    config: TrainConfig, forecasts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr

    from xdiffda.train import forecasts as module

    store = zarr.open_group(forecasts, mode="r+")
    before = np.asarray(store["2m_temperature"][2])
    store["2m_temperature"][2], store["complete"][2] = 0.0, 0  # killed while it was writing
    with pytest.raises(InputError, match="1 forecasts missing.*train forecasts"):
        module.Backgrounds(
            forecasts, Layout(Grid.from_coords([-45, 45], [0, 120, 240]), ("2m_temperature",))
        )
    made, forecast = [], module._forecast
    monkeypatch.setattr(
        module, "_forecast", lambda f, d, time, e: made.append(time) or forecast(f, d, time, e)
    )
    make_forecasts(config, progress=False)
    assert len(made) == 1
    np.testing.assert_array_equal(store["2m_temperature"][2], before)
    assert (store["complete"][:] == 1).all()
    other = dataclasses.replace(config, era5=dataclasses.replace(config.era5, leads=(6,)))
    with pytest.raises(InputError, match="2 lead times.*needed 1"):
        make_forecasts(other, progress=False)


def test_forecasts_of_another_origin_are_not_mixed_in(
    config: TrainConfig, forecasts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, arithmetic, data or version: each by itself is refused, with what repairs it."""
    import zarr

    store = Path(shutil.copytree(forecasts, tmp_path / "copy.zarr"))
    config = dataclasses.replace(config, pairs=str(store))
    statistics = Path(shutil.copytree(config.era5.statistics, tmp_path / "stats"))
    with xr.open_dataset(statistics / "stddev_by_level.nc") as ds:
        wider = (ds * 1.01).load()
    wider.to_netcdf(statistics / "stddev_by_level.nc")
    with np.load(config.initial) as file:
        weights = dict(file)
    name = max((n for n in weights if n.startswith("params:")), key=lambda n: weights[n].size)
    weights[name] = weights[name] + np.float32(1e-3)
    np.savez(tmp_path / "other.npz", **weights)
    shifted = Path(shutil.copytree(config.data, tmp_path / "era5.zarr"))
    states = zarr.open_group(shifted, mode="r+")["temperature"]
    states[4] = states[4] + 1.0  # a time that the first forecast starts from

    def refused(match: str, **changes: object) -> None:
        with pytest.raises(InputError, match=match) as caught:
            make_forecasts(dataclasses.replace(config, **changes), progress=False)
        assert len(caught.value.problems) == 1
        assert f'pairs = "{tmp_path / "copy-2.zarr"}"' in str(caught.value)

    refused("of weights.*initial = ", initial=str(tmp_path / "other.npz"))
    refused(
        "of weights and statistics",
        era5=dataclasses.replace(config.era5, statistics=str(statistics)),
    )
    refused("float32, highest; needed bfloat16, highest", compute=Compute(dtype="bfloat16"))
    refused("of data at .*data = ", data=str(shifted))
    monkeypatch.setattr(xdiffda, "__version__", "9.9.9")
    make_forecasts(config, progress=False)  # complete: nothing is added
    zarr.open_group(store, mode="r+")["complete"][2] = 0
    refused(r"of xdiffda .*needed 9.9.9.*pip install")


def test_pairs_are_normalised_truth_and_background(config: TrainConfig, forecasts: Path) -> None:
    world = World(config)
    assert len(world.parts["train"]) == 12 and not world.parts["validation"]
    time, number, lead = world.parts["train"][5]
    truth, background = world.pair("train", 5)
    store = open_store(config.data).sel(time=time)
    channel = world.layout.channel_index("temperature", 850)
    stats = era5_world.statistics()
    centre, width = (float(stats[k]["temperature"].sel(level=850)) for k in ("mean", "stddev"))
    expected = store.temperature.sel(level=850).transpose("lat", "lon").values.reshape(-1)
    np.testing.assert_allclose(truth[:, channel] * width + centre, expected, rtol=1e-5)
    assert store.lat.values[0] == -90  # the store runs from the north
    with xr.open_zarr(forecasts, consolidated=False, decode_timedelta=True) as made:
        valid = made.init_time[number] + made.lead_time[lead]
        assert valid.values == time
        field = made.temperature[number, lead].sel(level=850).values.reshape(-1)
    np.testing.assert_allclose(background[:, channel] * width + centre, field, rtol=1e-5)
    batch = world.reader("train", np.ones_like(truth))(np.array([5, 2]))
    assert batch["forcings"].shape == (2, world.layout.grid.n_node, len(world.given.names))
    np.testing.assert_allclose(batch["z"][0] * batch["r"][0], truth - background, atol=1e-5)


def test_it_learns_and_can_be_assimilated_with(config: TrainConfig, prior: DiffDAPrior) -> None:
    with (Path(config.out) / "log.csv").open(newline="") as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert prior.card["kind"] == "diffda" and "initial" not in prior.card["training"]
    store = xr.open_zarr(config.data).load()[list(era5_world.STATE)]
    truth = store.isel(time=20)
    background = store.isel(time=19).assign_coords(time=truth.time)
    obs = truth.diffda.emulate_obs(fraction=0.2, error_std="default", seed=0)
    analysis = background.diffda.assimilate(
        obs, n_members=2, model=prior, method=xdiffda.Guided(n_steps=4), seed=0
    )
    assert analysis.temperature.dims[-2:] == ("latitude", "longitude")  # the user's own form
    for name in ("temperature", "mean_sea_level_pressure"):
        before, after = (
            float(np.abs(x[name] - truth[name]).mean())
            for x in (background, analysis.mean("member"))
        )
        assert after < 0.8 * before
    with pytest.raises(InputError, match="no valid time"):
        prior.condition(np.zeros((prior.layout.grid.n_node, prior.layout.n_channel)), None, 1.0)
    # members around background members: the network is conditioned on each by itself
    pair = xr.concat([background, background + 0.1 * (truth - background)], "member")
    around = pair.diffda.assimilate(
        obs, n_members=2, model=prior, method=xdiffda.Guided(n_steps=4), seed=0
    )
    assert np.isfinite(around["temperature"]).all() and around.sizes["member"] == 2


def test_a_saved_prior_is_the_one_that_was_trained(
    config: TrainConfig, prior: DiffDAPrior, tmp_path: Path
) -> None:
    """Bitwise, from the network that `run` returns; assimilated with by the folder's name."""
    network = run(config, progress=False)  # finished: from its last checkpoint, saved again
    folder = Path(config.out) / "model"
    assert xdiffda.load_model(folder) is prior  # the same bytes
    trained = build(prior.card, registry.load_statistics(folder), flatten(network))
    copy = Path(shutil.copytree(folder, tmp_path / "mine"))
    loaded = xdiffda.load_model(copy)
    assert loaded is not prior and isinstance(loaded, DiffDAPrior)
    rng = np.random.default_rng(1)
    shape = (prior.layout.grid.n_node, prior.layout.n_channel)
    background = prior.mean + prior.stddev * rng.normal(size=shape)
    z = jnp.asarray(rng.normal(size=(shape[0], 2, shape[1])), jnp.float32)
    time = np.datetime64("2000-01-03T06")
    one, two = (
        np.asarray(p.condition(background, time, 1.2).denoise(z, jnp.float32(0.5)))
        for p in (trained, loaded)
    )
    np.testing.assert_array_equal(one, two)
    assert np.abs(one).max() > 0
    store = xr.open_zarr(config.data).load()[list(era5_world.STATE)]
    truth = store.isel(time=20)
    background = store.isel(time=19).assign_coords(time=truth.time)
    obs = truth.diffda.emulate_obs(fraction=0.2, error_std="default", seed=0)
    options = {"n_members": 2, "method": xdiffda.Guided(n_steps=3), "seed": 3}
    by_name, by_object = (
        background.diffda.assimilate(obs, model=m, **options) for m in (str(copy), prior)
    )
    np.testing.assert_array_equal(by_name.temperature, by_object.temperature)
    with pytest.raises(ModelError, match="a prior alone; needed a model with forecaster.npz"):
        registry.model_folder(copy)


def test_a_damaged_or_foreign_folder_is_refused(
    config: TrainConfig, prior: DiffDAPrior, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"only .*log.csv.*load_model\(.*model'\)"):
        xdiffda.load_model(config.out)  # the run, not the folder in it
    folder = Path(shutil.copytree(Path(config.out) / "model", tmp_path / "mine"))
    card = json.loads((folder / "card.json").read_text())
    assert set(card["sha256"]) == {"denoiser.safetensors", "statistics.safetensors"}
    for file in card["sha256"]:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ModelError, match=f"{file} in .*digest.*python -m xdiffda.train"):
            xdiffda.load_model(folder)
        (folder / file).unlink()
        with pytest.raises(ModelError, match=f"{file} not found"):
            xdiffda.load_model(folder)
        (folder / file).write_bytes(content)
    (folder / "card.json").write_text(json.dumps(card | {"sha256": {}}))
    with pytest.raises(ModelError, match="no digest of denoiser.safetensors; .*no digest of stat"):
        xdiffda.load_model(folder)
    statistics = load_file(folder / "statistics.safetensors")
    del statistics["given_mean"], statistics["static_land_sea_mask"]
    save_file(statistics, folder / "statistics.safetensors")
    write_card(folder, card)
    with pytest.raises(ModelError, match="no array given_mean, static_land_sea_mask"):
        xdiffda.load_model(folder)


def test_what_is_missing_is_said(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be opened as zarr"):
        open_store(str(tmp_path / "none.zarr"))
    with pytest.raises(InputError, match="(?s)no file.*0 files .mean_by_level.nc"):
        read_forecaster(
            dataclasses.replace(
                config,
                initial="none.npz",
                era5=dataclasses.replace(config.era5, statistics=str(tmp_path)),
            )
        )
    with pytest.raises(InputError, match="(?s)leads .5.; needed multiples of 6"):
        Era5(variables=("temperature",), first="2000", last="2001", leads=(5, 6))
    with pytest.raises(InputError, match="both, for task diffda"):
        TrainConfig("diffda", "d", "o")


def test_other_schemas_give_the_same_inputs(config: TrainConfig, tmp_path: Path) -> None:
    """ARCO-ERA5: hourly precipitation, static fields with a time, solar radiation in the store."""
    task = read_forecaster(config).net.task
    options = {"variables": config.era5.variables, "levels": config.era5.levels}
    ds = open_store(config.data)
    rain = ds.total_precipitation_6hr.load()
    hours = ds.time.values[:4][:, None] - np.arange(6)[::-1] * np.timedelta64(1, "h")
    hourly = xr.concat([rain.isel(time=i) / 6 for i in range(4) for _ in range(6)], "time")
    hourly = hourly.assign_coords(time=hours.reshape(-1))
    now = ds.drop_vars("total_precipitation_6hr").isel(time=slice(0, 4)).load()
    arco = now.reindex(time=hourly.time, method="bfill").assign(total_precipitation=hourly)
    for name in ("land_sea_mask", "geopotential_at_surface"):
        arco[name] = arco[name].expand_dims(time=arco.time)
    arco = arco.assign_coords(lon=(arco.lon + 180) % 360 - 180).sortby("lon")
    memory = "memory://arco.zarr"
    arco.rename(lat="latitude", lon="longitude").sortby("latitude", ascending=False).to_zarr(
        memory, zarr_format=2, consolidated=True
    )
    other = Reanalysis(open_store(memory, {"skip_instance_cache": True}), task, **options)
    plain = Reanalysis(ds, task, **options)
    time = ds.time.values[2]
    a, b = plain.inputs(time), other.inputs(time)
    for name in task.input_variables:
        np.testing.assert_allclose(a[name], b[name].transpose(*a[name].dims), rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(plain.state(time), other.state(time))
