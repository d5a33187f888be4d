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
from app.splat.diagnosis import PIECE, Diagnosis, diagnose, field_stats, zero_quaternion_mask
from app.splat.model import Float32, Splat, sigmoid

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
    splat = replace(ball(1_000), opacity_logits=rng.normal(2, 1.5, 1_000))
    assert diagnose(splat, DiagnoseConfig()).healthy
    found = diagnose(splat, DiagnoseConfig(uniform_opacity_std=2)).find("uniform_opacity")
    assert found is not None
    assert found.figures["std"] == pytest.approx(1.5, abs=0.1)


def test_a_scene_of_kilometres_is_out_of_bounds_only_beyond_the_configured_extent() -> None:
    large = replace(ball(500), means=5_000 * ball(500).means)
    assert ("out_of_bounds", "means") in kinds(large)
    assert diagnose(large, DiagnoseConfig(max_extent=10_000)).find("out_of_bounds", "means") is None


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
@pytest.mark.parametrize("count", [1, PIECE, 2 * PIECE + 7])
def test_the_deviation_is_numpys_whatever_the_size_and_the_level(count: int, level: float, spread: float) -> None:
    values = (level + spread * np.random.default_rng(0).uniform(-1, 1, count)).astype(np.float32)
    assert field_stats(values).std == pytest.approx(values.std(dtype=np.float64), rel=1e-12, abs=1e-12)


@given(
    quats=arrays(np.float32, (9, 4), elements=st.sampled_from([0, -0.0, 1e-30, 1e-6, -1e-6, 2e-6, 1, np.nan, np.inf])),
    smallest=st.sampled_from([0, 1e-6, 1.5e-6, 1]),
)
@settings(max_examples=100)
def test_a_rotation_is_zero_by_its_norm_wherever_the_components_stand(quats: Float32, smallest: float) -> None:
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


def test_a_splat_is_not_changed_by_being_looked_at() -> None:
    splat = damaged(ball(500), "opacity NaN 15 %")
    before = splat.opacity_logits.copy()
    look(splat)
    np.testing.assert_array_equal(splat.opacity_logits, before)
