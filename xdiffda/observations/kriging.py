"""Weights of ordinary kriging: geometry alone, once for all variables and levels.

The systems are small (ten rows) and many (a million), so they are solved side by side: arrays
are (neighbour, neighbour, node), and each operation of a Cholesky decomposition is one on all
nodes of a piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem
from xdiffda.observations.mask import in_convention
from xdiffda.observations.sites import SiteSet, channel_sites, node_vectors
from xdiffda.observations.table import to_tidy
from xdiffda.observations.threads import for_pieces, n_threads
from xdiffda.state.convert import read_metadata, to_state
from xdiffda.state.grid import Grid, Layout

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


EARTH_RADIUS_KM = 6371.0
_PIECE = 8192  # nodes solved side by side: 5 MB of 9 x 9 matrices


class KrigingWeights(NamedTuple):
    """Weights of the sites near each node, and whether there is such a site at all.

    Attributes
    ----------
    near : int array (node, neighbour)
        Sites, nearest first; 0 with weight 0 where there are fewer.
    weight : float64 array (node, neighbour)
        Of sum 1 where covered.
    covered : bool array (node,)
    """

    near: Int[np.ndarray, "node neighbour"]
    weight: Float[np.ndarray, "node neighbour"]
    covered: Bool[np.ndarray, "node"]

    def apply(
        self,
        value: Float[np.ndarray, "site channel"],
        out: Float[np.ndarray, "node channel"],
        columns: slice | np.ndarray = slice(None),
        shift: Float[np.ndarray, "channel"] | float = 0.0,
    ) -> None:
        """Write the interpolated values plus ``shift`` into columns of ``out``; 0 if uncovered.

        In the precision of ``value``.
        """
        from scipy.sparse import csr_array

        k = self.near.shape[1]
        shift = np.asarray(shift, value.dtype)

        def work(rows: slice) -> None:
            n = rows.stop - rows.start
            begins = np.arange(0, n * k + 1, k, dtype=self.near.dtype)
            parts = (self.weight[rows].ravel().astype(value.dtype), self.near[rows].ravel(), begins)
            field = csr_array(parts, shape=(n, len(value))) @ value
            field += shift
            field[~self.covered[rows]] = 0.0
            out[rows, columns] = field

        for_pieces(work, len(self.near), 4 * _PIECE)


def kriging_weights(
    grid: Grid,
    place: Float[np.ndarray, "site 3"],
    *,
    range_km: float,
    n_neighbours: int,
    radius_km: float,
    noise: Float[np.ndarray, "site"] | None = None,
) -> KrigingWeights:
    """Weights of `krige`, which says what they are."""
    from scipy.spatial import KDTree

    k = min(n_neighbours, len(place))
    reach = min(radius_km / EARTH_RADIUS_KM, np.pi)
    bound = np.nextafter(2.0 * np.sin(0.5 * reach), np.inf)
    found = KDTree(place).query(
        node_vectors(grid), k=k, distance_upper_bound=bound, workers=n_threads()
    )
    chord, near = (np.reshape(part, (grid.n_node, k)) for part in found)  # k = 1 comes flat
    noise = np.zeros(len(place)) if noise is None else noise
    near = np.where(np.isfinite(chord), near, 0).astype(np.int32)
    weight = np.empty_like(chord)

    def work(rows: slice) -> None:
        weight[rows] = _weights(
            chord[rows].T, near[rows].T, place.T, noise, range_km / EARTH_RADIUS_KM
        ).T

    for_pieces(work, grid.n_node, _PIECE)
    return KrigingWeights(near, weight, np.isfinite(chord[:, 0]))


def _covariance(chord_squared: np.ndarray, scale: float) -> np.ndarray:
    """``exp(-d / scale)``, d the angle that belongs to a chord of the unit sphere; in place."""
    half = np.sqrt(chord_squared, out=chord_squared)
    half *= 0.5
    angle = np.arcsin(np.minimum(half, 1.0, out=half), out=half)
    angle *= -2.0 / scale
    return np.exp(angle, out=angle)


def _weights(
    chord: Float[np.ndarray, "neighbour node"],
    near: Int[np.ndarray, "neighbour node"],
    place: Float[np.ndarray, "3 site"],
    noise: Float[np.ndarray, "site"],
    scale: float,
) -> Float[np.ndarray, "neighbour node"]:
    """Weights of all nodes at once; absent neighbours have an identity row and weight zero.

    With a = C^-1 c and b = C^-1 1 they are a - b (1'a - 1) / 1'b.
    """
    k, n = chord.shape
    there = np.isfinite(chord)
    where = place[:, near]
    matrix = np.zeros((k, k, n))  # the lower triangle is used
    for i in range(k):
        matrix[i, i] = np.where(there[i], 1.0 + noise[near[i]], 1.0)
        if i:
            apart = where[:, i, None] - where[:, :i]
            covariance = _covariance(np.einsum("xjn,xjn->jn", apart, apart), scale)
            matrix[i, :i] = covariance * (there[i] & there[:i])
    right = np.zeros((k, 2, n))
    right[:, 0] = _covariance(np.where(there, chord, 0.0) ** 2, scale) * there
    right[:, 1] = there
    a, b = _solved(matrix, right).transpose(1, 0, 2)
    norm = b.sum(0)
    return a - b * ((a.sum(0) - 1.0) / np.where(norm > 0, norm, 1.0))


def _solved(
    matrix: Float[np.ndarray, "k k node"], right: Float[np.ndarray, "k side node"]
) -> Float[np.ndarray, "k side node"]:
    """Solve positive definite systems by Cholesky decomposition, in place."""
    k = len(matrix)
    for j in range(k):
        pivot = 1.0 / np.sqrt(matrix[j, j])
        matrix[j:, j] *= pivot
        matrix[j, j] = pivot  # the inverse of the diagonal is what is needed later
        right[j] *= pivot
        below = matrix[j + 1 :, j]
        for i in range(j + 1, k):
            matrix[i, j + 1 : i + 1] -= below[i - j - 1] * below[: i - j]
        right[j + 1 :] -= below[:, None] * right[j]
    for j in range(k - 1, -1, -1):
        right[j] *= matrix[j, j]
        right[:j] -= matrix[j, :j][:, None] * right[j]
    return right


# Observations interpolated over the globe by ordinary kriging.


def interpolate(
    obs: xr.Dataset,
    *,
    like: xr.Dataset,
    background: xr.Dataset | None = None,
    method: Literal["kriging"] = "kriging",
    range_km: float = 600.0,
    n_neighbours: int = 9,
    radius_km: float = 2000.0,
    nugget: bool = False,
) -> xr.Dataset:
    """Interpolate observations to the grid of a state.

    Ordinary kriging with the Matern 1/2 (exponential) covariance ``exp(-d / range)`` of the
    great-circle distance, from the nearest neighbours within a radius, as in DiffDA. It is exact
    at the sites, and a constant field stays constant. The weights are computed once for all
    variables and levels that are observed at the same sites.

    Parameters
    ----------
    obs
        Observations in any accepted form, of one analysis time; their times are not looked at.
        Those off the levels of ``like`` are first interpolated in log-pressure between the levels
        of their own station.
    like
        State whose grid, variables, levels and convention the result takes; without values.
    background
        State in any convention on the same grid, one member and time: taken where no site is
        within the radius, and for what is not observed at all.
    method
        Only ``"kriging"``.
    range_km, n_neighbours, radius_km
        Range of the covariance, largest number of neighbours, search radius.
    nugget
        Whether to smooth: the error variances of the observations, divided by the variance of the
        values, are added to the diagonal. The weights then differ by variable and level.

    Returns
    -------
    Dataset
        On the ([level,] lat, lon) of ``like``, in its names, units and order. Without a
        background, points with no site within the radius have the area mean of the interpolated
        points, and channels that are not observed at all are NaN.

    Raises
    ------
    InputError
        If the observations, ``like``, the background or the settings are wrong.

    Examples
    --------
    >>> field = xr.DataArray(np.zeros((4, 8)), dims=("lat", "lon"),
    ...                      coords={"lat": [67.5, 22.5, -22.5, -67.5], "lon": range(0, 360, 45)})
    >>> obs = xr.Dataset({"2t": ("station", [280.0, 280.0])},
    ...                  {"lat": ("station", [22.5, 22.5]), "lon": ("station", [45.0, 90.0])})
    >>> out = interpolate(obs, like=field.to_dataset(name="2m_temperature"))
    >>> out["2m_temperature"].values.round(3).min()
    np.float32(280.0)
    """
    _check_settings(method, range_km, n_neighbours, radius_km)
    convention = read_metadata(like, what="like")
    layout = convention.layout
    tidy = to_tidy(obs)
    state = None if background is None else _one_state(background, layout)
    field, covered = interpolated_state(
        tidy,
        layout,
        range_km=range_km,
        n_neighbours=n_neighbours,
        radius_km=radius_km,
        nugget=nugget,
    )
    if state is None:
        _fill_by_means(layout.grid, field, covered)
    else:
        np.copyto(field, state, where=~covered)
    out = in_convention(field, convention)
    return out.assign_attrs(
        interpolation=f"{method}, exponential covariance, {range_km:g} km, "
        f"{n_neighbours} neighbours within {radius_km:g} km"
    )


def _one_state(background: xr.Dataset, layout: Layout) -> Float[np.ndarray, "node channel"]:
    state, _, _ = to_state(background, layout, what="background")
    if np.prod(state.shape[:-2]) != 1:
        raise InputError(
            [
                Problem(
                    f"a background of batch shape {state.shape[:-2]}",
                    "one member at one time",
                    "background.isel(member=0, time=0)",
                )
            ],
            what="background",
        )
    return state.reshape(state.shape[-2:])


def interpolated_state(
    tidy: xr.Dataset,
    layout: Layout,
    *,
    range_km: float = 600.0,
    n_neighbours: int = 9,
    radius_km: float = 2000.0,
    nugget: bool = False,
) -> tuple[Float[np.ndarray, "node channel"], Bool[np.ndarray, "node channel"]]:
    """`interpolate` on arrays: the kriged state, and where a site is within the radius.

    Returns
    -------
    field : float32 array (node, channel)
        Zero where not covered.
    covered : bool array (node, channel)

    Examples
    --------
    >>> import pandas as pd
    >>> layout = Layout(Grid.from_coords([-45, 0, 45], [0, 120, 240]), ("2m_temperature",))
    >>> frame = pd.DataFrame({"variable": ["2t"], "lat": 0.0, "lon": 120.0, "value": 280.0})
    >>> field, covered = interpolated_state(to_tidy(frame), layout)
    >>> field[covered].tolist()
    [280.0]
    """
    shape = (layout.grid.n_node, layout.n_channel)
    state, seen = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for sites in channel_sites(tidy, layout):
        for one in _split(sites) if nugget else [sites]:
            weights = kriging_weights(
                layout.grid,
                one.place,
                range_km=range_km,
                n_neighbours=n_neighbours,
                radius_km=radius_km,
                noise=_relative_noise(one) if nugget else None,
            )
            # Weights sum to 1: without their mean, values lose nothing in single precision.
            mean = one.value.mean(0)
            anomaly = (one.value - mean).astype(np.float32)
            weights.apply(anomaly, state, one.columns, shift=mean)
            seen[:, one.columns] = weights.covered[:, None]
    return state, seen


def _fill_by_means(grid: Grid, field: np.ndarray, covered: np.ndarray) -> None:
    """Area mean of the covered points where not covered; NaN in channels without any."""
    for channel in np.flatnonzero(~covered.all(0)):
        here = covered[:, channel]
        area = grid.area_weights()[here]
        column = field[:, channel]
        column[~here] = (area @ column[here]) / area.sum() if here.any() else np.nan


def _check_settings(method: str, range_km: float, n_neighbours: int, radius_km: float) -> None:
    problems = []
    if method != "kriging":
        problems.append(Problem(f"method={method!r}", "`kriging`", 'method="kriging"'))
    settings = {
        "range_km": (range_km, 600.0),
        "n_neighbours": (n_neighbours, 9),
        "radius_km": (radius_km, 2000.0),
    }
    for name, (value, usual) in settings.items():
        whole = name == "n_neighbours"
        kinds = (int, np.integer) if whole else (int, float, np.number)
        if not (isinstance(value, kinds) and value > 0):
            problems.append(
                Problem(
                    f"{name}={value!r}",
                    "a positive whole number" if whole else "a positive number",
                    f"interpolate(obs, like=like, {name}={usual})",
                )
            )
    if problems:
        raise InputError(problems, what="interpolate")


def _split(sites: SiteSet) -> list[SiteSet]:
    """One set per channel."""
    return [
        SiteSet(sites.place, sites.channels[[i]], sites.value[:, [i]], sites.error_std[:, [i]])
        for i in range(sites.channels.size)
    ]


def _relative_noise(sites: SiteSet) -> Float[np.ndarray, "site"]:
    """Error variance in units of the variance of the observed field."""
    error = sites.error_std[:, 0] ** 2
    signal = np.var(sites.value[:, 0]) - np.mean(error[np.isfinite(error)]) if error.size else 0.0
    # Where the values scatter less than their errors, the field is constant as far as is known.
    return np.minimum(error / max(signal, 1e-6 * np.min(error)), 1e6)


def krige(
    grid: Grid,
    place: Float[np.ndarray, "site 3"],
    value: Float[np.ndarray, "site channel"],
    *,
    range_km: float = 600.0,
    n_neighbours: int = 9,
    radius_km: float = 2000.0,
    noise: Float[np.ndarray, "site"] | None = None,
) -> tuple[Float[np.ndarray, "node channel"], np.ndarray]:
    r"""Ordinary kriging of values at distinct sites to the nodes of a grid.

    At each node the weights solve

    .. math:: \begin{pmatrix} C + N & 1 \\ 1^T & 0 \end{pmatrix}
              \begin{pmatrix} w \\ \mu \end{pmatrix} = \begin{pmatrix} c \\ 1 \end{pmatrix}

    with C and c the covariances ``exp(-d / range)`` among the neighbours and between them and
    the node, N the diagonal of ``noise``.

    Parameters
    ----------
    grid
        Target.
    place
        Unit vectors of distinct sites.
    value
        Values at the sites, one column per channel; all columns share the weights.
    range_km, n_neighbours, radius_km
        Range of the covariance, largest number of neighbours, search radius.
    noise
        Error variance of each site relative to the variance of the field; none by default.

    Returns
    -------
    field : float64 array (node, channel)
        Zero where not covered.
    covered : bool array (node,)
        Whether at least one site is within the radius.

    Examples
    --------
    >>> grid = Grid.from_coords([-45, 0, 45], [0, 120, 240])
    >>> field, covered = krige(grid, np.array([[1.0, 0.0, 0.0]]), np.array([[3.0]]))
    >>> field[covered].tolist()
    [[3.0]]
    """
    weights = kriging_weights(
        grid, place, range_km=range_km, n_neighbours=n_neighbours, radius_km=radius_km, noise=noise
    )
    field = np.empty((grid.n_node, value.shape[1]))
    weights.apply(np.asarray(value, np.float64), field)
    return field, weights.covered
