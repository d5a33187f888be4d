"""Cameras are where the worker protocol says, and the placement of a splat is that of the public judge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import RenderConfig
from app.splat.cameras import IDENTITY, Camera, Placement, judge_placement, judging_views, orbit
from app.splat.model import Splat

angles = st.floats(-400, 400)
pitches = st.floats(-90, 90)
radii = st.floats(0.1, 50)


def points(means: np.ndarray) -> Splat:
    n = len(means)
    return Splat(means, np.tile([1, 0, 0, 0], (n, 1)), np.zeros((n, 3)), np.zeros(n), np.zeros((n, 1, 3)))


def seen_at(camera: Camera, point: tuple[float, float, float]) -> np.ndarray:
    """Pixel (x, y) and depth of a world point."""
    x, y, z = camera.world_to_camera[:3] @ np.array([*point, 1.0])
    u, v, _ = camera.K @ np.array([x / z, y / z, 1.0])
    return np.array([u, v, z])


def test_azimuth_0_stands_on_plus_z_and_azimuth_90_on_plus_x() -> None:
    np.testing.assert_allclose(orbit(0, 0, 2.5).position, [0, 0, 2.5], atol=1e-12)
    np.testing.assert_allclose(orbit(90, 0, 2.5).position, [2.5, 0, 0], atol=1e-12)


def test_a_negative_pitch_is_above_as_the_public_judge_has_it() -> None:
    position = orbit(0, -15, 2.5).position
    assert position[1] == pytest.approx(0.647, abs=5e-4)
    assert orbit(0, 15, 2.5).position[1] < 0


@pytest.mark.parametrize("azimuth", [0, 90, 180, 270, 37])
def test_plus_y_is_up_in_the_picture_from_every_side(azimuth: float) -> None:
    camera = orbit(azimuth, -15)
    assert seen_at(camera, (0, 0.3, 0))[1] < camera.height // 2 < seen_at(camera, (0, -0.3, 0))[1]


def test_from_the_front_plus_x_is_on_the_right_and_from_the_side_plus_z_on_the_left() -> None:
    assert seen_at(orbit(0, 0), (0.3, 0, 0))[0] > 259
    assert seen_at(orbit(90, 0), (0, 0, 0.3))[0] < 259


@given(azimuth=angles, pitch=pitches, radius=radii)
def test_the_transform_is_rigid_and_looks_at_the_origin_with_a_level_horizon(
    azimuth: float, pitch: float, radius: float
) -> None:
    camera = orbit(azimuth, pitch, radius)
    matrix = camera.world_to_camera.astype(np.float64)
    rotation = matrix[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(matrix @ [0, 0, 0, 1], [0, 0, radius, 1], atol=1e-5 * radius)
    np.testing.assert_allclose(matrix @ [*camera.position, 1], [0, 0, 0, 1], atol=1e-5 * radius)
    assert abs(rotation[0, 1]) < 1e-6  # right is level
    assert rotation[1, 1] <= 1e-6  # down is down


@pytest.mark.parametrize("pitch", [-90, 90])
def test_straight_above_and_below_have_a_defined_picture(pitch: float) -> None:
    matrix = orbit(30, pitch).world_to_camera
    assert np.isfinite(matrix).all()
    np.testing.assert_allclose(matrix[0, :3], [math.cos(math.radians(30)), 0, -0.5], atol=1e-6)


@given(fov=st.floats(5, 150), width=st.integers(1, 2000), height=st.integers(1, 2000))
def test_the_field_of_view_is_vertical_and_the_principal_point_an_integer(fov: float, width: int, height: int) -> None:
    camera = Camera("any", 0, 0, 2.5, fov, width, height)
    assert camera.K[0, 0] == camera.K[1, 1]
    assert math.degrees(2 * math.atan(height / 2 / camera.K[1, 1])) == pytest.approx(fov, rel=1e-5)
    assert (camera.K[0, 2], camera.K[1, 2]) == (width // 2, height // 2)


def test_the_judging_views_follow_the_configuration() -> None:
    config = RenderConfig(size=224, radius=3.0, fov=40.0)
    views = judging_views(config)
    assert [view.name for view in views] == ["front", "side", "top", "angled"]
    assert {(view.width, view.height, view.radius, view.fov) for view in views} == {(224, 224, 3.0, 40.0)}
    assert views[2].position[1] > 2.5  # the top view stands high above


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 50), extent=st.floats(0.5, 3), spread=st.floats(1e-3, 1e3))
def test_the_judges_placement_scales_the_longest_side_and_recentres_by_one_scalar(
    seed: int, n: int, extent: float, spread: float
) -> None:
    means = (np.random.default_rng(seed).normal(0.3, 1, (n, 3)) * spread).astype(np.float32)
    placement = judge_placement(points(means), extent)
    placed = means.astype(np.float64) * placement.scale + placement.offset
    assert np.ptp(placed, axis=0).max() == pytest.approx(extent, rel=1e-9)
    assert placed.mean() == pytest.approx(0, abs=1e-9)
    assert placement.opacity_factor == pytest.approx(1 / placement.scale)


def test_the_offset_is_one_scalar_and_not_a_centroid() -> None:
    placement = judge_placement(points(np.array([[0.0, 0, 0], [3.0, 0, 0]])), extent=1.5)
    assert placement == Placement(scale=0.5, offset=-0.25, opacity_factor=2.0)


def test_positions_that_are_not_finite_do_not_move_the_placement() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(0, 1, (100, 3))
    with_holes = np.concatenate([means, [[np.nan, 0, 0], [0, np.inf, 0], [0, 0, -np.inf]]])
    assert judge_placement(points(with_holes)) == judge_placement(points(means))


@pytest.mark.parametrize("means", [np.zeros((0, 3)), np.full((4, 3), np.nan)], ids=["none", "none finite"])
def test_without_a_finite_position_there_is_nothing_to_place(means: np.ndarray) -> None:
    assert judge_placement(points(means)) == IDENTITY


def test_a_single_point_is_only_recentred() -> None:
    assert judge_placement(points(np.array([[3.0, 0, 0]]))) == Placement(1.0, -1.0, 1.0)
