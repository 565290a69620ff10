"""Localisation: which observations influence a grid point, and with which weight.

Geometry only, on the host (numpy and scipy): tapers, places of observations, and padded
lists of neighbours in chunks of bounded memory.  What is computed with them is geometry-free.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from xdiffda.covariance.harmonics import Basis, Points, Restricted
from xdiffda.errors import Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.state.grid import Layout

if TYPE_CHECKING:
    from jaxtyping import Int


EARTH_RADIUS_KM = 6371.0
# where variables and observations without a level stand in the vertical
SURFACE_HPA = 1000.0
# pairs of grid point and observation that are held at a time, 24 bytes each
_PAIRS = 2**24
# lists are padded to this width at least: fewer shapes to compile
_MIN_WIDTH = 32


def gaspari_cohn(
    distance: Float[np.ndarray, "*shape"], length: float
) -> Float[np.ndarray, "*shape"]:
    """Compactly supported correlation that looks like a Gaussian of standard deviation ``length``.

    Gaspari & Cohn (1999), doi 10.1002/qj.49712555417, eq. 4.10, with the half-width
    ``c = sqrt(10/3) length``; exactly 0 from ``2 c = 3.65 length`` on.

    Parameters
    ----------
    distance : array
        Not negative, in the unit of ``length``.
    length : float
        Infinite: 1 everywhere.

    Examples
    --------
    >>> gaspari_cohn(np.array([0.0, 1.0, 3.65, 4.0]), 1.0).round(2).tolist()
    [1.0, 0.64, 0.0, 0.0]
    """
    z = np.asarray(distance, np.float64) / (np.sqrt(10 / 3) * length)
    near = 1 + z**2 * (-5 / 3 + z * (5 / 8 + z * (1 / 2 - z / 4)))
    safe = np.clip(z, 1.0, 2.0)  # the second branch divides by z
    far = 4 - 2 / (3 * safe) + safe * (-5 + safe * (5 / 3 + safe * (5 / 8 - safe / 2)))
    far = far + safe**5 / 12
    return np.where(z < 1, near, np.where(z < 2, np.maximum(far, 0.0), 0.0))


@dataclasses.dataclass(frozen=True)
class Localisation:
    """The radius of influence of observations, in the horizontal and in the vertical.

    The default suits some 20 members and a dense network: 500 km as in the SPEEDY-LETKF of
    Miyoshi (2005; its later public code takes 1,000 km), in the vertical wider than its 0.1,
    which is less than our levels' spacing.

    Attributes
    ----------
    length_km : float
        Gaussian-equivalent length of the Gaspari-Cohn taper of great-circle distance; zero
        from `cutoff_km` = 3.65 times the length on.  Infinite: no localisation.
    length_log_p : float
        The same in the logarithm of pressure.
    max_obs : int, optional
        Most observations that a grid point takes at one height, the nearest ones; of those
        equally far the first in the order of the table. Default all.
    variables : tuple of tuple of str
        Groups of variables that observations of other groups do not change; variables that
        are not named make one more group.  Default: all change all.

    Examples
    --------
    >>> round(Localisation(length_km=500.0).cutoff_km)
    1826
    """

    length_km: float = 500.0
    length_log_p: float = 0.2
    max_obs: int | None = None
    variables: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        problems = [
            Problem(f"{name}={value!r}", "a positive number", f"Localisation({name}=0.5)")
            for name, value in (
                ("length_km", self.length_km),
                ("length_log_p", self.length_log_p),
            )
            if not value > 0
        ]
        if self.max_obs is not None and self.max_obs < 1:
            problems.append(Problem(f"max_obs={self.max_obs!r}", "1 or more", "max_obs=None"))
        named = [name for group in self.variables for name in group]
        if len(set(named)) < len(named):
            problems.append(
                Problem(f"variables={self.variables}", "each variable in one group", "variables=()")
            )
        raise_if(problems, what="localisation")

    @property
    def cutoff_km(self) -> float:
        """Distance from which on observations have no influence."""
        return float(2 * np.sqrt(10 / 3) * self.length_km)

    def group(self, variable: str) -> int:
        """Number of the group of a variable."""
        found = [i for i, names in enumerate(self.variables) if variable in names]
        return found[0] if found else len(self.variables)


LOCALISATION = Localisation()


class Places(NamedTuple):
    """Positions of observations.

    Attributes
    ----------
    lat, lon : arrays (obs,)
        Degrees.
    log_pressure : array (obs,)
        Logarithm of pressure in hPa; NaN at the surface.
    """

    lat: Float[np.ndarray, " obs"]
    lon: Float[np.ndarray, " obs"]
    log_pressure: Float[np.ndarray, " obs"]


def unit_vectors(lat: np.ndarray, lon: np.ndarray) -> Float[np.ndarray, "place 3"]:
    """Unit vectors of places in degrees."""
    phi, lam = np.deg2rad(np.asarray(lat, float)), np.deg2rad(np.asarray(lon, float))
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)


def centres(
    index: Int[np.ndarray, "obs term"],
    weight: Float[np.ndarray, "obs term"],
    layout_nodes: Any,
    n_channel: int,
) -> Float[np.ndarray, "obs 3"]:
    """Unit vectors of observations: weighted means of the grid points that they see."""
    share = np.abs(np.asarray(weight, np.float64))
    place = np.einsum("op,opx->ox", share, layout_nodes[np.asarray(index) // n_channel])
    size = np.linalg.norm(place, axis=1, keepdims=True)
    return np.where(size > 0, place / np.where(size > 0, size, 1.0), [0.0, 0.0, 1.0])


def log_pressures(layout: Layout) -> Float[np.ndarray, " channel"]:
    """Logarithm of pressure (hPa) of each channel; NaN at the surface."""
    return np.array([np.nan if p is None else np.log(p) for _, p in layout.channels])


def places_of(obs: Any, layout: Layout) -> Places:
    """Places of linear observations, from what they see of the state.

    Parameters
    ----------
    obs : ObsVector
        Or anything with ``index`` and ``weight``.
    layout : Layout

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from xdiffda.state.grid import Grid, Layout
    >>> layout = Layout(Grid.from_coords([-45, 45], [0, 90, 180, 270]), ("temperature",), (500,))
    >>> seen = SimpleNamespace(index=np.array([[0, 1]]), weight=np.array([[0.5, 0.5]]))
    >>> places_of(seen, layout).lon.round(3).tolist()
    [45.0]
    """
    index, weight = np.asarray(obs.index), np.asarray(obs.weight)
    nodes = unit_vectors(layout.grid.node_lat, layout.grid.node_lon)
    x, y, z = centres(index, weight, nodes, layout.n_channel).T
    share = np.abs(weight) / np.maximum(np.abs(weight).sum(1, keepdims=True), 1e-30)
    height = log_pressures(layout)[index % layout.n_channel]
    mean = np.where(share > 0, share * height, 0.0).sum(1)
    return Places(np.rad2deg(np.arcsin(np.clip(z, -1, 1))), np.rad2deg(np.arctan2(y, x)), mean)


class Patches(NamedTuple):
    """Grid points with as many places for neighbours each; the first ``n`` are real.

    Attributes
    ----------
    n : int
    node : array (patch,)
    near : array (patch, neighbour)
        Observations, nearest first.
    distance_km : array (patch, neighbour)
        Infinite where there is no neighbour.
    """

    n: int
    node: Int[np.ndarray, " patch"]
    near: Int[np.ndarray, "patch neighbour"]
    distance_km: Float[np.ndarray, "patch neighbour"]


def neighbourhoods(
    nodes: Float[np.ndarray, "node 3"],
    obs: Float[np.ndarray, "obs 3"],
    *,
    radius_km: float,
    max_obs: int | None = None,
    floats: Callable[[int], int] = lambda width: width,
    budget: int = 2**26,
) -> Iterator[Patches]:
    """Grid points and their neighbours, a chunk at a time.

    Points with about as many neighbours share a chunk; the numbers of points and neighbours
    are powers of two, so that compiled code is shared by chunks, heights and analysis times.

    Parameters
    ----------
    nodes, obs : arrays (node, 3) and (obs, 3)
        Unit vectors.
    radius_km : float
        Great-circle distance up to which observations are neighbours.
    max_obs : int, optional
        Keep so many, the nearest.
    floats : callable
        Numbers that a point with so many neighbours needs.
    budget : int
        Numbers that a chunk may need, at least one point's.
    """
    from scipy.spatial import KDTree

    reach = min(radius_km / EARTH_RADIUS_KM, np.pi)
    bound = np.nextafter(2 * np.sin(reach / 2), 3.0) if reach < np.pi else 2.1
    tree = KDTree(obs) if len(obs) else None
    block = int(np.clip(_PAIRS // max(len(obs), 1), 64, 4096))
    for start in range(0, len(nodes), block):
        own = nodes[start : start + block]
        if tree is None:
            pairs = np.zeros(0, [("i", np.intp), ("j", np.intp), ("v", np.float64)])
        else:
            pairs = KDTree(own).sparse_distance_matrix(tree, bound, output_type="ndarray")
        pairs = pairs[np.lexsort((pairs["j"], np.round(pairs["v"], 9), pairs["i"]))]
        yield from _chunks(pairs, start, len(own), max_obs, floats, budget)


def _chunks(
    pairs: np.ndarray,
    start: int,
    n_node: int,
    max_obs: int | None,
    floats: Callable[[int], int],
    budget: int,
) -> Iterator[Patches]:
    count = np.bincount(pairs["i"], minlength=n_node)
    first = np.cumsum(count) - count
    kept = np.minimum(count, max_obs) if max_obs is not None else count
    # one more pair, for points without neighbours to point at
    other = np.append(pairs["j"], 0)
    distance = 2 * EARTH_RADIUS_KM * np.arcsin(np.clip(np.append(pairs["v"], 0.0) / 2, 0, 1))
    order = np.argsort(-kept, kind="stable")
    begin = 0
    while begin < n_node:
        width = max(_MIN_WIDTH, _power_of_two(int(kept[order[begin]])))
        most = max(1, budget // max(1, floats(width)))
        size = min(_power_of_two(n_node) // 8 or 1, _power_of_two(most + 1) // 2)
        some = order[begin : begin + size]
        begin += size
        slot = np.arange(width)[None]
        real = slot < kept[some][:, None]
        at = np.where(real, first[some][:, None] + slot, len(pairs))
        more = ((0, size - len(some)), (0, 0))
        yield Patches(
            len(some),
            np.pad(start + some, more[0]),
            np.pad(other[at], more),
            np.pad(np.where(real, distance[at], np.inf), more, constant_values=np.inf),
        )


def _power_of_two(count: int) -> int:
    """The next power of two."""
    return 1 << max(count - 1, 0).bit_length()


# Localised covariance of a background ensemble, applied matrix-free, with its square root.

# wider than for R-localisation: the product with B's own scales narrows what is left
HYBRID_LOCALISATION = Localisation(length_km=900.0, length_log_p=0.6)


def localisation_spectrum(basis: Basis, length_km: float) -> Float[np.ndarray, " degree"]:
    """Variance per coefficient of a Gaspari-Cohn correlation on the sphere; not negative.

    The taper is a function of the chord, for which it is positive definite, cut at the
    truncation of the basis and brought to variance 1.

    Examples
    --------
    >>> from xdiffda.covariance.harmonics import sphere_basis
    >>> basis = sphere_basis((-60.0, -20.0, 20.0, 60.0), tuple(60.0 * i for i in range(6)))
    >>> c = localisation_spectrum(basis, 2000.0)
    >>> round(float(c @ np.asarray(basis.multiplicity)) / 9, 6)
    1.0
    """
    count = np.asarray(basis.multiplicity, np.float64)
    if np.isinf(length_km):
        return np.where(np.arange(len(count)) == 0, count.sum(), 0.0)
    end = np.sqrt(10 / 3) * length_km / EARTH_RADIUS_KM
    node, weight = np.polynomial.legendre.leggauss(120)
    spectrum = np.zeros(len(count))
    for low, high in ((0.0, min(end, 2.0)), (min(end, 2.0), min(2 * end, 2.0))):
        chord = low + (high - low) * (node + 1) / 2
        legendre = np.polynomial.legendre.legvander(1 - chord**2 / 2, len(count) - 1)
        taper = gaspari_cohn(chord * EARTH_RADIUS_KM, length_km)
        spectrum += (high - low) / 2 * legendre.T @ (weight * taper * chord)
    spectrum = np.maximum(spectrum, 0.0)
    return spectrum * count.sum() / (spectrum @ count)


def vertical_root(layout: Layout, length_log_p: float) -> Float[np.ndarray, "channel height"]:
    """Root E of the vertical localisation, ``C = E E^T`` with a diagonal of 1.

    Channels of one height share a row.

    Examples
    --------
    >>> from xdiffda.state.grid import Grid
    >>> layout = Layout(Grid.from_coords([-45, 45], [0, 120, 240]), ("temperature",), (100, 850))
    >>> e = vertical_root(layout, 0.3)
    >>> (e @ e.T).round(6).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    height = np.nan_to_num(log_pressures(layout), nan=np.log(SURFACE_HPA))
    levels, row = np.unique(height, return_inverse=True)
    values, vectors = np.linalg.eigh(gaspari_cohn(np.abs(levels[:, None] - levels), length_log_p))
    keep = values > 1e-6 * values.max()
    root = vectors[:, keep] * np.sqrt(values[keep])
    return (root / np.linalg.norm(root, axis=1, keepdims=True))[row]


