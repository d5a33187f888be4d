"""The CPU kernel draws what the formula gives and what the public judge drew; broken values reach no pixel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.errors import Unavailable
from app.splat import raster, raster_gsplat
from app.splat.cameras import Camera, Placement, judge_placement, orbit
from app.splat.harmonics import basis_functions, view_colors
from app.splat.model import SH_C0, Splat
from app.splat.raster import Views, choose_backend, coverage, draw, overdraw, prepare, render, side_by_side
from app.splat.raster_cpu import tiles

ROOT = Path(__file__).parents[1]
SHARED = ROOT / ".." / "shared" / "data"
ONE_WAY = np.tile([1.0, 0, 0, 0], (100, 1))
REFERENCE_ORBIT = ((0, -15), (90, -15), (180, 0), (315, -60))


def shared(name: str) -> Path:
    if not (SHARED / name).is_file():
        pytest.skip(f"needs the real asset ../shared/data/{name}")
    return SHARED / name


def has_gpu() -> bool:
    try:
        return choose_backend("cuda") == "gsplat"
    except Unavailable:
        return False


def cloud(seed: int, n: int, size: float = 0.05, logit: float = 0.0, degree: int = 0) -> Splat:
    rng = np.random.default_rng(seed)
    return Splat(
        means=rng.normal(0, 0.3, (n, 3)),
        quats=rng.normal(0, 1, (n, 4)),
        log_scales=np.log(size) + rng.normal(0, 0.8, (n, 3)),
        opacity_logits=rng.normal(logit, 2, n),
        sh=rng.uniform(-0.5 / SH_C0, 0.5 / SH_C0, (n, (degree + 1) ** 2, 3)),
    )


def ball(centre: Sequence[float], color: Sequence[float], scale: float = 0.1, logit: float = 12.0) -> Splat:
    sh = (np.array(color) - 0.5) / SH_C0
    return Splat([centre], [[1, 0, 0, 0]], np.log([[scale] * 3]), [logit], sh[None, None])


def together(*splats: Splat) -> Splat:
    names = ("means", "quats", "log_scales", "opacity_logits", "sh")
    return Splat(*(np.concatenate([getattr(splat, name) for splat in splats]) for name in names))


def shown(splat: Splat, *cameras: Camera, **options: object) -> Views:
    return render(splat, cameras, device="cpu", **options)


def slowly(splat: Splat, camera: Camera, background: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The formula, in float64 and one Gaussian at a time: colour (H, W, 3) not clamped, alpha (H, W)."""
    rotation, translation = camera.world_to_camera[:3, :3].astype(float), camera.world_to_camera[:3, 3].astype(float)
    focal, (cx, cy) = float(camera.K[0, 0]), camera.K[:2, 2].astype(float)
    ys, xs = np.mgrid[: camera.height, : camera.width] + 0.5
    color, left = np.zeros((camera.height, camera.width, 3)), np.ones((camera.height, camera.width))
    is_open = np.ones_like(left, bool)
    centres = splat.means @ rotation.T + translation
    for i in np.argsort(centres[:, 2]):
        x, y, z = centres[i]
        opacity = 1 / (1 + np.exp(-float(splat.opacity_logits[i])))
        if not camera.near <= z <= camera.far:
            continue
        w, a, b, c = splat.quats[i] / np.linalg.norm(splat.quats[i].astype(float))
        skew = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
        axes = (np.eye(3) + 2 * w * skew + 2 * skew @ skew) * np.exp(splat.log_scales[i].astype(float))
        tx = np.clip(x / z, -(cx + 0.15 * camera.width) / focal, (camera.width - cx + 0.15 * camera.width) / focal)
        ty = np.clip(y / z, -(cy + 0.15 * camera.height) / focal, (camera.height - cy + 0.15 * camera.height) / focal)
        jacobian = focal / z * np.array([[1, 0, -tx], [0, 1, -ty]])
        half = jacobian @ rotation @ axes
        conic = np.linalg.inv(half @ half.T + 0.3 * np.eye(2))
        dx, dy = focal * x / z + cx - xs, focal * y / z + cy - ys
        sigma = 0.5 * (conic[0, 0] * dx * dx + conic[1, 1] * dy * dy) + conic[0, 1] * dx * dy
        alpha = np.minimum(0.999, opacity * np.exp(-sigma))
        alpha[alpha < 1 / 255] = 0
        is_open &= (left * (1 - alpha) > 1e-4) | (alpha == 0)
        alpha[~is_open] = 0
        color += (alpha * left)[..., None] * (0.5 + SH_C0 * splat.sh[i, 0].astype(float))
        left = left * (1 - alpha)
    return color + left[..., None] * np.array(background), 1 - left


