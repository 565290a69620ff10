"""Memory, time and storage of analyses before they are made: counted, not tried.

Operations are counted product by product (`xdiffda.graphcast.costs`), and divided by the rate
of a device; nothing is allocated, so that a laptop can plan for a centre.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from xdiffda._jax_settings import with_own_jax
from xdiffda._plan_checks import checked_plan
from xdiffda._points import WORTH
from xdiffda.costs import Device, Plan, amount
from xdiffda.graphcast.costs import (
    Dimensions,
    Tally,
    count,
    longest_edge,
    parameters,
    temporary_bytes,
)
from xdiffda.graphcast.network import NetworkConfig
from xdiffda.state import Grid

_FLOAT = 4
_STATES = 8  # of z, and their coefficients, alive at once beside the network
_PER_EDGE, _PER_NODE = 32, 24  # bytes of a graph: ends, tables of both ends, features
_PER_OBS = 112  # bytes of an observation: value, error, the eight corners of its stencil
# slots of grid points for each column of observations off the grid (`_points`): its four corners,
# and every row filled up as far as the fullest, at the equator
_PER_COLUMN = 7
_STATIC, _SEASON, _CONDITIONING = 2, 2, 16
_FINEST_MESH = 6
_CHUNKS = tuple(2**n for n in range(17, 9, -1))  # to propose
_USABLE = 0.9  # of a device's memory
_KEPT = 4  # scale and small scales of the prior; background as it came and as an array
_FEWEST_STEPS, _STEPS = 8, 30  # of a solve: at least, and for sqrt(observations per coefficient)


@with_own_jax
def plan(
    *, grid: float | str | Grid = 0.25, levels: int = 13, members: int = 8, obs: float = 1e4,
    devices: int = 1, device: str | Device = "h100", dtype: str = "float32", latent: int = 512,
    processor_steps: int = 16, refinement: int | None = None, n_steps: int = 8,
    max_batch: int = 8, edge_chunk: int = 0, truncation: int | None = None,
    iterations: int | None = None,
) -> Plan:  # fmt: skip
    """Estimate memory, time and storage of a guided analysis.

    Parameters
    ----------
    grid : float, str or Grid
        Spacing in degrees (with rows at the poles), a name such as ``"speedy"``, or the grid.
    levels : int
        Pressure levels: six variables on each, and four at the surface, as in DiffDA.
    members, obs : int
        Members of the ensemble, scalar observations in the window.
    devices : int
        Devices that share the members.
    device : str or Device
        ``"cpu"`` (one core), another key of ``xdiffda.costs.DEVICES`` (``"a10"``, ``"rtx4090"``,
        ``"a100"``, ``"h100"``, ``"h200"``), or a `Device` of one's own.
    dtype : {"float32", "bfloat16"}
        Precision of the network.
    latent, processor_steps : int
        Of the network: width, steps on the mesh.
    refinement : int, optional
        Of the mesh; default 6 at 0.25 degrees, 5 at 1, 3 at 5.6.
    n_steps : int
        Evaluations of the network for each member.
    max_batch : int
        Members computed together at most; fewer if no more fit.
    edge_chunk : int
        Edges computed at a time; 0 for all.
    truncation : int, optional
        Largest total wavenumber of V; default 63, or what the grid resolves.
    iterations : int, optional
        Of the solver in each Kalman update; default by the observations for each number that V
        tells apart. Accurate observations take more.

    Returns
    -------
    Plan
        Prints as a table.

    Raises
    ------
    InputError
        If a number is not positive, or a grid, device or precision is not known.

    Notes
    -----
    Operations agree with XLA's own count within 1 %; memory with what XLA plans for a CPU in
    float32 within 30 %; times on a CPU with what was measured within a factor of two
    (``tests/test_costs.py``, ``tests/test_user_plan.py``). Times on a GPU divide operations and
    bytes by 0.4 of its peaks: a rule of thumb, to be replaced by what was measured,
    ``dataclasses.replace(DEVICES["h100"], efficiency=...)``.

    Examples
    --------
    >>> print(plan(grid="speedy", levels=7, latent=128, processor_steps=4, device="cpu"))
    ... # doctest: +ELLIPSIS
    grid       32 x 64, 46 channels, ... edges, ... million weights
    devices    1 x CPU core, float32
    memory     ...
    """
    numbers = {
        "levels": levels, "members": members, "devices": devices, "latent": latent,
        "processor_steps": processor_steps, "n_steps": n_steps, "max_batch": max_batch,
        "iterations": 1 if iterations is None else iterations, "edge_chunk": edge_chunk,
        "refinement": 0 if refinement is None else refinement,
        "truncation": 0 if truncation is None else truncation,
    }  # fmt: skip
    where, unit = checked_plan(grid, device, dtype, {**numbers, "obs": obs})
    # numbers of numpy overflow
    levels, members, devices, n_steps, max_batch = (
        int(numbers[n]) for n in ("levels", "members", "devices", "n_steps", "max_batch")
    )
    limit = min(where.n_lat - 1, where.n_lon // 2 - 1)
    mesh = mesh_for(where) if refinement is None else refinement
    n_channel = 6 * levels + 4
    config = NetworkConfig(
        3 * n_channel + _STATIC + _SEASON, n_channel, latent=latent, dtype=dtype,
        processor_steps=processor_steps, conditioning_width=_CONDITIONING, edge_chunk=edge_chunk,
    )  # fmt: skip
    task = Task(
        where, Dimensions.of_grid(where.n_lat, where.n_lon, mesh), config,
        min(limit, 63 if truncation is None else truncation), int(obs),
    )  # fmt: skip
    share = -(-members // devices)
    most = min(max_batch, share)
    # a process' own memory tells a CPU, where XLA keeps much of half precision in float32
    held = task.computed(dtype="float32") if unit.process else task
    batch = held.members_that_fit(unit, most)
    # there lie the user's Datasets too: what the prior keeps, the background, and the members
    states = (_KEPT + share) * _FLOAT * where.n_node * n_channel if unit.process else 0
    memory = held.shared_bytes + batch * held.member_bytes + unit.process + states
    fits = not unit.memory or memory <= _USABLE * unit.memory
    tally = count(config, task.size, batch=batch, prepared=True)
    evaluation = task.seconds(unit, tally)
    steps = n_steps * (iterations or task.iterations)
    kalman = task.seconds(unit, task.kalman(steps, share), "float32")
    return Plan(
        grid=where.shape, n_channel=n_channel, n_edge=task.n_edge,
        n_parameter=parameters(config), members=members, n_devices=devices, batch=batch,
        device=unit, dtype=dtype, operations=tally.operations // batch,
        evaluation_seconds=evaluation, kalman_seconds=kalman,
        seconds=-(-share // batch) * n_steps * evaluation + kalman,
        shared_bytes=held.shared_bytes, member_bytes=held.member_bytes, memory_bytes=memory,
        fits=fits, storage_bytes=_FLOAT * members * where.n_node * n_channel,
        advice=() if fits and batch == most else task.advice(unit),
    )  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What is to be computed for one analysis.

    Parameters
    ----------
    grid, size, config
        Grid, dimensions of its graph, and sizes of the network.
    truncation
        Largest total wavenumber of V.
    n_obs
        Scalar observations.
    """

    grid: Grid
    size: Dimensions
    config: NetworkConfig
    truncation: int
    n_obs: int

    @property
    def n_edge(self) -> int:
        """Edges of all three kinds."""
        return self.size.grid2mesh + self.size.within + self.size.mesh2grid

    @property
    def n_coefficient(self) -> int:
        """Coefficients of one channel, as they are stored: (degree, order)."""
        return (self.truncation + 1) * (2 * self.truncation + 1)

    @property
    def shared_bytes(self) -> int:
        """Memory that does not depend on the number of members."""
        copies = _FLOAT + (2 if self.config.dtype == "bfloat16" else 0)
        weights = copies * parameters(self.config)
        graph = _PER_EDGE * self.n_edge + _PER_NODE * (self.size.grid + self.size.mesh)
        # functions along rows with their inverse, and V or B at about ten noise levels
        basis = 2 * _FLOAT * self.n_coefficient * self.grid.n_lat
        blocks = 10 * _FLOAT * (self.truncation + 1) * self.config.n_outputs**2
        temporary, _ = temporary_bytes(self.config, self.size, prepared=True)
        given = _FLOAT * self.size.grid * (self.config.n_outputs + _STATIC)
        return weights + graph + basis + blocks + temporary + given + _PER_OBS * self.n_obs

    @property
    def member_bytes(self) -> int:
        """Memory of each member that is computed at the same time."""
        _, temporary = temporary_bytes(self.config, self.size, prepared=True)
        states = _STATES * self.config.n_outputs * (self.size.grid + self.n_coefficient)
        return temporary + _FLOAT * (states + self.size.grid * self.config.n_inputs)

    def computed(self, **options: Any) -> Task:
        """The same task computed in another way."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **options))

    def members_that_fit(self, device: Device, most: int) -> int:
        """Members computed together: as many as fit, at least one, at most ``most``."""
        if not device.memory:
            return most
        room = _USABLE * device.memory - self.shared_bytes
        return max(min(most, int(room // self.member_bytes)), 1)

    @property
    def iterations(self) -> int:
        """Steps of one solve for the observations, as measured (tests/test_costs.py).

        Conjugate gradients take no more than there are observations, or numbers in V.
        """
        known = (self.truncation + 1) ** 2 * self.config.n_outputs
        steps = round(_FEWEST_STEPS + _STEPS * math.sqrt(self.n_obs / known))
        return min(steps, max(self.n_obs, 1), known)

    @property
    def points(self) -> int:
        """Where solves apply V: the grid, or of it what columns of all channels read."""
        slots = round(_PER_COLUMN * self.n_obs / self.config.n_outputs)
        return slots if slots < WORTH * self.size.grid else self.size.grid

    def kalman(self, iterations: int, members: int) -> Tally:
        """Operations of the Kalman updates: V by spectral transforms, H by stencils."""
        tally, columns = Tally(), iterations * self.config.n_outputs * members
        degrees, orders = self.truncation + 1, 2 * self.truncation + 1
        by_order = orders * self.grid.n_lat
        for _ in range(2):  # to coefficients and back, sums over rows and over columns
            tally.products += columns * (degrees * by_order + orders * self.points)
            # twice, since XLA lays out anew what it multiplies order by order
            tally.moved += 2 * columns * (self.n_coefficient + 2 * by_order + self.points)
        tally.products += 2 * self.config.n_outputs * columns * self.n_coefficient
        tally.moved += 4 * columns * self.n_coefficient
        tally.elements += iterations * 2 * 16 * self.n_obs * members
        tally.moved += iterations * 2 * 24 * self.n_obs * members
        return tally

    def seconds(self, device: Device, tally: Tally, dtype: str | None = None) -> float:
        """Time of what was counted, on one device."""
        dtype = dtype or self.config.dtype
        width = 2 if dtype == "bfloat16" and not device.process else _FLOAT
        return device.seconds(tally.operations, width * tally.moved, dtype)

    def advice(self, device: Device) -> tuple[str, ...]:
        """What reduces the memory, with what one member then needs."""
        half, ways = self.computed(dtype="bfloat16"), {"max_batch=1": self}
        if half.one_member < self.one_member:  # not where weights, then there twice, weigh most
            ways['dtype="bfloat16"'] = half
        for task, words in ((self, ""), (half, 'dtype="bfloat16", ')):
            chunked = task.in_chunks(device) if not words or half != self else None
            if chunked is not None and chunked.one_member < self.one_member:
                ways[f"{words}edge_chunk={chunked.config.edge_chunk}"] = chunked
        return tuple(
            f"{name}: {amount(task.one_member)} for one member, "
            f"{'fits' if task.one_member <= _USABLE * device.memory else 'does not fit'}"
            for name, task in ways.items()
        )

    @property
    def one_member(self) -> int:
        """Memory for a single member."""
        return self.shared_bytes + self.member_bytes

    def in_chunks(self, device: Device) -> Task | None:
        """The same with the largest chunks that fit, or the smallest; None where none save."""
        before = self.config.edge_chunk or self.n_edge
        tasks = [self.computed(edge_chunk=n) for n in _CHUNKS if n < before]
        tasks = [task for task in tasks if task.one_member < self.one_member]
        fitting = (task for task in tasks if task.one_member <= _USABLE * device.memory)
        return next(fitting, tasks[-1] if tasks else None)


def mesh_for(grid: Grid) -> int:
    """Refinement of the mesh for a grid: its longest edge about twice the grid's spacing.

    As published: 5 at 1 degree and, since finer meshes are not in use, 6 at 0.25.

    Examples
    --------
    >>> from xdiffda._grid import NAMED_GRIDS
    >>> mesh_for(NAMED_GRIDS["1440x721"]()), mesh_for(NAMED_GRIDS["speedy"]())
    (6, 3)
    """
    wide = 2.5 * math.radians(grid.spacing_deg)
    fine = (r for r in range(_FINEST_MESH) if longest_edge(r) <= wide)
    return next(fine, _FINEST_MESH)