class EnsembleCovariance(eqx.Module):
    """Localised covariance of an ensemble, ``V = sum_k x_k o C (x_k o .)``.

    Attributes
    ----------
    basis : Basis
    perturbations : array (node, sample, channel)
        In units of z, their squares add up to the variance: `centre`.
    horizontal : array (degree,)
        Spectrum of C: `localisation_spectrum`.
    vertical : array (channel, height)
        Root of the vertical localisation: `vertical_root`.
    """

    basis: Basis
    perturbations: Float[Array, "node sample channel"]
    horizontal: Float[Array, " degree"]
    vertical: Float[Array, "channel height"]

    @classmethod
    @with_own_jax
    def localised(
        cls,
        perturbations: Float[np.ndarray, "node sample channel"],
        basis: Basis,
        layout: Layout,
        *,
        localisation: Localisation = HYBRID_LOCALISATION,
    ) -> EnsembleCovariance:
        """Localise the sample covariance of ``perturbations`` in km and in ln p.

        Source: Houtekamer & Mitchell (2001),
        doi 10.1175/1520-0493(2001)129<0123:ASEKFF>2.0.CO;2.
        """

        def as32(a):
            return jnp.asarray(a, jnp.float32)

        horizontal = localisation_spectrum(basis, localisation.length_km)
        vertical = vertical_root(layout, localisation.length_log_p)
        return cls(basis.scalar, as32(perturbations), as32(horizontal), as32(vertical))

    @property
    def variance(self) -> Float[Array, "node channel"]:
        """Variance of the ensemble."""
        return jnp.sum(self.perturbations**2, axis=1)

    def __call__(self, x: Float[Array, "node *rest channel"]) -> Float[Array, "node *rest channel"]:
        """Return ``V x``."""
        return _between(self, self, x)

    def at(self, points: Points) -> Restricted:
        """The same covariance among some points, and from these to the whole grid."""
        basis, own = self.basis.at(points), points.pick(self.perturbations)
        near = EnsembleCovariance(basis, own, self.horizontal, self.vertical)
        return Restricted(near, lambda x: _between(near, self, x), basis.n_node)

    def members(self, numbers: Array) -> Float[Array, "node member channel"]:
        """Perturbations of members by number, modulo their count: those given, not divided.

        Their sample covariance (of all, by count less one) is that of the ensemble.
        """
        n = self.perturbations.shape[1]
        return jnp.sqrt(n - 1.0) * self.perturbations[:, numbers % n]

    def root(self) -> EnsembleRoot:
        """``V^(1/2)``, for 3D-Var's control variable."""
        return EnsembleRoot(self)

    @with_own_jax
    def sample(self, keys: PRNGKeyArray) -> Float[Array, "node member channel"]:
        """Draw one state for each key."""
        shape = self.root().control().shape

        def draw(key):
            return self.root()(jax.random.normal(key, shape))

        return jax.vmap(draw, out_axes=1)(keys)


