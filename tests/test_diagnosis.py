import itertools
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from _damage import DAMAGES, FLOOR, double_logit, lost, opacity_at
from healthy import ASSETS, asset, ball
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from loguru import logger

from app.config import DiagnoseConfig
from app.splat.diagnosis import diagnose
from app.splat.findings import Diagnosis
from app.splat.model import Float32, Splat, sigmoid
from app.splat.statistics import CHUNK, field_stats, zero_quaternion_mask
from app.stages import shapes
from app.stages.scene import KINDS

EXPECTED = {
    "uniform opacity -9.2103": ("uniform_opacity", "opacity_logits"),
    "99 % at the floor": ("double_logit", "opacity_logits"),
    "90 % at the floor": ("double_logit", "opacity_logits"),
    "double logit": ("double_logit", "opacity_logits"),
    "double logit, clamp 1e-3": ("double_logit", "opacity_logits"),
    "double logit, one half": ("double_logit", "opacity_logits"),
    "opacity NaN 15 %": ("nonfinite", "opacity_logits"),
    "opacity inf 1 %": ("nonfinite", "opacity_logits"),
    "opacity inf 10 %": ("nonfinite", "opacity_logits"),
    "linear opacity": ("linear_opacity", "opacity_logits"),
    "uniform scale -5.5": ("uniform_scale", "log_scales"),
    "uniform scale, mean": ("uniform_scale", "log_scales"),
    "linear scale": ("linear_scale", "log_scales"),
    "scale NaN 10 %": ("nonfinite", "log_scales"),
    "zero quaternions 10 %": ("zero_quaternion", "quats"),
    "zero quaternions, all": ("zero_quaternion", "quats"),
    "colour NaN 10 %": ("nonfinite", "sh"),
    "position NaN 2 %": ("nonfinite", "means"),
    "position flung 1 %": ("out_of_bounds", "means"),
    "one stray at 5": ("stray_position", "means"),
    "one stray at 60": ("stray_position", "means"),
    "30 strays at 300": ("stray_position", "means"),
    "one giant of 50": ("oversized", "log_scales"),
    "20 giants of 0.5": ("oversized", "log_scales"),
    "colours 0 to 255": ("rgb_255", "sh"),
    "colours 0 to 1": ("rgb_unit", "sh"),
    "opacities 0 to 255": ("opacity_255", "opacity_logits"),
    "opacities 0 to 100": ("opacity_255", "opacity_logits"),
}


def look(splat: Splat) -> Diagnosis:
    return diagnose(splat, DiagnoseConfig())


def kinds(splat: Splat) -> list[tuple[str, str]]:
    return [(finding.kind, finding.field) for finding in look(splat).findings]


def damaged(splat: Splat, name: str) -> Splat:
    return DAMAGES[name](splat, np.random.default_rng(0))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    written: list[str] = []
    sink = logger.add(lambda message: written.append(message.record["message"]), level="DEBUG")
    yield written
    logger.remove(sink)


def test_every_damage_is_expected_to_be_found() -> None:
    assert EXPECTED.keys() == DAMAGES.keys()


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_gives_its_finding_and_no_other(name: str) -> None:
    # 99 % of ten thousand at one value leaves a standard deviation under 1: uniform, which says the same
    found = kinds(damaged(ball(10_000), name))
    assert found in ([EXPECTED[name]], [("uniform_opacity", "opacity_logits")] if name.startswith("99") else None)


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("file", ASSETS)
def test_a_damage_of_a_real_asset_gives_its_finding_and_no_other(file: str, name: str) -> None:
    assert kinds(damaged(asset(file), name)) == [EXPECTED[name]]


@pytest.mark.parametrize("file", ASSETS)
def test_real_assets_are_healthy(file: str) -> None:
    diagnosis = look(asset(file))
    assert diagnosis.healthy
    assert diagnosis.findings == ()


@given(
    count=st.integers(50, 400),
    seed=st.integers(0, 2**32 - 1),
    degree=st.integers(0, 3),
    level=st.floats(-3, 6),
    spread=st.floats(1.6, 5),
    unit=st.floats(0.01, 100),
)
@settings(max_examples=60)
def test_a_healthy_splat_has_no_finding_in_any_unit(
    count: int, seed: int, degree: int, level: float, spread: float, unit: float
) -> None:
    splat = ball(count, seed, degree)
    logits = np.random.default_rng(seed).normal(level, spread, count)
    logits = level + spread * (logits - logits.mean()) / logits.std()
    scaled = replace(splat, means=splat.means * unit, log_scales=splat.log_scales + np.log(unit), opacity_logits=logits)
    assert kinds(scaled) == []


