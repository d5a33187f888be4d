import numpy as np
import pytest

from app.config import DiagnoseConfig
from app.splat.diagnosis import diagnose
from app.stages import shapes
from app.stages.scene import KINDS
from app.stages.shapes import ShapesParams, build
from app.stages.solids import Ellipsoid, Frustum, Solid, Torus, box, gable, plastic_sequence, pyramid


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_is_a_healthy_splat(kind: str) -> None:
    splat = shapes.Shapes(ShapesParams(gaussians=5_000)).build(f"a {kind}", None, seed=1)
    assert len(splat) == 5_000
    assert diagnose(splat, DiagnoseConfig()).findings == ()
    assert np.ptp(splat.means, axis=0).max() == pytest.approx(1, abs=0.01)
    assert np.linalg.norm(splat.quats, axis=1) == pytest.approx(np.ones(5_000), abs=1e-5)


def test_the_default_count_is_enough_for_the_gate() -> None:
    assert len(shapes.Shapes(ShapesParams()).build("a ball", None, seed=0)) >= 150_000


def test_same_seed_same_splat_other_seed_another() -> None:
    generator = shapes.Shapes(ShapesParams(2_000))
    one, again, other = (generator.build("a red mug on a table", None, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(getattr(one, name), getattr(again, name)) for name in vars(one))
    assert not np.array_equal(one.means, other.means)


def test_first_thing_stands_on_the_second() -> None:
    splat = shapes.Shapes(ShapesParams(20_000)).build("a red ball on a blue box", None, seed=0)
    rgb = 0.5 + 0.2821 * splat.sh[:, 0]
    red, blue = splat.means[rgb[:, 0] > rgb[:, 2]], splat.means[rgb[:, 2] > rgb[:, 0]]
    assert red[:, 1].min() >= blue[:, 1].max() - 0.03


def test_flat_gaussians_lie_in_their_surface() -> None:
    """The shortest axis of each Gaussian of a ball points along its radius."""
    splat = build(shapes.parse("a ball"), seed=0, gaussians=3_000)
    w, x, y, z = splat.quats.T
    normal = np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], axis=1)
    radius = splat.means / np.linalg.norm(splat.means, axis=1, keepdims=True)
    assert np.abs(np.einsum("ij,ij->i", normal, radius)).min() > 0.97
    assert (splat.log_scales[:, 2] < splat.log_scales[:, :2].min(axis=1)).mean() > 0.99


@pytest.mark.parametrize(
    ("solid", "area", "closed"),
    [
        (Ellipsoid((1, 1, 1)), 4 * np.pi, True),
        (Ellipsoid((1, 1, 1), lower=0.5), 2 * np.pi, False),
        (Frustum(1, 1, 2), 6 * np.pi, True),
        (Frustum(1, 0, 1, caps=(False, False)), np.pi * np.sqrt(2), False),
        (Torus(2, 0.5), 4 * np.pi**2, True),
        (box((1, 2, 3)), 22, True),
        (pyramid(2, 1), 4 + 4 * np.sqrt(2), True),
        (gable((1, 1, 2)), 2 + 2 * np.sqrt(2) + 2, True),
    ],
)
def test_surfaces_have_their_area_and_closed_ones_no_net_normal(solid: Solid, area: float, closed: bool) -> None:
    surface = solid.at(plastic_sequence(20_000))
    assert surface.areas.sum() == pytest.approx(area, rel=0.002)
    assert np.linalg.norm(surface.normals, axis=1) == pytest.approx(np.ones(20_000))
    net = np.abs(surface.areas @ surface.normals).max()
    assert (net < 0.002 * area) == closed
