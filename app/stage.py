"""The stages of a job, by the names that the pipeline, the database, the API and the page share."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """What a job is doing. The values are the keys of [deadlines], and appear in the database and the API."""

    PICTURE = "picture"
    SPLAT = "splat"
    REPAIR = "repair"
    RENDER = "render"
    SCORE = "score"
    FILES = "files"
    TURNTABLE = "turntable"

    def line(self, detail: str = "") -> str:
        """The line that the log and the terminal show, such as "[2/4] Diagnosing and repairing..."."""
        return f"{_TITLES[self]}{detail and ' '}{detail}..."


_TITLES = {
    Stage.PICTURE: "[1/4] Generating",
    Stage.SPLAT: "[1/4] Building the splat",
    Stage.REPAIR: "[2/4] Diagnosing and repairing",
    Stage.RENDER: "[3/4] Rendering the views",
    Stage.SCORE: "[4/4] Validating with CLIP",
    Stage.FILES: "Writing the files",
    Stage.TURNTABLE: "Rendering the turntable",
}