@given(seed=st.integers(0, 2**32 - 1), level=st.floats(0, 5), end=st.sampled_from([1e-6, 1e-4, 1e-3, 0.499 / 255]))
@settings(max_examples=60)
def test_eight_bit_opacities_with_saturated_ends_are_healthy(seed: int, level: float, end: float) -> None:
    """An SPZ reader has to put 0 and 255 somewhere: mass at one value each side is no fault, not even at 9.2103."""
    rng = np.random.default_rng(seed)
    share = np.rint(255 * sigmoid(rng.normal(level, 4, 2_000).astype(np.float32))) / 255
    share = share.clip(end, 1 - end)
    assert kinds(replace(ball(2_000, seed), opacity_logits=np.log(share / (1 - share)))) == []


@given(seed=st.integers(0, 2**32 - 1), level=st.floats(-2, 3), clamp=st.sampled_from([1e-4, 1e-3]))
@settings(max_examples=60)
def test_probabilities_clamped_once_as_they_should_be_are_healthy(seed: int, level: float, clamp: float) -> None:
    rng = np.random.default_rng(seed)
    share = sigmoid(rng.normal(level, 6, 2_000).astype(np.float32)).clip(clamp, 1 - clamp)
    assert kinds(replace(ball(2_000, seed), opacity_logits=np.log(share / (1 - share)))) == []


@given(seed=st.integers(0, 2**32 - 1), level=st.floats(-1, 4), spread=st.floats(2, 5), half=st.booleans())
@settings(max_examples=60)
def test_double_logit_is_found_whatever_the_distribution(seed: int, level: float, spread: float, half: bool) -> None:
    rng = np.random.default_rng(seed)
    splat = replace(ball(3_000, seed), opacity_logits=rng.normal(level, spread, 3_000))
    found = look(double_logit(splat, rng, clamp=1e-4, share=0.5 if half else 1.0)).find("double_logit")
    assert found is not None
    assert found.figures["whole"] == (not half)


@pytest.mark.parametrize(("clamp", "value"), [(1e-4, 9.210), (1e-3, 6.907)])
def test_the_clamp_of_a_double_logit_is_reported(clamp: float, value: float) -> None:
    found = look(double_logit(ball(5_000), np.random.default_rng(0), clamp=clamp)).find("double_logit")
    assert found is not None
    assert found.figures["clamp"] == pytest.approx(value, abs=1e-3)
    assert f"{value:.3f}" in found.message


def test_a_stray_value_does_not_hide_a_double_logit() -> None:
    splat = double_logit(ball(5_000), np.random.default_rng(0))
    logits = splat.opacity_logits.copy()
    logits[7] = 1e30
    found = look(replace(splat, opacity_logits=logits)).find("double_logit")
    assert found is not None
    assert found.figures["whole"]


def test_a_double_logit_survives_half_precision() -> None:
    splat = double_logit(ball(5_000), np.random.default_rng(0))
    assert kinds(replace(splat, opacity_logits=splat.opacity_logits.astype(np.float16))) == [
        ("double_logit", "opacity_logits")
    ]


def test_a_finding_is_one_per_field_and_kind() -> None:
    splat = ball(1_000)
    rng = np.random.default_rng(0)
    for field in ("quats", "log_scales", "sh"):
        splat = lost(splat, rng, field=field, value=np.inf, share=0.3)
        splat = lost(splat, rng, field=field, value=np.nan, share=0.3)
    assert kinds(splat) == [("nonfinite", "quats"), ("nonfinite", "log_scales"), ("nonfinite", "sh")]


def test_counts_are_of_gaussians_and_figures_of_values() -> None:
    splat = ball(200)
    means = splat.means.copy()
    means[3] = np.nan
    means[5, 0] = -np.inf
    found = look(replace(splat, means=means)).find("nonfinite", "means")
    assert found is not None
    assert (found.count, found.figures) == (2, {"nan": 3, "inf": 1})


def test_uniform_thresholds_are_the_configured_ones() -> None:
    rng = np.random.default_rng(0)
    splat = replace(ball(1_000), opacity_logits=rng.normal(-2, 1.5, 1_000))
    assert diagnose(splat, DiagnoseConfig()).healthy
    found = diagnose(splat, DiagnoseConfig(uniform_opacity_std=2)).find("uniform_opacity")
    assert found is not None
    assert found.figures["std"] == pytest.approx(1.5, abs=0.1)


# ------------------------------------------------------------------------------- relative to the object


def scaled(splat: Splat, factor: float, moved: float = 0.0) -> Splat:
    """The same splat in another unit, and elsewhere."""
    log_scales = splat.log_scales + np.float32(np.log(factor))
    return replace(splat, means=np.float32(factor) * splat.means + np.float32(factor * moved), log_scales=log_scales)


