"""What a store of analyses keeps besides the states: what it was made of, for every time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import xarray as xr

from xdiffda._backgrounds import Backgrounds
from xdiffda._cycle_plan import prior_digest
from xdiffda._cycle_record import account as observations_account
from xdiffda._flags import with_flags
from xdiffda._settings import SINGLE, Settings
from xdiffda._stream import digest
from xdiffda.prior import Prior
from xdiffda.state import from_state, read_metadata, to_state

DIGESTS = {"background_digest": "of the background state", "obs_digest": "of its observations"}


def describe(
    backgrounds: Backgrounds, prior: Prior, settings: Settings, obs: Any
) -> dict[str, Any]:
    """What tells a store from another; plain JSON."""
    from xdiffda import __version__

    convention = backgrounds.convention
    plain = settings.provenance()
    plain.pop("max_batch")  # no member depends on its group
    times = np.array(backgrounds.times, "datetime64[s]")
    return {
        "format": 1, "version": __version__, "dim": str(convention.axes["time"].dim),
        "model": f"{prior.name} {prior_digest(prior)}",
        "variables": [field.user_name for field in convention.fields],
        "times": f"{times.size} from {times[0]} to {times[-1]} {digest(times)}",
        "observations": dict(getattr(obs, "description", {})) or None,
        "n_members": plain.pop("n_members"), "seed": plain.pop("seed"),
        **{f"settings.{name}": value for name, value in plain.items()},
    }  # fmt: skip


def provenance(prior: Prior, settings: Settings) -> dict[str, Any]:
    from xdiffda import __version__

    return {
        "title": "analyses", "xdiffda_version": __version__, "xdiffda_jax_version": jax.__version__,
        "xdiffda_model": prior.name, "xdiffda_method": settings.method,
        "xdiffda_seed": settings.seed,
    }  # fmt: skip


def template(
    backgrounds: Backgrounds, prior: Prior, settings: Settings, dim: str
) -> xr.Dataset:  # fmt: skip
    """The store's variables at full length, lazy where they depend on time."""
    import dask.array

    n_members = 1 if settings.method in SINGLE else settings.n_members
    n_members = backgrounds.n_member if settings.method == "letkf" else n_members
    first = read_metadata(backgrounds.at(0), prior.layout)
    blank = np.zeros((1, 1, *prior.scale.shape), np.float32)
    one = from_state(blank, prior.layout, first, dims=("member", "time"))
    one = one.merge(account({"used": 0, "rejected": {}, "r": np.nan}, (0, 0), dim))
    member = str(first.axes["member"].dim) if "member" in first.axes else "member"
    sizes = {dim: len(backgrounds), member: n_members}

    def lengthen(variable: xr.DataArray) -> xr.Variable:
        if not {dim, member} & set(variable.dims):
            return variable.variable
        shape = [sizes.get(str(d), n) for d, n in variable.sizes.items()]
        values = dask.array.zeros(shape, dtype=variable.dtype, chunks=-1)
        return xr.Variable(variable.dims, values, variable.attrs)

    known = backgrounds.convention.template.coords
    coords: dict[Any, Any] = {name: c.variable for name, c in one.coords.items()}
    coords |= {name: known[name].variable for name in coords if dim in coords[name].dims}
    coords[member] = (member, np.arange(n_members), dict(one[member].attrs))
    variables = {name: lengthen(v) for name, v in one.data_vars.items()}
    return xr.Dataset(variables, coords, one.attrs | provenance(prior, settings))


def account(
    observed: Mapping[str, Any], digests: tuple[int, int], dim: str
) -> xr.Dataset:  # fmt: skip
    """What one analysis was made of, along ``dim``."""
    record = with_flags(observations_account(observed))
    for (name, what), value in zip(DIGESTS.items(), digests, strict=True):
        record[name] = (), np.int64(value), {"long_name": f"digest {what}"}
    return record.expand_dims({dim: 1})


def state_digest(state: xr.Dataset, prior: Prior) -> int:
    return _number(digest(to_state(state, prior.layout)[0]))


def tidy_digest(tidy: xr.Dataset) -> int:
    parts = [tidy[n].values.astype("U" if tidy[n].dtype.kind == "O" else tidy[n].dtype)
             for n in sorted(map(str, tidy.variables))]  # fmt: skip
    return _number(digest(*parts))


def _number(hexadecimal: str) -> int:
    """The same 64 bits as a signed integer."""
    return int(np.array(int(hexadecimal, 16), np.uint64).astype(np.int64))
