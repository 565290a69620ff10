"""Edges between grid and mesh: official counts and features, and grids of other kinds."""

from __future__ import annotations

import hashlib
import json

import jax
import numpy as np
import pytest

from xdiffda.networks.graphcast.graph import (
    build_graph,
    edge_features,
    flat_grid,
    grid_to_mesh_edges,
    mesh_to_grid_edges,
    nearest_face,
    unit_vectors,
)
from xdiffda.networks.graphcast.mesh import Mesh, mesh_hierarchy

# 15 degrees with mesh 2 is left out: pairs lie exactly on the radius there.
GRIDS = ["10deg_mesh2", "10deg_mesh3", "18deg_mesh2", "5deg_mesh3", "1deg_mesh5"]


@pytest.mark.parametrize("name", GRIDS)
def test_counts_agree(golden, name):
    stored = json.loads((golden / "mesh/connectivity_counts.json").read_text())[name]
    n_lat, n_lon = stored["num_lat"], stored["num_lon"]
    mesh = mesh_hierarchy(stored["mesh_refinement"])[-1]
    lat, lon = flat_grid(np.linspace(-90, 90, n_lat), np.arange(n_lon) * 360 / n_lon)
    positions = unit_vectors(lat, lon)
    radius = np.float32(0.6) * mesh.longest_edge
    senders, receivers = grid_to_mesh_edges(positions, mesh, radius=radius)
    assert len(senders) == stored["grid2mesh_num_edges"]
    assert senders.sum(dtype=np.int64) == stored["grid2mesh_sender_index_sum"]
    assert receivers.sum(dtype=np.int64) == stored["grid2mesh_receiver_index_sum"]
    degree = np.bincount(receivers, minlength=len(mesh.vertices))
    assert degree.max() == stored["grid2mesh_max_in_degree"]
    assert (degree == 0).sum() == stored["grid2mesh_mesh_nodes_without_edge"]
    assert (np.diff(receivers) >= 0).all()
    senders, _ = mesh_to_grid_edges(positions, mesh)
    assert len(senders) == stored["mesh2grid_num_edges"]


def test_edges_and_features_agree(gc_a):
    stored = gc_a.npz("geometry")
    graph = build_graph(stored["grid_lat"], stored["grid_lon"], refinement=2)
    for name in ("grid2mesh", "mesh"):
        edges = getattr(graph, name)
        ours = np.stack([edges.senders.node, edges.receivers.node])
        theirs = np.stack([stored[f"{name}_senders"], stored[f"{name}_receivers"]])
        order = np.lexsort(theirs)
        np.testing.assert_array_equal(ours[:, np.lexsort(ours)], theirs[:, order])
        np.testing.assert_allclose(
            edges.features[np.lexsort(ours)],
            stored[f"{name}_edge_features"][order],
            rtol=0,
            atol=5e-6,
        )
    sure = np.repeat(stored["mesh2grid_num_equidistant_faces"] == 1, 3)
    np.testing.assert_array_equal(
        graph.mesh2grid.senders.node[sure], stored["mesh2grid_senders"][sure]
    )
    np.testing.assert_allclose(
        graph.mesh2grid.features[sure], stored["mesh2grid_edge_features"][sure], atol=5e-6
    )
    np.testing.assert_allclose(graph.grid_features, stored["grid_node_features"], atol=2e-7)
    np.testing.assert_allclose(graph.mesh_features, stored["mesh_node_features"], atol=1e-6)


def test_triangles_agree_away_from_ties(gc_b):
    stored = gc_b.npz("geometry")
    lat, lon = flat_grid(stored["grid_lat"], stored["grid_lon"])
    senders, _ = mesh_to_grid_edges(unit_vectors(lat, lon), mesh_hierarchy(3)[-1])
    sure = np.repeat(stored["mesh2grid_num_equidistant_faces"] == 1, 3)
    np.testing.assert_array_equal(senders[sure], stored["mesh2grid_senders"][sure])


def test_vertices_are_the_published_ones_to_the_last_bit(golden):
    stored = json.loads((golden / "mesh/mesh_summary_r0_r6.json").read_text())
    for r, mesh in enumerate(mesh_hierarchy(6)):
        found = hashlib.sha256(mesh.vertices.astype("<f4").tobytes()).hexdigest()
        assert found == stored[f"r{r}"]["sha256_vertices_f32_le"]


def triangles_and_doubt(positions, mesh):
    """Triangles, and where the choice hangs on nothing but the numbering."""
    other = Mesh(mesh.vertices, mesh.faces[::-1].copy())
    chosen = nearest_face(positions, mesh)
    mirrored = len(mesh.faces) - 1 - nearest_face(positions, other)
    return mesh.faces[chosen], chosen != mirrored


@pytest.mark.parametrize(
    ("case", "n_doubt", "n_differ"),
    [("gc_a", 7, 3), ("gc_b", 7, 5), ("gencast_a", 7, 3), ("fgn_a", 4, 4)],
)
def test_published_triangles_differ_only_where_two_are_the_same_to_the_last_bit(
    shared, case, n_doubt, n_differ
):
    stored = np.load(shared(f"golden/{case}/geometry.npz"))
    mesh = mesh_hierarchy(3 if case == "gc_b" else 2)[-1]
    order = stored["permutation"] if "permutation" in stored else np.arange(len(mesh.vertices))
    if case == "fgn_a":  # positions through float32 degrees
        positions = np.empty_like(mesh.vertices)
        positions[order] = stored["mesh_positions"]
        mesh = Mesh(positions, mesh.faces)
    grid = unit_vectors(*flat_grid(np.linspace(-90, 90, 19), np.arange(0, 360, 10)))
    chosen, doubt = triangles_and_doubt(grid, mesh)
    by_node = np.argsort(stored["mesh2grid_receivers"], kind="stable")
    theirs = np.sort(order[stored["mesh2grid_senders"][by_node]].reshape(-1, 3), axis=-1)
    agree = (np.sort(chosen, axis=-1) == theirs).all(axis=-1)
    assert agree[~doubt].all()
    assert (doubt.sum(), (~agree).sum()) == (n_doubt, n_differ)


