"""config.toml (tomli) and SPLATGATE__SECTION__KEY variables as one frozen tree. Unknown keys are errors.

Options on the command line override both.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli
from pydantic import Field, IPvAnyNetwork, ValidationError, field_validator, model_validator

from app import bounds
from app.errors import ConfigError
from app.generators import DEFAULT, GENERATORS, ProfileName
from app.generators.generator import Generator
from app.metrics import Thresholds
from app.metrics.metric import Metric
from app.samplers import SamplerSettings
from app.section import Section
from app.webhooks import WebhooksConfig

ENV_PREFIX = "SPLATGATE__"

PATH_KEYS = (
    ("models", "folder"),
    ("serve", "data"),
    ("auth", "tokens_file"),
    ("webhooks", "secret_file"),
    ("gpu", "cache"),
    ("score", "weights"),
)
"""Keys that hold a path. Relative paths in the file are relative to its folder; those in variables and options, to the
working directory."""


MAX_PIXELS = 64 * 1024**2
"""Most pixels of all views of one call; a pixel takes about 20 bytes of memory."""

Share = Annotated[float, Field(ge=0, le=1)]


class ProfileConfig(Section):
    name: ProfileName = DEFAULT

    @property
    def generator(self) -> Generator:
        return GENERATORS[self.name]


class GenerateConfig(Section):
    seed: bounds.Seed = 0
    attempts: bounds.Attempts = 1


class LimitsConfig(Section):
    max_gaussians: Annotated[int, Field(ge=1)] = 4_000_000
    max_overdraw: Annotated[float, Field(gt=0)] = 20_000.0
    max_prompt_characters: Annotated[int, Field(ge=1)] = 2_000
    max_body_mb: Annotated[int, Field(ge=1)] = 128
    max_form_mb: Annotated[int, Field(ge=1)] = 16
    max_picture_pixels: Annotated[int, Field(ge=1, le=MAX_PIXELS)] = 4096**2
    max_requests: Annotated[int, Field(ge=1, le=1_000)] = 96
    max_uploads: Annotated[int, Field(ge=1)] = 2
    max_steps: bounds.Steps = 200
    max_oversample: bounds.Oversample = 8
    min_free_mb: Annotated[int, Field(ge=0)] = 128
    body_seconds: Annotated[float, Field(gt=0)] = 60.0
    decode_seconds: Annotated[float, Field(ge=1)] = 10.0
    decode_memory_mb: Annotated[int, Field(ge=64)] = 2_048


class DiagnoseConfig(Section):
    uniform_opacity_std: Annotated[float, Field(ge=0)] = 1.0
    uniform_scale_std: Annotated[float, Field(ge=0)] = 0.01
    double_logit_fraction: Annotated[float, Field(gt=0, le=1)] = 0.05
    max_extent: Annotated[float, Field(gt=0)] = 1_000.0
    zero_quaternion_norm: Annotated[float, Field(ge=0)] = 1e-6


class RepairConfig(Section):
    enabled: bool = True
    strategy: Literal["restore", "noise"] = "restore"
    noise_std: Annotated[float, Field(gt=0)] = 2.0
    max_lost: Annotated[float, Field(gt=0, le=1)] = 0.5
    seed: bounds.Seed = 0


class ViewConfig(Section):
    name: str
    azimuth: float
    pitch: float


class RenderConfig(Section):
    views: tuple[ViewConfig, ...] = Field(
        default=(
            ViewConfig(name="front", azimuth=0, pitch=-15),
            ViewConfig(name="side", azimuth=90, pitch=-15),
            ViewConfig(name="top", azimuth=0, pitch=-75),
            ViewConfig(name="angled", azimuth=45, pitch=-30),
        ),
        min_length=1,
        max_length=64,
    )
    size: bounds.ViewSize = 518
    radius: bounds.Radius = 2.5
    fov: bounds.Fov = 49.1
    placement: Literal["none", "judge"] = "judge"
    extent: bounds.Extent = 1.5
    background: tuple[Share, Share, Share] = (1.0, 1.0, 1.0)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _fits_in_memory(self) -> RenderConfig:
        if self.size**2 * len(self.views) > MAX_PIXELS:
            raise ValueError(f"{len(self.views)} views of {self.size}^2 pixels exceed {MAX_PIXELS:,} pixels in total")
        return self


class TurntableConfig(Section):
    size: bounds.VideoSize = 512
    seconds: bounds.VideoSeconds = 6.0
    fps: bounds.VideoFps = 20

    @property
    def frames(self) -> int:
        return max(1, round(self.seconds * self.fps))


class ImageConfig(Section):
    model: str = "FLUX.1-schnell"
    template: str = (
        "{prompt}, one whole object, centred, three-quarter view, on a plain light grey background, even soft light"
    )
    steps: Annotated[int, Field(ge=1, le=200)] = 4
    guidance: Annotated[float, Field(ge=0, le=50)] = 0.0
    size: Annotated[int, Field(ge=32, le=2048, multiple_of=32)] = 512
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    max_tokens: Literal["auto"] | Annotated[int, Field(ge=16, le=512)] = "auto"

    @field_validator("template")
    @classmethod
    def _has_one_placeholder(cls, template: str) -> str:
        if template.count("{prompt}") != 1:
            raise ValueError("must contain {prompt} exactly once")
        return template


class CutoutConfig(Section):
    model: str = "u2net"
    min_share: Share = 0.01
    max_share: Share = 0.95


class TrellisConfig(SamplerSettings):
    model: str = "TRELLIS-image-large"
    encoder: str = "dinov2-with-registers-large"
    flows: str = ""


class GpuConfig(Section):
    memory: Literal["auto", "resident", "offload"] = "auto"
    quantize: Literal["none", "fp8", "nf4"] = "none"
    compile: bool = False
    limit_gb: Annotated[float, Field(ge=0)] = 0.0
    cache: str = ""


class ModelsConfig(Section):
    folder: str = "models"
    offline: bool = False
    endpoint: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    connections: Annotated[int, Field(ge=1, le=16)] = 4


class ScoreConfig(Section):
    model: str = "ViT-L-14"
    pretrained: str = "openai"
    weights: str = ""
    aggregate: Literal["mean", "max"] = "mean"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class ValidateConfig(Section):
    enabled: bool = True
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.20
    image_threshold: Annotated[float, Field(ge=-1, le=1)] = 0.70
    min_gaussians: Annotated[int, Field(ge=0)] = 150_000
    thresholds: Thresholds = Field(default_factory=dict)

    def threshold_of(self, metric: Metric) -> float | None:
        """The threshold of a metric; None if the metric is not used."""
        if metric.setting:
            return float(getattr(self, metric.setting))
        return self.thresholds.get(metric.name)


class ShapesConfig(Section):
    gaussians: Annotated[int, Field(ge=1_000, le=4_000_000)] = 200_000


class ServeConfig(Section):
    web: bool = True
    host: str = "127.0.0.1"
    port: bounds.Port = 10_010
    published_on: str = ""
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    data: str = "data"
    grace_seconds: Annotated[float, Field(ge=0, le=3_600)] = 30.0


class DatabaseConfig(Section):
    url: str = ""


class JobsConfig(Section):
    max_queued: Annotated[int, Field(ge=1)] = 1_000
    max_deaths: Annotated[int, Field(ge=1, le=100)] = 3
    lost_after_seconds: Annotated[float, Field(ge=1)] = 15.0
    heartbeat_seconds: Annotated[float, Field(gt=0)] = 2.0
    poll_seconds: Annotated[float, Field(ge=0.005, le=10)] = 0.015

    @model_validator(mode="after")
    def _heartbeats_are_frequent_enough(self) -> JobsConfig:
        if self.lost_after_seconds < 2 * self.heartbeat_seconds:
            raise ValueError("jobs.lost_after_seconds must be at least twice jobs.heartbeat_seconds")
        return self


class DeadlinesConfig(Section):
    load: Annotated[float, Field(gt=0)] = 1_800.0
    picture: Annotated[float, Field(gt=0)] = 300.0
    splat: Annotated[float, Field(gt=0)] = 300.0
    repair: Annotated[float, Field(gt=0)] = 120.0
    render: Annotated[float, Field(gt=0)] = 120.0
    score: Annotated[float, Field(gt=0)] = 120.0
    files: Annotated[float, Field(gt=0)] = 120.0
    turntable: Annotated[float, Field(gt=0)] = 600.0


class AssetsConfig(Section):
    url: str = ""
    keep_days: Annotated[float, Field(gt=0)] = 30.0
    max_gb: Annotated[float, Field(gt=0)] = 50.0
    quarantine_days: Annotated[float, Field(gt=0)] = 7.0


class WorkerConfig(Section):
    refusal: Literal["status", "empty"] = "status"
    wait_seconds: Annotated[float, Field(gt=0, le=3_600)] = 290.0


class AuthConfig(Section):
    tokens_file: str = ""
    open_worker: bool = False


class FeedbackConfig(Section):
    join_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    rejection_cost: Annotated[float, Field(gt=0, le=1_000)] = 1.0
    keep_days: Annotated[float, Field(gt=0)] = 365.0


class LogConfig(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    as_json: bool = Field(default=False, alias="json")  # BaseModel owns the name `json`


class Config(Section):
    """The whole tree. config.toml has every default with its meaning and unit."""

    profile: ProfileConfig = ProfileConfig()
    generate: GenerateConfig = GenerateConfig()
    limits: LimitsConfig = LimitsConfig()
    diagnose: DiagnoseConfig = DiagnoseConfig()
    repair: RepairConfig = RepairConfig()
    render: RenderConfig = RenderConfig()
    turntable: TurntableConfig = TurntableConfig()
    image: ImageConfig = ImageConfig()
    cutout: CutoutConfig = CutoutConfig()
    trellis: TrellisConfig = TrellisConfig()
    gpu: GpuConfig = GpuConfig()
    models: ModelsConfig = ModelsConfig()
    score: ScoreConfig = ScoreConfig()
    validation: ValidateConfig = Field(default=ValidateConfig(), alias="validate")  # BaseModel owns the name `validate`
    shapes: ShapesConfig = ShapesConfig()
    serve: ServeConfig = ServeConfig()
    database: DatabaseConfig = DatabaseConfig()
    jobs: JobsConfig = JobsConfig()
    deadlines: DeadlinesConfig = DeadlinesConfig()
    assets: AssetsConfig = AssetsConfig()
    worker: WorkerConfig = WorkerConfig()
    auth: AuthConfig = AuthConfig()
    webhooks: WebhooksConfig = WebhooksConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    log: LogConfig = LogConfig()

    def with_generator_settings(self) -> Config:
        """The tree with the settings that the profile's generator fixes."""
        tree = self.model_dump(by_alias=True)
        for section, keys in self.profile.generator.settings.items():
            tree[section] |= keys
        return Config.model_validate(tree)

    def digest(self) -> str:
        """sha256 (hex) of the tree without PATH_KEYS, as canonical JSON; equal settings have equal digests."""
        tree = self.model_dump(mode="json", by_alias=True)
        for section, key in PATH_KEYS:
            del tree[section][key]
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def load_config(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Built-in defaults, overridden by the file, then by SPLATGATE__SECTION__KEY variables (TOML values or bare words).

    path: the file; None selects SPLATGATE_CONFIG, else config.toml in the working directory or beside the package.
    PATH_KEYS become absolute; without a file they are below $XDG_DATA_HOME/splatgate.
    Raises ConfigError, naming the key, its value and what was expected.
    """
    environ = os.environ if environ is None else environ
    path = path or _find(environ)
    tree = _read(path) if path else {}
    variables = {key: value for key, value in environ.items() if key.startswith(ENV_PREFIX)}
    for key, text in variables.items():
        _put(tree, key, text)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, path, variables)) from None
    return _with_absolute_paths(config, path.absolute().parent if path else _user_folder(environ), variables)


def _find(environ: Mapping[str, str]) -> Path | None:
    if named := environ.get("SPLATGATE_CONFIG"):
        return Path(named)
    beside = Path("config.toml"), Path(__file__).parent.parent / "config.toml"
    return next((candidate for candidate in beside if candidate.is_file()), None)


def _user_folder(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser()) / "splatgate"


def _with_absolute_paths(config: Config, folder: Path, variables: Mapping[str, str]) -> Config:
    """The tree with absolute PATH_KEYS: below `folder`, or below the working directory for values from variables."""
    for section, key in PATH_KEYS:
        part = getattr(config, section)
        if text := getattr(part, key):
            base = Path.cwd() if f"{ENV_PREFIX}{section}__{key}".upper() in variables else folder
            absolute = part.model_copy(update={key: str(base / Path(text).expanduser())})
            config = config.model_copy(update={section: absolute})
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomli.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomli.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None


def _put(tree: dict[str, Any], key: str, text: str) -> None:
    parts = key.removeprefix(ENV_PREFIX).lower().split("__")
    if len(parts) != 2 or not all(parts):
        raise ConfigError(f"{key}: variables are named {ENV_PREFIX}SECTION__KEY, e.g. {ENV_PREFIX}VALIDATE__THRESHOLD")
    section = tree.setdefault(parts[0], {})
    if isinstance(section, dict):
        section[parts[1]] = _value(text)


def _value(text: str) -> Any:
    try:
        return tomli.loads(f"value = {text}")["value"]
    except tomli.TOMLDecodeError:
        return text  # a bare word needs no quotes


def _explain(error: ValidationError, path: Path | None, variables: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        variable = ENV_PREFIX + "__".join(str(part) for part in problem["loc"][:2]).upper()
        source = variable if variable in variables else str(path or "built-in defaults")
        if problem["type"] == "extra_forbidden":
            lines.append(
                f"{source}: {place}: no such key; see docs/configuration.md, or use another file with --config"
            )
        else:
            lines.append(f"{source}: {place} = {problem['input']!r}: {problem['msg']}")
    return "\n".join(lines)
