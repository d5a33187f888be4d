"""Many hosts: engines without a web process, one PostgreSQL and one object store between them and the head."""

from __future__ import annotations

import pytest

from app.config import Config
from app.errors import ConfigError
from app.serve import plan

SHARED = {"database": {"url": "postgresql://db/splatgate"}, "assets": {"url": "s3://bucket/assets"}}


def test_a_host_for_engines_only_starts_no_web_process() -> None:
    config = Config.model_validate(SHARED | {"serve": {"web": False}})
    assert [child.name for child in plan(config, {})] == ["engine cpu"]


@pytest.mark.parametrize("missing", ["database", "assets"])
def test_engines_alone_that_share_nothing_with_anybody_are_a_mistake(missing: str) -> None:
    config = Config.model_validate(SHARED | {"serve": {"web": False}, missing: {"url": ""}})
    with pytest.raises(ConfigError, match=rf"serve\.web = false, and {missing}\.url not set"):
        plan(config, {})
