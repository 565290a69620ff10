"""Print what 3D-Var gains from a B that knows rotational from divergent wind, and balance.

    python tests/benchmarks/balance_of_b.py --data nature --pairs pairs-rollout

The package's B takes u and v for two scalars: for every degree one matrix between channels.
Here the same residuals, observations and solver meet three covariances: that one; one of stream
function and velocity potential in place of u and v; and one in which mass (geopotential,
temperature, humidity, pressure) is what a regression on sin(lat) times the stream function
gives, degree by degree, plus an unbalanced rest of its own (Parrish & Derber 1992, Mon. Wea.
Rev. 120, 1747-1763; Derber & Bouttier 1999, Tellus A 51, 195-221).  B comes from the
validation part's forecasts of 36 to 60 h, errors are those of the evaluation part's of 48 h.
Experiment, not product: dense matrices, numpy.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.special import sph_harm_y

from xdiffda.osse.pairs import Pairs, load_pairs
from xdiffda.registry import load_model
from xdiffda.state import Layout
from xdiffda.train.data import Nature, load_nature

TRUNCATION = 31
Array = np.ndarray


class Harmonics:
    """Scalar harmonics, and vector harmonics of (u, v): rotational first, then divergent."""

    def __init__(self, layout: Layout) -> None:
        lat, lon = (np.deg2rad(np.array(x)) for x in (layout.grid.lat, layout.grid.lon))
        phi, lam = (x.ravel() for x in np.meshgrid(lat, lon, indexing="ij"))
        pairs = [(n, m) for n in range(TRUNCATION + 1) for m in range(-n, n + 1)]
        self.degree = np.array([n for n, _ in pairs])
        small = 1e-5
        y = np.stack([_real(n, m, phi, lam) for n, m in pairs], 1)
        north = np.stack(
            [_real(n, m, phi + small, lam) - _real(n, m, phi - small, lam) for n, m in pairs], 1
        ) / (2 * small)
        east = np.stack([-m * _real(n, -m, phi, lam) for n, m in pairs], 1) / np.cos(phi)[:, None]
        self.some = np.flatnonzero(self.degree)  # degree 0 has no wind
        root = 1 / np.sqrt(self.degree[self.some] * (self.degree[self.some] + 1.0))
        north, east = north[:, self.some] * root, east[:, self.some] * root
        wind = np.block([[-north, east], [east, north]])
        area = layout.grid.area_weights()
        inverse = _inverse(y, area)
        # coefficients of a stream function -> those of sin(lat) times it
        self.coriolis = (inverse @ (np.sin(phi)[:, None] * y[:, self.some] * root)).astype("f4")
        self.scalar, self.scalar_inverse = y.astype("f4"), inverse.astype("f4")
        self.wind, self.wind_inverse = (
            x.astype("f4") for x in (wind, _inverse(wind, np.tile(area, 2)))
        )


def _real(n: int, m: int, phi: Array, lam: Array) -> Array:
    y = np.sqrt(4 * np.pi) * sph_harm_y(n, abs(m), np.pi / 2 - phi, lam)
    return y.real if m == 0 else np.sqrt(2) * (y.real if m > 0 else y.imag)


def _inverse(functions: Array, area: Array) -> Array:
    gram = functions.T @ (area[:, None] * functions)
    gram += 1e-6 * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.linalg.solve(gram, functions.T * area)


@dataclasses.dataclass
class Control:
    """Map from coefficients of independent control variables to the grid, and its transpose."""

    harmonics: Harmonics
    u: list[int]
    v: list[int]
    mass: list[int]
    vector: bool
    regression: Array | None = None  # (degree, mass channel, level of wind)

    def analysis(self, z: Array) -> Array:
        """Coefficients (sample, function, channel) of samples, unbalanced where balanced."""
        h = self.harmonics
        a = np.einsum("kn,snc->skc", h.scalar_inverse, z, optimize=True)
        if self.vector:
            wind = np.concatenate([z[:, :, self.u], z[:, :, self.v]], 1)
            b = np.einsum("kn,snc->skc", h.wind_inverse, wind, optimize=True)
            half = len(h.some)
            a[:, :, self.u + self.v] = 0
            a[:, h.some[:, None], self.u] = b[:, :half]
            a[:, h.some[:, None], self.v] = b[:, half:]
        return a

    def balanced(self, a: Array) -> Array:
        """Share of the mass field that the stream function implies."""
        h = self.harmonics
        implied = np.einsum("kj,...jc->...kc", h.coriolis, a[..., h.some, :][..., self.u])
        return np.einsum("kcp,...kp->...kc", self.regression[h.degree], implied)

    def fit(self, a: Array) -> Array:
        """Regress mass on the stream function, degree by degree; return what is left."""
        h = self.harmonics
        implied = np.einsum("kj,sjc->skc", h.coriolis, a[:, h.some][:, :, self.u])
        self.regression = np.zeros((TRUNCATION + 1, len(self.mass), len(self.u)), "f4")
        for n in range(TRUNCATION + 1):
            x, y = (
                f[:, h.degree == n].reshape(-1, f.shape[-1]) for f in (implied, a[..., self.mass])
            )
            gram = x.T @ x
            gram += 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram))
            self.regression[n] = np.linalg.solve(gram, x.T @ y).T
        rest = a.copy()
        rest[..., self.mass] -= self.balanced(a)
        return rest

    def synthesis(self, a: Array) -> Array:
        """Grid values (node, channel) of coefficients (function, channel)."""
        h = self.harmonics
        if self.regression is not None:
            a = a.copy()
            a[:, self.mass] += self.balanced(a)
        x = h.scalar @ a
        if self.vector:
            wind = h.wind @ np.concatenate([a[h.some][:, self.u], a[h.some][:, self.v]])
            x[:, self.u], x[:, self.v] = np.split(wind, 2)
        return x

    def adjoint(self, x: Array) -> Array:
        """Transpose of `synthesis`."""
        h = self.harmonics
        a = h.scalar.T @ x
        if self.vector:
            wind = h.wind.T @ np.concatenate([x[:, self.u], x[:, self.v]])
            a[:, self.u + self.v] = 0
            a[h.some[:, None], self.u], a[h.some[:, None], self.v] = np.split(wind, 2)
        if self.regression is not None:
            back = np.einsum("kcp,kc->kp", self.regression[h.degree], a[:, self.mass])
            a[h.some[:, None], self.u] += h.coriolis.T @ back
        return a


def blocks_of(a: Array, degree: Array) -> Array:
    """Second moments between channels for each degree."""
    blocks = []
    for n in range(TRUNCATION + 1):
        x = a[:, degree == n].reshape(-1, a.shape[-1])
        block = x.T @ x / len(x)
        blocks.append(block + 1e-6 * np.trace(block) / len(block) * np.eye(len(block)))
    return np.stack(blocks).astype("f4")


def increment(apply: Callable[[Array], Array], nodes: Array, departure: Array, r: Array) -> Array:
    """3D-Var of observed columns by conjugate gradients in observation space."""
    root = 1 / np.sqrt(r)

    def spread(w: Array) -> Array:
        x = np.zeros((N_NODE, departure.shape[1]), "f4")
        x[nodes] = w
        return apply(x)

    y, rest = np.zeros_like(departure), root * departure
    step, size = rest.copy(), float((rest**2).sum())
    target = 1e-4 * size
    for _ in range(120):
        moved = root * spread(root * step)[nodes] + step
        length = size / float((step * moved).sum())
        y, rest = y + length * step, rest - length * moved
        size, before = float((rest**2).sum()), size
        if size < target:
            break
        step = rest + size / before * step
    return spread(root * y)


N_NODE = 2048


def residuals(pairs: Pairs, nature: Nature, scale: Array, chosen: Array) -> Array:
    """Truth minus background over s, in order of time."""
    index = np.flatnonzero(chosen)
    index = index[np.argsort(pairs.row[index], kind="stable")]
    truth = np.stack([nature.states[pairs.row[i]] for i in index])
    background = np.stack([pairs.background[i] for i in index])
    return ((truth - background) * nature.stddev / scale).astype("f4")


def main(data: str, pairs: str, n_case: int) -> None:
    """Estimate, assimilate, print."""
    nature, prior = load_nature(data), load_model("speedy")
    layout = prior.layout
    names = [c[0] for c in layout.channels]
    u = [i for i, n in enumerate(names) if n.startswith("u_")]
    v = [i for i, n in enumerate(names) if n.startswith("v_")]
    mass = [i for i in range(len(names)) if i not in u + v]
    scale = np.array(prior.scale)
    scale[:, u] = scale[:, v] = np.sqrt((scale[:, u] ** 2 + scale[:, v] ** 2) / 2)
    known, held_out = (load_pairs(pairs, part) for part in ("validation", "evaluation"))
    z = residuals(known, nature, scale, (known.lead >= 36) & (known.lead <= 60))
    new = residuals(held_out, nature, scale, (held_out.lead == 48) & ~held_out.perturbed)
    new = new[np.linspace(0, len(new) - 1, n_case).astype(int)]
    harmonics, area = Harmonics(layout), layout.grid.area_weights()[:, None]
    models = {}
    for name in ("u and v as scalars", "stream function and potential", "the same, balanced mass"):
        control = Control(harmonics, u, v, mass, vector="scalars" not in name)
        a = control.analysis(z)
        if control.vector:
            energy = [(a[:, harmonics.degree > 20][..., c] ** 2).sum() for c in (v, u)]
        a = control.fit(a) if "balanced" in name else a
        blocks = blocks_of(a, harmonics.degree)[harmonics.degree]
        full = a.copy()
        if control.regression is not None:
            full[..., mass] += control.balanced(a)
            share = (a[..., mass] ** 2).sum((0, 1)) / (full[..., mass] ** 2).sum((0, 1))
            shares = zip(mass, share, strict=True)
            print("unbalanced share of the variance:", ", ".join(
                f"{layout.channel_names[c]} {value:.2f}" for c, value in shares))  # fmt: skip
        missed = np.mean(
            [(x - control.synthesis(b)) ** 2 for x, b in zip(z[::4], a[::4], strict=True)], axis=0
        )
        models[name] = (control, blocks, missed)
    print(
        f"divergent over rotational energy of errors beyond degree 20: {energy[0] / energy[1]:.2f}"
    )
    std = 0.25 * np.sqrt((area * new**2).mean((0, 1)))
    for n_column in (100, 416, 1000):
        total = dict.fromkeys(("background", *models), 0.0)
        for case, x in enumerate(new):
            rng = np.random.default_rng(1000 * n_column + case)
            nodes = rng.choice(N_NODE, n_column, replace=False, p=area[:, 0] / area.sum())
            departure = x[nodes] + (std * rng.standard_normal((n_column, len(std)))).astype("f4")
            total["background"] += (area * x**2).mean(0)
            for name, (control, blocks, missed) in models.items():
                apply = lambda f, c=control, b=blocks: c.synthesis(  # noqa: E731
                    np.einsum("kcd,kd->kc", b, c.adjoint(f)))  # fmt: skip
                found = increment(apply, nodes, departure, (std**2 + missed[nodes]).astype("f4"))
                total[name] += (area * (x - found) ** 2).mean(0)
        for name in models:
            ratio = np.sqrt(total[name] / total["background"])
            parts = {"all": slice(None), "winds": u + v, "mass": mass}
            text = "  ".join(f"{part} {ratio[c].mean():.3f}" for part, c in parts.items())
            print(f"{n_column:5d} columns  {name:30s} {text}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="nature")
    parser.add_argument("--pairs", default="pairs-rollout")
    parser.add_argument("--n-case", type=int, default=20, dest="n_case")
    main(**vars(parser.parse_args()))