def assert_as_the_formula(splat: Splat, camera: Camera) -> None:
    """Within one alpha cut (1/255): a value that falls right on the cut may go either way in float32."""
    background = (1.0, 0.5, 0.0)
    views = shown(splat, camera, background=background)
    color, alpha = slowly(splat, camera, background)
    difference = np.abs(views.images[0] - color.clip(0, 1))
    assert difference.max() < 1.05 / 255
    assert difference.mean() < 2e-5
    assert np.abs(views.alphas[0] - alpha).max() < 1.05 / 255


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
    size=st.sampled_from([1e-4, 0.01, 0.05, 0.3]),
    logit=st.sampled_from([-4.0, 0.0, 6.0]),
    azimuth=st.integers(0, 359),
    pitch=st.integers(-90, 90),
    radius=st.sampled_from([0.4, 1.0, 2.5]),
    width=st.integers(1, 50),
    height=st.integers(1, 50),
    fov=st.sampled_from([20.0, 49.1, 110.0]),
)
def test_small_scenes_are_drawn_as_the_formula_says(
    seed: int,
    n: int,
    size: float,
    logit: float,
    azimuth: int,
    pitch: int,
    radius: float,
    width: int,
    height: int,
    fov: float,
) -> None:
    assert_as_the_formula(cloud(seed, n, size, logit), Camera("", azimuth, pitch, radius, fov, width, height))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_larger_scenes_are_drawn_as_the_formula_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    splat = cloud(seed, int(rng.integers(100, 500)), rng.choice([0.01, 0.05, 0.2]), rng.choice([-3.0, 0.0, 5.0]))
    assert_as_the_formula(splat, Camera("", rng.uniform(0, 360), rng.uniform(-90, 90), 1.5, 60, 130, 75))


def test_needles_are_drawn_as_the_formula_says() -> None:
    splat = cloud(3, 30)
    log_scales = splat.log_scales.copy()
    log_scales[:, 0], log_scales[:, 1:] = np.log(0.5), np.log(0.001)
    assert_as_the_formula(replace(splat, log_scales=log_scales), Camera("", 20, -20, 2.5, 49.1, 200, 160))


def test_one_round_gaussian_has_the_closed_forms_footprint() -> None:
    camera = orbit(0, 0, radius=2.0, size=64)
    views = shown(ball((0, 0, 0), (1, 0, 0), scale=0.1, logit=0.0), camera)
    variance = (camera.K[0, 0] * 0.1 / 2.0) ** 2 + 0.3
    ys, xs = np.mgrid[:64, :64] + 0.5
    alpha = 0.5 * np.exp(-((xs - 32) ** 2 + (ys - 32) ** 2) / (2 * variance))
    alpha[alpha < 1 / 255] = 0
    np.testing.assert_allclose(views.alphas[0], alpha, atol=1e-6)
    np.testing.assert_allclose(views.images[0][..., 0], 1, atol=1e-6)
    np.testing.assert_allclose(views.images[0][..., 1], 1 - alpha, atol=1e-6)