def test_few_points_remain_in_doubt_at_1_degree():
    grid = unit_vectors(*flat_grid(np.linspace(-90, 90, 181), np.arange(360)))
    _, doubt = triangles_and_doubt(grid, mesh_hierarchy(5)[-1])
    assert (doubt.sum(), doubt.size) == (198, 65160)
    assert set(np.flatnonzero(doubt) % 360) == {0, 60, 120, 180, 240, 300}  # planes of symmetry


def test_few_points_remain_in_doubt_at_a_quarter_of_a_degree():
    """On twelve meridians of symmetry; the whole grid has 1,483 such points of 1,038,240."""
    grid = unit_vectors(*flat_grid(np.linspace(-90, 90, 721), np.arange(0, 360, 30)))
    _, doubt = triangles_and_doubt(grid, mesh_hierarchy(6)[-1])
    assert doubt.sum() == 1362


def test_ties_are_as_rare_as_the_page_on_published_weights_says(golden):
    """About one grid point in fifty at 0.25 degrees, fewer at 1 degree."""
    counts = json.loads((golden / "mesh/connectivity_counts.json").read_text())
    shares = {
        name: counts[name]["mesh2grid_points_with_abs_radial_margin_lt_1em6"]
        / (counts[name]["num_lat"] * counts[name]["num_lon"])
        for name in ("0p25deg_mesh6", "1deg_mesh5")
    }
    assert round(1 / shares["0p25deg_mesh6"], -1) == 50
    assert shares["1deg_mesh5"] < 0.8 * shares["0p25deg_mesh6"]


def test_points_lie_over_their_triangle():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(2000, 3))
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    for mesh in mesh_hierarchy(3):
        corners = mesh.vertices.astype(np.float64)[mesh_to_grid_edges(points, mesh)[0]]
        a, b, c = np.moveaxis(corners.reshape(-1, 3, 3), 1, 0)
        sides = [np.sum(np.cross(p, q) * points, axis=-1) for p, q in ((a, b), (b, c), (c, a))]
        # Nearest and pierced triangle differ by slivers along edges only.
        assert np.mean(np.min(sides, axis=0) >= 0) > 0.99
        assert np.min(sides) > -0.01


@pytest.mark.parametrize(
    ("lat", "lon"),
    [
        (np.arange(-87.1875, 90, 5.625), np.arange(0, 360, 5.625)),  # no poles
        (np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(12)[0])), np.arange(0, 360, 20)),
        (np.linspace(90, -90, 13), np.arange(-180, 180, 24)),  # descending, other longitudes
    ],
    ids=["equiangular", "gaussian", "descending"],
)
def test_any_regular_grid(lat, lon):
    graph = build_graph(lat, lon, refinement=2)
    assert graph.n_grid == len(lat) * len(lon)
    receivers = np.asarray(graph.mesh2grid.receivers.node)
    np.testing.assert_array_equal(receivers, np.repeat(np.arange(graph.n_grid), 3))
    for edges in (graph.grid2mesh, graph.mesh, graph.mesh2grid):
        features = np.asarray(edges.features)
        np.testing.assert_allclose(
            features[:, 0], np.linalg.norm(features[:, 1:], axis=-1), atol=1e-6
        )
        assert np.isclose(features[:, 0].max(), 1)
        assert (features[:, 1] <= 0).all()


def test_order_of_rows_does_not_matter():
    lat, lon = np.arange(-85.0, 90, 10), np.arange(3.0, 360, 15)  # no ties
    up, down = build_graph(lat, lon, refinement=1), build_graph(lat[::-1], lon, refinement=1)
    number = np.arange(up.n_grid).reshape(len(lat), len(lon))[::-1].reshape(-1)
    pairs = [
        set(zip(n(g.grid2mesh.senders.node), np.asarray(g.grid2mesh.receivers.node), strict=True))
        for g, n in ((up, np.asarray), (down, lambda x: number[np.asarray(x)]))
    ]
    assert pairs[0] == pairs[1]


def test_direction_is_seen_from_the_receiver():
    # From the equator at 0 E, a node at 30 N is north; one at 30 E is east.
    north = edge_features((np.array([30.0]), np.zeros(1)), (np.zeros(1), np.zeros(1)))
    east = edge_features((np.zeros(1), np.array([30.0])), (np.zeros(1), np.zeros(1)))
    chord = 2 * np.sin(np.pi / 12)
    expected = np.array([[chord, np.cos(np.pi / 6) - 1, 0, 0.5]]) / chord
    np.testing.assert_allclose(north, expected, atol=1e-12)
    np.testing.assert_allclose(east, expected[:, [0, 1, 3, 2]], atol=1e-12)


def test_graph_is_a_pytree_of_arrays():
    graph = build_graph(np.linspace(-80, 80, 5), np.arange(0, 360, 60), refinement=0)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(graph))


@pytest.mark.parametrize(
    ("lat", "match"),
    [([-100.0, 0.0], r"lat must lie in \[-90, 90\]"), ([np.nan, 0.0], "finite degrees")],
)
def test_wrong_coordinates_are_refused(lat, match):
    with pytest.raises(ValueError, match=match):
        build_graph(np.array(lat), np.arange(0, 360, 60), refinement=0)
