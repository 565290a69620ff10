"""What devices can do, and what analyses cost on them: the answer of `xdiffda.plan`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEVICES", "Device", "Plan"]


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
