"""Members on several devices: computations run where the draws were placed.

Members never depend on each other, so each device runs the same program on the members that it
holds (`jax.shard_map` along one axis) and nothing is exchanged.  Leaving it to the compiler does
not do: it would gather all members wherever the network flattens (node, member).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

AXIS = "member"
Tree = TypeVar("Tree")


def mesh_of(x: Array) -> Mesh | None:
    """The devices that hold the members of ``x``; None if that is one, or ``x`` is traced."""
    sharding = None if isinstance(x, Tracer) else x.sharding
    if isinstance(sharding, NamedSharding) and AXIS in sharding.spec:
        mesh = sharding.mesh
        return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None
    return None


def place_members(tree: Tree, devices: Sequence[Any]) -> Tree:
    """Share arrays (member, ...) out among devices; their number must divide that of members."""
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))
    return jax.device_put(tree, sharding)


def replicate(tree: Tree, devices: Sequence[Any]) -> Tree:
    """Put the arrays of a pytree on every one of the devices."""
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec())
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.device_put(arrays, sharding), rest)


def over_members(
    function: Callable[..., Any],
    mesh: Mesh | None,
    shared: Any,
    *members: Any,
    axes: Sequence[int],
    out_axes: int | tuple[int, ...] = 1,
) -> Any:
    """Call ``function`` so that each device of ``mesh`` works on its own members.

    Parameters
    ----------
    function : callable (shared, members...) -> array or tuple of arrays
        It must not close over traced arrays.
    mesh : Mesh or None
        None calls the function as it is.
    shared : pytree
        What is the same for all members.
    members : arrays
    axes : sequence of int
        Axis of the members in each of them.
    out_axes : int or tuple of int
        Axis of the members in what comes out.
    """
    if mesh is None:
        return function(shared, *members)
    arrays, rest = eqx.partition(shared, eqx.is_array)

    def own(arrays: Any, *members: Any) -> Any:
        return function(eqx.combine(arrays, rest), *members)

    def spec(axis: int) -> PartitionSpec:
        return PartitionSpec(*([None] * axis), AXIS)

    out = spec(out_axes) if isinstance(out_axes, int) else tuple(map(spec, out_axes))
    return jax.shard_map(
        own,
        mesh=mesh,
        in_specs=(PartitionSpec(), *map(spec, axes)),
        out_specs=out,
        check_vma=False,
    )(arrays, *members)