def test_the_cameras_see_the_sides_they_are_named_for() -> None:
    splat = together(ball((0, 0, 0.5), (1, 0, 0)), ball((0.5, 0, 0), (0, 1, 0)), ball((0, 0.5, 0), (0, 0, 1)))
    front, side, top = (orbit(*angles, size=65) for angles in ((0, 0), (90, 0), (0, -90)))
    pictures = shown(splat, front, side, top).images
    for picture, color in zip(pictures, np.eye(3), strict=True):
        np.testing.assert_allclose(picture[32, 32], color, atol=0.02)
    blue = (pictures[0] * [-1, -1, 1]).sum(axis=2)  # from the front, the ball above is in the upper half
    assert np.unravel_index(blue.argmax(), blue.shape)[0] < 32


def test_the_nearer_gaussian_hides_the_farther_whatever_their_order() -> None:
    red, green = ball((0, 0, 0.3), (1, 0, 0)), ball((0, 0, -0.3), (0, 1, 0))
    for splat in (together(red, green), together(green, red)):
        np.testing.assert_allclose(shown(splat, orbit(0, 0, size=129)).images[0, 64, 64], [1, 0, 0], atol=0.02)


def test_the_order_of_the_gaussians_does_not_matter() -> None:
    splat, camera = cloud(1, 2_000), orbit(30, -20, size=100)
    shuffled = splat.take(np.random.default_rng(1).permutation(len(splat)))
    np.testing.assert_array_equal(shown(splat, camera).images, shown(shuffled, camera).images)


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    splat, camera = cloud(2, 5_000), orbit(30, -20, size=100)
    several = shown(splat, camera)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        alone = shown(splat, camera)
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(several.images, alone.images)


