"""The registry of splat formats. Everything that depends on a format asks here; no other module names one."""

from __future__ import annotations

from pathlib import Path

from app.errors import BadInput
from app.splat import compressed_ply, ply, spz
from app.splat.format import MAIN, Format

START_BYTES = 65_536
"""How much of a file's start is shown to Format.recognizes."""

FORMATS: dict[str, Format] = {
    "compressed-ply": compressed_ply.FORMAT,
    "ply": ply.FORMAT,
    "spz": spz.FORMAT,
    "spz2": spz.FORMAT_2,
    "spz4": spz.FORMAT_4,
}
"""By name. Where two formats recognize a file, the first one reads it."""


def recognized(start: bytes) -> Format | None:
    """The format that reads a file that starts with these bytes; None if no format does."""
    return next((each for each in FORMATS.values() if each.read and each.recognizes(start)), None)


def written_as(path: Path, name: str | None = None) -> Format:
    """The format to write to this path: the named one, else that of its suffix. Raises BadInput for none."""
    if name is not None:
        if name not in writable():
            raise BadInput(f"format {name!r} is not written; use one of {', '.join(writable())}")
        return writable()[name]
    matching = [each for each in FORMATS.values() if path.name.lower().endswith(each.suffix)]
    longest = max(matching, key=lambda each: len(each.suffix), default=None)
    if longest is None or longest.name not in writable():
        what = "names no splat format" if longest is None else "is of a format that is only read"
        suffixes = dict.fromkeys(each.suffix for each in writable().values())
        raise BadInput(f"{path}: suffix {path.suffix!r} {what}; use {' or '.join(suffixes)}")
    return longest


def writable() -> dict[str, Format]:
    """The formats that are written, by name."""
    return {name: each for name, each in FORMATS.items() if each.write}


def certified() -> tuple[Format, ...]:
    """The formats in which a generated splat is stored."""
    return tuple(each for each in FORMATS.values() if each.tolerance is not None)


def asset_name(format: Format) -> str:
    """The name of the file that holds a generated or repaired splat."""
    return f"asset{format.suffix}"


def main_asset() -> str:
    """The name of the file that holds a job's splat in the MAIN format."""
    return asset_name(FORMATS[MAIN])


def input_names() -> tuple[str, ...]:
    """The names of the files in which a caller's splat may be stored."""
    return tuple(dict.fromkeys(f"input{each.suffix}" for each in FORMATS.values() if each.read))


def input_name(data: bytes) -> str:
    """The name of the file in which to store a caller's splat, by its content."""
    return f"input{(recognized(data[:START_BYTES]) or FORMATS[MAIN]).suffix}"


def media_types() -> dict[str, str]:
    """The media type of every file in which a job may hold a splat, by file name."""
    stored = {asset_name(each): each.media_type for each in FORMATS.values() if each.write}
    return stored | {f"input{each.suffix}": each.media_type for each in FORMATS.values() if each.read}
