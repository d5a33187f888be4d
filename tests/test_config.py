from pathlib import Path

import pytest
import tomli

from app.config import Config, load_config
from app.errors import ConfigError

ROOT = Path(__file__).parent.parent


def test_config_toml_states_every_key_with_its_default() -> None:
    assert tomli.loads((ROOT / "config.toml").read_text()) == _lists(Config().model_dump(by_alias=True))
    assert load_config(ROOT / "config.toml", {}).digest() == Config().digest()


def test_validation_is_on_by_default() -> None:
    assert Config().validation.enabled
    assert (Config().validation.threshold, Config().validation.min_gaussians) == (0.20, 150_000)


def test_a_variable_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[validate]\nthreshold = 0.3\nmin_gaussians = 10\n")
    config = load_config(file, {"SPLATGATE__VALIDATE__THRESHOLD": "0.4", "SPLATGATE__SCORE__AGGREGATE": "max"})
    assert (config.validation.threshold, config.validation.min_gaussians) == (0.4, 10)
    assert config.score.aggregate == "max"


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("[validate]\ntreshold = 0.3\n", {}, ["validate.treshold", "no such key"]),
        ("[valdate]\nthreshold = 0.3\n", {}, ["valdate", "no such key"]),
        ("[validate]\nthreshold = 7\n", {}, ["validate.threshold", "7"]),
        ("[render]\nsize = 'big'\n", {}, ["render.size", "big"]),
        ("[validate\n", {}, ["is not TOML"]),
        ("", {"SPLATGATE__VALIDATE__THRESHOLD": "high"}, ["SPLATGATE__VALIDATE__THRESHOLD", "high"]),
        ("", {"SPLATGATE__THRESHOLD": "1"}, ["SPLATGATE__THRESHOLD", "SECTION__KEY"]),
        ("[validate]\nthreshold = nan\n", {}, ["validate.threshold"]),
    ],
)
def test_error_names_the_key_and_the_value(
    tmp_path: Path, text: str, environ: dict[str, str], expected: list[str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(file, environ)
    assert all(part in str(error.value) for part in expected), str(error.value)


def test_relative_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file = tmp_path / "config.toml"
    file.write_text('[auth]\ntokens_file = "tokens"\n[gpu]\ncache = "/var/cache/kernels"\n')
    for path in (file, Path("../config.toml")):
        config = load_config(path, {"SPLATGATE__MODELS__FOLDER": "weights"})
        assert Path(config.serve.data).resolve() == tmp_path / "data"
        assert Path(config.auth.tokens_file).resolve() == tmp_path / "tokens"
        assert (config.gpu.cache, config.score.weights) == ("/var/cache/kernels", "")
        assert config.models.folder == str(tmp_path / "elsewhere" / "weights"), "a variable: the working directory"


def test_without_a_file_the_folders_are_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.config._find", lambda _environ: None)
    config = load_config(None, {"XDG_DATA_HOME": str(tmp_path)})
    assert config.models.folder == str(tmp_path / "splatgate" / "models")
    assert config.serve.data == str(tmp_path / "splatgate" / "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config(None, {}).serve.data == str(tmp_path / ".local/share/splatgate/data")


def test_the_digest_does_not_depend_on_where_things_are(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    assert load_config(tmp_path / "config.toml", {}).digest() == Config().digest()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml", {})


def test_digest_changes_with_a_setting_and_only_then() -> None:
    stricter = load_config(ROOT / "config.toml", {"SPLATGATE__VALIDATE__THRESHOLD": "0.21"})
    assert Config().digest() == load_config(ROOT / "config.toml", {}).digest() != stricter.digest()


def _lists(value: object) -> object:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple) else value