@given(
    name=st.sampled_from(sorted(DAMAGES)), factor=st.sampled_from((1e-6, 0.02, 30.0, 1e6)), moved=st.floats(-5.0, 5.0)
)
@settings(max_examples=60)
def test_the_findings_do_not_depend_on_the_unit_nor_on_the_place(name: str, factor: float, moved: float) -> None:
    if name in ("linear scale", "uniform scale -5.5"):  # sizes in a space of their own do not scale along
        return
    damaged = DAMAGES[name](ball(3_000), np.random.default_rng(0))
    assert kinds(scaled(damaged, factor, moved)) == kinds(damaged)


def of(means: np.ndarray, size: float, seed: int = 0) -> Splat:
    random = np.random.default_rng(seed)
    n = len(means)
    log_scales = np.log(size) + 0.3 * random.normal(size=(n, 3))
    colours = random.normal(0, 0.7, (n, 1, 3))
    return Splat(means, random.normal(size=(n, 4)), log_scales, random.normal(1.5, 2.5, n), colours)


@given(n=st.integers(1, 3_000), seed=st.integers(0, 10_000), spread=st.sampled_from((1e-3, 0.3, 50.0)))
@settings(max_examples=100)
def test_sparse_clouds_are_healthy(n: int, seed: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    for cloud in (random.normal(size=(n, 3)), random.uniform(-1, 1, (n, 3))):
        assert kinds(of(spread * cloud, spread * 0.1, seed)) == []


@given(n=st.integers(50, 3_000), seed=st.integers(0, 10_000), width=st.floats(0.0, 0.1))
def test_thin_rings_and_poles_are_healthy(n: int, seed: int, width: float) -> None:
    random = np.random.default_rng(seed)
    turn, across = random.uniform(0, 2 * np.pi, n), width * random.normal(size=(2, n))
    ring = np.column_stack([(1 + across[0]) * np.cos(turn), across[1], (1 + across[0]) * np.sin(turn)])
    pole = np.column_stack([across[0], random.uniform(0, 3, n), across[1]])
    assert kinds(of(ring, 0.01, seed)) == []
    assert kinds(of(pole, 0.01, seed)) == []


@pytest.mark.parametrize("share", [0.5, 0.1, 0.03, 0.01])
@pytest.mark.parametrize("distance", [1.5, 4.0, 20.0])
def test_two_separate_objects_are_healthy(share: float, distance: float) -> None:
    splat = ball(10_000)
    small = np.arange(10_000) < 10_000 * share
    means = np.where(small[:, None], splat.means * np.float32(share**0.5), splat.means)
    sizes = np.where(small[:, None], splat.log_scales, splat.log_scales)
    means[small] += np.float32([distance, 0, 0])
    assert kinds(replace(splat, means=means, log_scales=sizes)) == []


@pytest.mark.parametrize("logit", [-11.0, 0.0, 9.0])
@pytest.mark.parametrize("where", [(5, 5, 5), (0, -2.5, 0), (60, 0, 0), (0, 0, 600)])
def test_one_gaussian_of_many_far_away_is_a_stray_however_faint(where: tuple[float, ...], logit: float) -> None:
    splat = ball(20_000)
    splat.means[7], splat.opacity_logits[7] = where, logit
    found = look(splat).find("stray_position")
    assert found is not None
    assert (found.count, found.figures["full"] > 2) == (1, True)


def test_strays_in_one_place_are_no_object() -> None:
    splat = ball(20_000)
    splat.means[:200] = (5, 5, 5)
    found = look(splat).find("stray_position")
    assert found is not None
    assert found.count == 200


def test_positions_on_one_point_are_named() -> None:
    splat = ball(1_000)
    assert kinds(replace(splat, means=np.full((1_000, 3), 0.25))) == [("uniform_position", "means")]
    few_apart = np.full((1_000, 3), -3.0)
    few_apart[:20] = splat.means[:20]
    assert kinds(replace(splat, means=few_apart)) == [("uniform_position", "means")]


@pytest.mark.parametrize(("factor", "multiplied"), [(0.02, 0.012), (1_000.0, 604)])
def test_another_unit_is_a_hint_with_what_the_judge_makes_of_opacities(factor: float, multiplied: float) -> None:
    diagnosis = look(scaled(ball(5_000), factor))
    assert diagnosis.healthy
    (hint,) = diagnosis.hints
    assert (hint.kind, hint.field) == ("other_unit", "means")
    assert hint.figures["opacity_factor"] == pytest.approx(multiplied, rel=0.05)
    assert "repair --extent 1.5" in hint.message
    assert look(ball(5_000)).hints == ()


@pytest.mark.parametrize(("value", "healthy"), [(10.0, True), (255.0, True), (0.5, True), (-2.2, False), (-9.2, False)])
def test_one_opacity_for_all_is_a_fault_only_where_it_is_low(value: float, healthy: bool) -> None:
    assert look(replace(ball(500), opacity_logits=np.full(500, value))).healthy is healthy


def test_pale_colours_between_0_and_1_are_a_hint_only() -> None:
    splat = ball(2_000)
    pale = replace(splat, sh=np.random.default_rng(0).uniform(0.3, 0.7, (2_000, 1, 3)))
    diagnosis = look(pale)
    assert diagnosis.healthy
    assert [hint.kind for hint in diagnosis.hints] == ["rgb_unit"]


@pytest.mark.parametrize("degree", [1, 3])
def test_colours_as_rgb_are_found_beside_harmonics(degree: int) -> None:
    damaged = DAMAGES["colours 0 to 255"](ball(2_000, degree=degree), np.random.default_rng(0))
    assert kinds(damaged) == [("rgb_255", "sh")]


def test_every_kind_of_generated_shape_is_healthy() -> None:
    generator = shapes.Shapes(shapes.ShapesParams(3_000))
    for number, (kind, colour) in enumerate(itertools.product(KINDS, ("red", "black", "white"))):
        diagnosis = look(generator.build(f"a {colour} {kind}", None, number))
        assert (diagnosis.findings, diagnosis.hints) == ((), ()), (kind, colour)


def test_sizes_without_end_are_out_of_bounds() -> None:
    splat = lost(ball(500), np.random.default_rng(0), field="log_scales", value=80.0, share=0.01)
    assert kinds(splat) == [("out_of_bounds", "log_scales")]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_gaussians_can_be_diagnosed(count: int) -> None:
    diagnosis = look(ball(count))
    assert diagnosis.gaussians == count
    assert not diagnosis.find("nonfinite")


def test_statistics_are_of_finite_values_only() -> None:
    stats = field_stats(np.array([1, 3, np.nan, np.inf, -np.inf], np.float32))
    assert (stats.count, stats.nonfinite, stats.mean, stats.std, stats.min, stats.max) == (5, 3, 2, 1, 1, 3)


@pytest.mark.parametrize(("level", "spread"), [(0, 1), (1e6, 0.1), (-9.2103, 0), (0, 1e38)])
@pytest.mark.parametrize("count", [1, CHUNK, 2 * CHUNK + 7])
def test_the_deviation_is_numpys_whatever_the_size_and_the_level(count: int, level: float, spread: float) -> None:
    values = (level + spread * np.random.default_rng(0).uniform(-1, 1, count)).astype(np.float32)
    assert field_stats(values).std == pytest.approx(values.std(dtype=np.float64), rel=1e-12, abs=1e-12)


@given(
    quats=arrays(np.float32, (9, 4), elements=st.sampled_from([0, -0.0, 1e-30, 1e-6, -1e-6, 2e-6, 1, np.nan, np.inf])),
    smallest=st.sampled_from([0, 1e-6, 1.5e-6, 1]),
)
@settings(max_examples=100)
def test_a_rotation_is_zero_by_its_norm_whichever_component_is_large(quats: Float32, smallest: float) -> None:
    splat = replace(ball(9), quats=quats)
    norms = np.linalg.norm(quats.astype(np.float64), axis=1)
    np.testing.assert_array_equal(zero_quaternion_mask(splat, smallest), norms <= smallest)


def test_a_diagnosis_is_json_even_where_nothing_is_finite() -> None:
    splat = replace(ball(50), sh=np.full((50, 1, 3), np.nan))
    written = json.loads(json.dumps(look(splat).to_dict(), allow_nan=False))
    assert written["stats"]["sh"]["mean"] is None
    assert written["stats"]["sh"]["nonfinite"] == 150
    assert written["findings"][0]["kind"] == "nonfinite"


def test_operators_find_the_lines_they_look_for(lines: list[str]) -> None:
    look(ball(1_234))
    look(opacity_at(ball(1_234), np.random.default_rng(0), logit=FLOOR))
    assert "No opacity corruption detected (1,234 gaussians)" in lines
    assert "UNIFORM opacity corruption detected: std=0.00" in lines
    assert len([line for line in lines if line.startswith("No opacity")]) == 1


def test_a_splat_is_not_changed_by_its_diagnosis() -> None:
    splat = damaged(ball(500), "opacity NaN 15 %")
    before = splat.opacity_logits.copy()
    look(splat)
    np.testing.assert_array_equal(splat.opacity_logits, before)