def _between(
    source: EnsembleCovariance,
    target: EnsembleCovariance,
    x: Float[Array, "source *rest channel"],
) -> Float[Array, "target *rest channel"]:
    """V x at the points of ``target``, x at those of ``source``."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1])

    def add(total: Array, samples: tuple[Array, Array]) -> tuple[Array, None]:
        here, there = samples
        heights = jnp.matmul(flat * here[:, None], source.vertical, precision="highest")
        a = source.basis.adjoint(heights) * source.horizontal[:, None, None, None]
        smooth = jnp.matmul(target.basis.synthesis(a), target.vertical.T, precision="highest")
        return total + there[:, None] * smooth, None

    samples = [jnp.moveaxis(own.perturbations, 1, 0) for own in (source, target)]
    start = jnp.zeros((target.basis.n_node, *flat.shape[1:]), flat.dtype)
    return jax.lax.scan(add, start, tuple(samples))[0].reshape(-1, *x.shape[1:])


class EnsembleRoot(eqx.Module):
    """``V^(1/2)``: one control field for each sample and height (Lorenc 2003)."""

    covariance: EnsembleCovariance

    def control(self) -> Float[Array, "sample degree order height"]:
        """The control variable of the background: zero."""
        own = self.covariance
        sizes = own.perturbations.shape[1], *own.basis.mask.shape, own.vertical.shape[1]
        return jnp.zeros(sizes)

    def __call__(
        self, chi: Float[Array, "sample degree order height"]
    ) -> Float[Array, "node channel"]:
        """Return ``sum_k x_k o C^(1/2) chi_k``."""
        own = self.covariance
        factor = own.basis.mask * jnp.sqrt(own.horizontal)[:, None]

        def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
            perturbation, control = part
            field = own.basis.synthesis(control * factor[:, :, None])
            return total + perturbation * jnp.matmul(
                field, own.vertical.T, precision="highest"
            ), None

        samples = jnp.moveaxis(own.perturbations, 1, 0)
        return jax.lax.scan(add, jnp.zeros_like(samples[0]), (samples, chi))[0]