@pytest.mark.parametrize("most", [500, 5_000])
def test_giants_are_drawn_in_parts_without_changing_a_bit(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    splat, camera = cloud(4, 300, size=1.0), orbit(30, -20, size=100)
    at_once = shown(splat, camera)
    monkeypatch.setattr(tiles, "MAX_ENTRIES", most)
    in_parts = shown(splat, camera)
    np.testing.assert_array_equal(at_once.images, in_parts.images)
    np.testing.assert_array_equal(at_once.alphas, in_parts.alphas)


def test_overdraw_counts_the_gaussians_over_a_tile() -> None:
    camera = orbit(0, 0, 2.5, 49.1, 96)
    giants = Splat(np.zeros((50, 3)), ONE_WAY[:50], np.zeros((50, 3)), np.zeros(50), np.zeros((50, 1, 3)))
    assert overdraw(giants, [camera]) == 50
    assert overdraw(replace(giants, log_scales=np.full((50, 3), -9.0)), [camera]) == pytest.approx(50 * 4 / 36)
    behind = orbit(180, 0, 2.5, 49.1, 96)
    moved = replace(giants, means=np.tile([0, 0, 3.0], (50, 1)), log_scales=np.full((50, 3), -3.0))
    assert overdraw(moved, [camera]) == 0
    assert overdraw(moved, [camera, behind]) > 0


def test_a_gaussian_of_any_finite_size_floods_the_view_with_its_opacity() -> None:
    splat = ball((0, 0, 0), (0, 0, 0), logit=0.0)
    for log_scale in (5.0, 20.0, 60.0, 1e4, 3e38):
        views = shown(replace(splat, log_scales=np.full((1, 3), log_scale)), orbit(0, 0, size=40))
        np.testing.assert_allclose(views.alphas, 0.5, atol=1e-3)


@pytest.mark.parametrize("field", ["means", "quats", "log_scales", "opacity_logits", "sh"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_takes_out_its_gaussian_and_nothing_else(field: str, value: float) -> None:
    splat, camera = cloud(5, 200, degree=1), orbit(30, -20, size=80)
    array = getattr(splat, field).copy()
    array.reshape(200, -1)[::10, -1] = value
    healthy = np.arange(200) % 10 != 0
    broken = shown(replace(splat, **{field: array}), camera, sh_degree=1)
    np.testing.assert_array_equal(broken.images, shown(splat.take(healthy), camera, sh_degree=1).images)


def test_a_zero_quaternion_takes_out_its_gaussian_and_nothing_else() -> None:
    splat, camera = cloud(6, 200), orbit(30, -20, size=80)
    quats = splat.quats.copy()
    quats[::10] = 0
    expected = shown(splat.take(np.arange(200) % 10 != 0), camera)
    np.testing.assert_array_equal(shown(replace(splat, quats=quats), camera).images, expected.images)


def test_quaternions_need_no_unit_length() -> None:
    splat, camera = cloud(7, 100), orbit(30, -20, size=80)
    longer = replace(splat, quats=splat.quats * np.float32(2))
    np.testing.assert_allclose(shown(longer, camera).images, shown(splat, camera).images, atol=1e-6)


BACKGROUND = (0.25, 0.5, 1.0)


@pytest.mark.parametrize(
    "splat",
    [
        cloud(8, 0),
        replace(cloud(8, 50), means=np.full((50, 3), np.nan)),
        replace(cloud(8, 50), opacity_logits=np.full(50, -20.0)),
        replace(cloud(8, 50), means=cloud(8, 50).means * 0.1 + np.float32([0, 0, 30])),
        replace(cloud(8, 50), means=cloud(8, 50).means * 0.1 + np.float32([0, 0, -200])),
        replace(cloud(8, 50), means=cloud(8, 50).means * 0.1 + np.float32([50, 0, 0])),
        replace(cloud(8, 50), means=np.full((50, 3), 3e38)),
    ],
    ids=[
        "empty",
        "not finite",
        "invisible",
        "behind the camera",
        "beyond far",
        "off the screen",
        "at the end of floats",
    ],
)
@pytest.mark.parametrize("size", [(40, 30), (1, 1)], ids=["40x30", "1x1"])
def test_empty_pixels_show_the_background(splat: Splat, size: tuple[int, int]) -> None:
    views = shown(splat, Camera("", 0, 0, 2.5, 49.1, *size), background=BACKGROUND)
    assert views.images.shape == (1, size[1], size[0], 3)
    np.testing.assert_array_equal(views.images, np.broadcast_to(np.float32(BACKGROUND), views.images.shape))
    assert not views.alphas.any()


def test_gaussians_behind_the_camera_and_off_the_screen_change_nothing() -> None:
    splat, camera = cloud(9, 100), orbit(0, 0, size=60)
    behind, beside = (
        replace(cloud(9, 50), means=cloud(9, 50).means * 0.1 + np.float32(at)) for at in ((0, 0, 9), (50, 0, 0))
    )
    np.testing.assert_array_equal(shown(together(splat, behind, beside), camera).images, shown(splat, camera).images)


def test_a_placement_is_the_splat_moved_scaled_and_faded() -> None:
    splat, camera = cloud(10, 200), orbit(30, -20, size=80)
    opacity = 0.5 / (1 + np.exp(-splat.opacity_logits.astype(float)))
    by_hand = replace(
        splat,
        means=splat.means * 0.5 + np.float32(0.25),
        log_scales=splat.log_scales + np.float32(np.log(0.5)),
        opacity_logits=np.log(opacity / (1 - opacity)),
    )
    placed = shown(splat, camera, placement=Placement(0.5, 0.25, 0.5))
    np.testing.assert_allclose(placed.images, shown(by_hand, camera).images, atol=1.05 / 255)


def test_an_opacity_factor_above_one_stops_at_opaque() -> None:
    views = shown(ball((0, 0, 0), (0, 0, 0), scale=9.0, logit=0.0), orbit(0, 0, size=9), placement=Placement(1, 0, 5))
    assert views.alphas[0, 4, 4] == pytest.approx(0.999, abs=1e-4)


def test_degree_0_is_drawn_by_default() -> None:
    splat, camera = cloud(11, 100, degree=3), orbit(30, -20, size=60)
    flat = replace(splat, sh=splat.sh[:, :1])
    np.testing.assert_array_equal(shown(splat, camera).images, shown(flat, camera).images)
    assert np.abs(shown(splat, camera, sh_degree=3).images - shown(flat, camera).images).max() > 0.05
    np.testing.assert_allclose(shown(flat, camera, sh_degree=3).images, shown(flat, camera).images, atol=1e-6)


def test_the_first_degree_brightens_the_side_it_points_to() -> None:
    splat = ball((0, 0, 0), (0.5, 0.5, 0.5), scale=3.0)
    sh = np.zeros((1, 4, 3), np.float32)
    sh[0, 2] = -0.5  # the z basis function, positive for rays going towards +Z: seen from behind
    front, back = shown(replace(splat, sh=sh), orbit(0, 0, size=33), orbit(180, 0, size=33), sh_degree=1).images[
        :, 16, 16, 0
    ]
    assert front == pytest.approx(0.5 + 0.5 * 0.4886025, abs=2e-3)
    assert back == pytest.approx(0.5 - 0.5 * 0.4886025, abs=2e-3)


def test_the_harmonics_are_orthonormal() -> None:
    k = np.arange(20_000) + 0.5
    z, turn = 1 - 2 * k / len(k), k * np.pi * (1 + 5**0.5)
    x, y = np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn)
    basis = np.stack([np.full_like(x, SH_C0), *basis_functions(x, y, z)])
    np.testing.assert_allclose(basis @ basis.T * 4 * np.pi / len(k), np.eye(16), atol=2e-3)


def test_a_scene_is_drawn_any_number_of_times_as_render_draws_it() -> None:
    splat, placement = cloud(22, 300, degree=1), Placement(0.8, 0.1, 1.25)
    cameras = [orbit(azimuth, -15, size=40) for azimuth in (0, 120, 240)]
    scene = prepare(splat, placement, device="cpu", sh_degree=1)
    at_once = render(splat, cameras, placement=placement, device="cpu", sh_degree=1)
    for number, camera in enumerate(cameras):
        np.testing.assert_array_equal(draw(scene, [camera]).images[0], at_once.images[number])


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_tensors_are_placed_and_coloured_as_arrays_are(degree: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does to the Gaussians before gsplat has them, on tensors of the CPU."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(raster_gsplat, "to_gpu", lambda field: torch.from_numpy(np.ascontiguousarray(field)))
    monkeypatch.setattr(raster, "choose_backend", lambda device: "gsplat" if device == "cuda" else "cpu")
    splat = cloud(21, 200, degree=3)
    splat.means[3], splat.quats[5], splat.log_scales[7, 1], splat.opacity_logits[9] = np.nan, 0, np.inf, -np.inf
    splat.sh[11, 0, 2], splat.sh[13, 15, 1] = np.inf, np.nan
    placement = Placement(1.7, -0.2, 1 / 1.7)
    arrays, tensors = (prepare(splat, placement, device=device, sh_degree=degree) for device in ("cpu", "cuda"))
    assert len(arrays.means) == 194
    for field in ("means", "quats", "scales", "opacities", "sh"):
        array = getattr(arrays, field)
        np.testing.assert_allclose(getattr(tensors, field).numpy(), array, rtol=2e-6, atol=1e-7)
    camera = orbit(30, -20)
    colours = [view_colors(scene.means, scene.sh, camera.position) for scene in (arrays, tensors)]
    np.testing.assert_allclose(colours[1].numpy(), colours[0], rtol=1e-5, atol=1e-6)
    nothing = prepare(splat.take(np.zeros(200, bool)), device="cuda")
    assert nothing.means.shape == (0, 3)


def quantised(views: Views) -> np.ndarray:
    """As the reference pictures were written: truncated to 8 bits, not rounded."""
    return np.floor(np.concatenate(list(views.images), axis=1) * 255)


@pytest.mark.parametrize(
    ("asset", "picture", "cameras", "extent", "covered"),
    [
        (
            "robocop_with_hammer.spz",
            "robocop_reference_renders.png",
            [orbit(azimuth, pitch, size=512) for azimuth, pitch in REFERENCE_ORBIT],
            1.5,
            0.109,
        ),
        ("hamburger.ply", "hamburger_reference_render.png", [orbit(45, 0, radius=3.0, size=1080)], 1.0, None),
    ],
    ids=["robocop", "hamburger"],
)
def test_real_assets_look_as_the_public_judge_drew_them(
    asset: str, picture: str, cameras: list[Camera], extent: float, covered: float | None
) -> None:
    from app.splat.files import read_splat

    splat = read_splat(shared(asset), 1_000_000)
    views = shown(splat, *cameras, placement=judge_placement(splat, extent))
    with Image.open(shared(picture)) as image:
        reference = np.asarray(image.convert("RGB")).astype(float)
    for drawn, expected in zip(
        np.split(quantised(views), len(cameras), axis=1), np.split(reference, len(cameras), axis=1), strict=True
    ):
        assert np.abs(drawn - expected).max() <= 8
        assert 10 * np.log10(255**2 / np.square(drawn - expected).mean()) >= 75  # measured: 85 to 97 dB
    assert covered is None or coverage(views) == pytest.approx(covered, abs=5e-4)


def test_the_hamburgers_coverage_is_the_published_one() -> None:
    from app.splat.files import read_splat

    splat = read_splat(shared("hamburger.ply"), 1_000_000)
    views = shown(splat, *(orbit(*angles) for angles in REFERENCE_ORBIT), placement=judge_placement(splat))
    assert coverage(views) == pytest.approx(0.370, abs=5e-4)


def test_the_views_lie_side_by_side_in_the_order_of_the_cameras() -> None:
    cameras = [Camera("", azimuth, 0, 2.5, 49.1, 30, 20) for azimuth in (0, 180)]
    views = shown(ball((0, 0, 0.5), (1, 0, 0)), *cameras, background=(0, 0, 0))
    picture = side_by_side(views)
    assert picture.shape == (20, 60, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:, :30], np.rint(views.images[0] * 255))
    assert views.cameras == tuple(cameras)


def test_coverage_counts_what_can_be_seen() -> None:
    alphas = np.zeros((2, 10, 10), np.float32)
    alphas[0, :5], alphas[1, :5] = 0.5, 0.01
    assert coverage(Views(np.zeros((2, 10, 10, 3), np.float32), alphas, (), "cpu")) == 0.25


def test_all_cameras_of_a_call_have_one_picture_size() -> None:
    for cameras in ([], [orbit(0, 0, size=10), orbit(0, 0, size=20)]):
        with pytest.raises(ValueError, match="at least one camera"):
            render(cloud(0, 1), cameras, device="cpu")


def test_the_backend_that_drew_is_named() -> None:
    assert shown(cloud(0, 1), orbit(0, 0, size=8)).backend == "cpu"
    automatic = render(cloud(0, 1), [orbit(0, 0, size=8)], device="auto")
    assert automatic.backend == ("gsplat" if has_gpu() else "cpu")


@pytest.mark.skipif(has_gpu(), reason="this machine has what is asked for")
def test_cuda_on_a_machine_without_it_is_an_error_with_a_remedy() -> None:
    with pytest.raises(Unavailable, match=r"device = 'cuda': .+; or choose device = 'cpu'"):
        render(cloud(0, 1), [orbit(0, 0, size=8)], device="cuda")


@pytest.mark.slow
def test_a_package_folder_that_cannot_be_written_compiles_into_the_users_cache(tmp_path: Path) -> None:
    code = "import app.splat.raster_cpu.tiles as t; print(t._composite._cache._impl.locator.get_cache_path())"
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    where = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert where.stdout.startswith(str(tmp_path))


@pytest.mark.slow
def test_the_bench_prints_its_table() -> None:
    command = [sys.executable, ROOT / "scripts" / "bench_raster", "--sizes", "320", "--repeat", "1"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "shell, 518 px" in table
    assert "shell, 224 px" in table


@pytest.mark.gpu
def test_gsplat_and_the_cpu_kernel_draw_the_same() -> None:
    command = [sys.executable, ROOT / "scripts" / "check_gpu_raster", "--quick"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
