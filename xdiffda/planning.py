"""Memory, time and storage of analyses before they are made: counted, not tried.

Operations are counted product by product (`xdiffda.networks.graphcast.costs`), and divided by the
rate of a device; nothing is allocated, so that a laptop can plan for a centre.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from xdiffda.covariance.harmonics import WORTH
from xdiffda.errors import Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.graphcast.costs import (
    Dimensions,
    Tally,
    count,
    longest_edge,
    parameters,
    temporary_bytes,
)
from xdiffda.networks.graphcast.network import NetworkConfig
from xdiffda.state.grid import NAMED_GRIDS, Grid, equiangular

# What devices can do, and what analyses cost on them: the answer of `xdiffda.plan`.


@dataclass(frozen=True)
class Device:
    """What a device can do.

    Parameters
    ----------
    name
        For people.
    float32, bfloat16
        Peak rate of matrix products in these precisions, operations per second.
    bandwidth
        Of its memory, bytes per second.
    memory
        Bytes; 0 where it is not known.
    efficiency
        Share of these rates that is reached.
    process
        Bytes of its memory that the program itself takes: Python, libraries and compiled code,
        where they lie in the same memory.

    Examples
    --------
    >>> DEVICES["h200"].rate("bfloat16") > DEVICES["a100"].rate("bfloat16")
    True
    """

    name: str
    float32: float
    bfloat16: float
    bandwidth: float
    memory: float = 0.0
    efficiency: float = 0.4
    process: int = 0

    def rate(self, dtype: str) -> float:
        """Operations per second that are reached."""
        return self.efficiency * (self.bfloat16 if dtype == "bfloat16" else self.float32)

    def seconds(self, operations: float, moved: float, dtype: str) -> float:
        """Time of so many operations and bytes: the longer of the two."""
        return max(operations / self.rate(dtype), moved / (self.efficiency * self.bandwidth))


# Of a core, what evaluations reached: between an AMD EPYC and an Intel Xeon, which differ by 1.7
# (tests/benchmarks/README.md, held by tests/test_costs.py). Of GPUs, the peaks in NVIDIA's data
# sheets (dense; SXM of A100, H100 and H200) and, of the RTX 4090, in its white paper of the Ada
# architecture: float32 outside the tensor cores, bfloat16 in them with sums in float32.
DEVICES: dict[str, Device] = {
    "cpu": Device("CPU core", 115e9, 170e9, 5e9, 0, 1.0, 600_000_000),
    "a10": Device("A10 24 GB", 31.2e12, 125e12, 0.6e12, 24e9),
    "rtx4090": Device("RTX 4090 24 GB", 82.6e12, 165.2e12, 1.008e12, 24e9),
    "a100": Device("A100 80 GB", 19.5e12, 312e12, 2.0e12, 80e9),
    "h100": Device("H100 80 GB", 67e12, 989e12, 3.35e12, 80e9),
    "h200": Device("H200 141 GB", 67e12, 989e12, 4.8e12, 141e9),
}


@dataclass(frozen=True)
class Plan:
    """What analyses cost; printed, a table.

    Attributes
    ----------
    grid : tuple of int
        Rows and columns.
    n_channel, n_edge, n_parameter : int
        Of the state, of the graph (all three kinds of edges) and of the network.
    members, n_devices, batch : int
        Members, devices, and members that one device computes together.
    device : Device
    dtype : str
    operations : int
        Of one evaluation of the network for one member.
    evaluation_seconds : float
        Of the network, for ``batch`` members on one device.
    kalman_seconds : float
        Of the Kalman updates of one analysis on one device.
    seconds : float
        Of one analysis: all members on all devices. Compilation comes on top, once.
    shared_bytes, member_bytes : int
        Memory on each device: of weights, graph and basis, and of each member of a batch.
    memory_bytes : int
        What a device needs: both of them, the observations, and on a CPU the program.
    fits : bool
        Whether that is within 0.9 of the device's memory (True where that is not known).
    storage_bytes : int
        Of one analysis with all its members, float32, before compression.
    advice : tuple of str
        What reduces the memory, with what is then needed.
    """

    grid: tuple[int, int]
    n_channel: int
    n_edge: int
    n_parameter: int
    members: int
    n_devices: int
    batch: int
    device: Device
    dtype: str
    operations: int
    evaluation_seconds: float
    kalman_seconds: float
    seconds: float
    shared_bytes: int
    member_bytes: int
    memory_bytes: int
    fits: bool
    storage_bytes: int
    advice: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows, columns = self.grid
        state = "fits" if self.fits else "DOES NOT FIT"
        known = f", {state} {amount(self.device.memory)}" if self.device.memory else ""
        lines = [
            f"grid       {rows} x {columns}, {self.n_channel} channels, {self.n_edge:,} edges, "
            f"{self.n_parameter / 1e6:.1f} million weights",
            f"devices    {self.n_devices} x {self.device.name}, {self.dtype}",
            f"memory     {amount(self.memory_bytes)} on each device{known}: "
            f"{amount(self.shared_bytes)} shared, {amount(self.member_bytes)} for each of "
            f"{self.batch} members together",
            f"time       {duration(self.seconds)} for an analysis of {self.members} members: "
            f"{duration(self.evaluation_seconds)} for an evaluation of {self.batch} members "
            f"({self.operations:.2g} operations each), {duration(self.kalman_seconds)} of Kalman "
            "updates",
            f"storage    {amount(self.storage_bytes)} for an analysis, float32, not compressed",
        ]
        return "\n".join([*lines, *(f"less       {text}" for text in self.advice)])


def amount(size: float) -> str:
    """A number of bytes for people.

    Examples
    --------
    >>> amount(3.2e9), amount(512)
    ('3.2 GB', '512 B')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """A time for people.

    Examples
    --------
    >>> duration(0.012), duration(90), duration(9000)
    ('12 ms', '1.5 min', '2.5 h')
    """
    for limit, factor, unit in ((1, 1e3, "ms"), (60, 1, "s"), (3600, 1 / 60, "min")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"


# The arguments of `xdiffda.plan` (numbers, a grid, a device): all invalid ones are listed at once.

_FINEST = 0.01  # degrees: finer grids are none of this network's
_FROM_0 = ("obs", "edge_chunk", "refinement", "truncation")
_MOST = {"refinement": 9, "obs": 1e12}
_EXAMPLES = {"obs": "1e4", "edge_chunk": 131072, "refinement": 6, "truncation": 63}


def checked_plan(
    grid: Any, device: Any, dtype: str, numbers: dict[str, float]
) -> tuple[Grid, Device]:
    """The grid and the device that are meant; raises with all that is wrong."""
    problems = [
        Problem(f"{name}={value!r}", needed, f"xdiffda.plan({name}={_EXAMPLES.get(name, 8)})")
        for name, value in numbers.items()
        if (needed := _number_needed(name, value))
    ]
    if dtype not in ("float32", "bfloat16"):
        problems.append(
            Problem(f"dtype={dtype!r}", "float32 or bfloat16", 'xdiffda.plan(dtype="bfloat16")')
        )
    where = grid if isinstance(grid, Grid) else None
    if isinstance(grid, str) and grid in NAMED_GRIDS:
        where = NAMED_GRIDS[grid]()
    elif _is_number(grid) and _FINEST <= grid <= 45 and _divides(grid):
        where = equiangular(round(180 / grid) + 1, round(360 / grid), poles=True)
    if where is None:
        needed = (
            f"a spacing of {_FINEST} to 45 degrees that divides 180, or one of "
            f"{', '.join(NAMED_GRIDS)}"
        )
        problems.append(Problem(f"grid={grid!r}", needed, "xdiffda.plan(grid=0.25)"))
    unit = DEVICES.get(str(device).lower(), device)
    if not isinstance(unit, Device):
        problems.append(
            Problem(
                f"device={device!r}",
                f"one of {', '.join(DEVICES)}, or a Device",
                'xdiffda.plan(device="h100")',
            )
        )
    elif not min(unit.float32, unit.bfloat16, unit.bandwidth, unit.efficiency) > 0:
        problems.append(
            Problem(
                f"device={unit!r}",
                "rates, a bandwidth and an efficiency above 0",
                'xdiffda.plan(device="h100")',
            )
        )
    raise_if(problems, what="plan")
    assert where is not None and isinstance(unit, Device)
    return where, unit


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _number_needed(name: str, value: Any) -> str:
    """What a number should be where it is not; empty where it is."""
    least, most = (0 if name in _FROM_0 else 1), _MOST.get(name, math.inf)
    if not _is_number(value) or not least <= value < math.inf:
        return "0 or more" if name in _FROM_0 and name != "obs" else "a positive number"
    if value > most:
        return f"{most:g} at most"
    return "" if name == "obs" or isinstance(value, int | np.integer) else "a whole number"


def _divides(spacing: float) -> bool:
    return abs(180 / spacing - round(180 / spacing)) < 1e-6


_FLOAT = 4
_STATES = 8  # of z, and their coefficients, alive at once beside the network
_PER_EDGE, _PER_NODE = 32, 24  # bytes of a graph: ends, tables of both ends, features
_PER_OBS = 112  # bytes of an observation: value, error, the eight corners of its stencil
# slots of grid points for each column of observations off the grid (`_points`): its four corners,
# and every row padded to the length of the fullest, at the equator
_PER_COLUMN = 7
_STATIC, _SEASON, _CONDITIONING = 2, 2, 16
_FINEST_MESH = 6
_CHUNKS = tuple(2**n for n in range(17, 9, -1))  # to propose
_USABLE = 0.9  # of a device's memory
_KEPT = 4  # scale and small scales of the prior; background as it came and as an array
_FEWEST_STEPS, _STEPS = 8, 30  # of a solve: at least, and for sqrt(observations per coefficient)


@with_own_jax
def plan(
    *,
    grid: float | str | Grid = 0.25,
    levels: int = 13,
    members: int = 8,
    obs: float = 1e4,
    devices: int = 1,
    device: str | Device = "h100",
    dtype: str = "float32",
    latent: int = 512,
    processor_steps: int = 16,
    refinement: int | None = None,
    n_steps: int = 8,
    max_batch: int = 8,
    edge_chunk: int = 0,
    truncation: int | None = None,
    iterations: int | None = None,
) -> Plan:
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
        ``"cpu"`` (one core), another key of ``xdiffda.planning.DEVICES`` (``"a10"``, ``"rtx4090"``,
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
        "levels": levels,
        "members": members,
        "devices": devices,
        "latent": latent,
        "processor_steps": processor_steps,
        "n_steps": n_steps,
        "max_batch": max_batch,
        "iterations": 1 if iterations is None else iterations,
        "edge_chunk": edge_chunk,
        "refinement": 0 if refinement is None else refinement,
        "truncation": 0 if truncation is None else truncation,
    }
    where, unit = checked_plan(grid, device, dtype, {**numbers, "obs": obs})
    # numbers of numpy overflow
    levels, members, devices, n_steps, max_batch = (
        int(numbers[n]) for n in ("levels", "members", "devices", "n_steps", "max_batch")
    )
    limit = min(where.n_lat - 1, where.n_lon // 2 - 1)
    mesh = mesh_for(where) if refinement is None else refinement
    n_channel = 6 * levels + 4
    config = NetworkConfig(
        3 * n_channel + _STATIC + _SEASON,
        n_channel,
        latent=latent,
        dtype=dtype,
        processor_steps=processor_steps,
        conditioning_width=_CONDITIONING,
        edge_chunk=edge_chunk,
    )
    task = Task(
        where,
        Dimensions.of_grid(where.n_lat, where.n_lon, mesh),
        config,
        min(limit, 63 if truncation is None else truncation),
        int(obs),
    )
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
        grid=where.shape,
        n_channel=n_channel,
        n_edge=task.n_edge,
        n_parameter=parameters(config),
        members=members,
        n_devices=devices,
        batch=batch,
        device=unit,
        dtype=dtype,
        operations=tally.operations // batch,
        evaluation_seconds=evaluation,
        kalman_seconds=kalman,
        seconds=-(-share // batch) * n_steps * evaluation + kalman,
        shared_bytes=held.shared_bytes,
        member_bytes=held.member_bytes,
        memory_bytes=memory,
        fits=fits,
        storage_bytes=_FLOAT * members * where.n_node * n_channel,
        advice=() if fits and batch == most else task.advice(unit),
    )


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
    >>> from xdiffda.state.grid import NAMED_GRIDS
    >>> mesh_for(NAMED_GRIDS["1440x721"]()), mesh_for(NAMED_GRIDS["speedy"]())
    (6, 3)
    """
    wide = 2.5 * math.radians(grid.spacing_deg)
    fine = (r for r in range(_FINEST_MESH) if longest_edge(r) <= wide)
    return next(fine, _FINEST_MESH)
