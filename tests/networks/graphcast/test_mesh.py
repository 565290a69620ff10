"""Meshes against the official ones, and against geometry."""

from __future__ import annotations

import json

import numpy as np
import pytest

from xdiffda.networks.graphcast.mesh import icosahedron, mesh_hierarchy, multimesh_edges


@pytest.fixture(scope="module")
def meshes():
    return mesh_hierarchy(6)


@pytest.mark.parametrize("refinement", range(4))
def test_values_agree(meshes_r0_r3, meshes, refinement):
    stored, mesh = meshes_r0_r3, meshes[refinement]
    np.testing.assert_allclose(mesh.vertices, stored[f"r{refinement}_vertices"], rtol=0, atol=2e-7)
    np.testing.assert_array_equal(mesh.faces, stored[f"r{refinement}_faces"])
    np.testing.assert_allclose(mesh.lat, stored[f"r{refinement}_lat"], rtol=0, atol=4e-5)
    np.testing.assert_allclose(mesh.lon, stored[f"r{refinement}_lon"], rtol=0, atol=4e-5)
    senders, receivers = multimesh_edges(meshes[: refinement + 1])
    np.testing.assert_array_equal(senders, stored[f"multi{refinement}_senders"])
    np.testing.assert_array_equal(receivers, stored[f"multi{refinement}_receivers"])


@pytest.mark.parametrize("refinement", range(7))
def test_sums_agree(golden, meshes, refinement):
    stored = json.loads((golden / "mesh/mesh_summary_r0_r6.json").read_text())
    summary, mesh = stored[f"r{refinement}"], meshes[refinement]
    assert mesh.vertices.shape == (summary["num_vertices"], 3)
    assert mesh.faces.shape == (summary["num_faces"], 3)
    assert mesh.faces.sum(dtype=np.int64) == summary["faces_sum"]
    assert mesh.vertices.dtype == np.float32
    vertices = mesh.vertices.astype(np.float64)
    weight = np.arange(1, len(vertices) + 1)
    n = len(vertices)
    found = np.abs(vertices).sum(axis=0)
    np.testing.assert_allclose(found, summary["vertices_abs_sum_f64"], rtol=1e-6)
    for k in (weight - 1, weight):
        off = np.abs(k @ vertices - summary["vertices_index_weighted_sum_f64"]).max()
        if off < 2e-7 * n**2:
            break
    else:
        pytest.fail(f"index-weighted sums differ by {off}")
    np.testing.assert_allclose(mesh.longest_edge, summary["edge_length_max_f32"], atol=2e-7)
    multi = stored[f"multi{refinement}"]
    senders, _ = multimesh_edges(meshes[: refinement + 1])
    assert len(senders) == multi["num_directed_edges"]


def test_faces_point_outwards_and_cover_the_sphere_once(meshes):
    corners = meshes[3].vertices.astype(np.float64)[meshes[3].faces]
    a, b, c = np.moveaxis(corners, 1, 0)
    triple = np.sum(a * np.cross(b, c), axis=-1)
    assert (triple > 0).all()
    cosines = 1 + np.sum(a * b, -1) + np.sum(b * c, -1) + np.sum(c * a, -1)
    assert np.isclose(2 * np.arctan2(triple, cosines).sum(), 4 * np.pi)


def test_every_edge_has_its_reverse_and_none_comes_twice(meshes):
    pairs = set(zip(*(ends.tolist() for ends in multimesh_edges(meshes[:4])), strict=True))
    assert len(pairs) == 5100
    assert {(r, s) for s, r in pairs} == pairs


def test_icosahedron_lies_on_horizontal_faces():
    np.testing.assert_allclose(
        np.unique(icosahedron().lat.round(2)), [-52.62, -10.81, 10.81, 52.62], atol=0.01
    )


def test_negative_refinement_is_refused():
    with pytest.raises(ValueError, match="refinement must be 0 or more"):
        mesh_hierarchy(-1)
