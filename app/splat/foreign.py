"""Recognises files that are no splats, or splats of a format that is not read, and suggests a remedy."""

from __future__ import annotations

import re

KNOWN: tuple[tuple[str, str, str], ...] = (
    (r"glTF", "a glTF binary (.glb)", "export the splat as a PLY or SPZ"),
    (r"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (r"\s*<!doctype html|\s*<html", "an HTML page", "the download failed or needs a login; fetch the file again"),
    (
        r"\s*<\?xml[^>]*>\s*<error>|\s*<error>",
        "an error message of an object store (XML)",
        "check the link; it may have expired",
    ),
    (r"\s*<\?xml|\s*<[a-z]", "XML", "fetch the file again"),
    (r"\s*[{\[]", "JSON", "it may be the error message of a service; fetch the file again"),
    (
        r"PK\x03\x04(?s:.)*meta\.json",
        "a SOG bundle (.sog)",
        "convert it to PLY, e.g. with PlayCanvas's splat-transform",
    ),
    (r"PK\x03\x04", "a ZIP archive", "unpack it and give the PLY or SPZ in it"),
    (
        r"\x89PNG|\xff\xd8\xff|RIFF....WEBP|GIF8",
        "a picture",
        "give a splat; pictures go to `splatgate generate --image`",
    ),
    (r"x[\x01\x5e\x9c\xda]", "a zlib stream", "an SPZ is a gzip stream; export it again"),
    (r"BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "a compressed archive", "unpack it first"),
    (r"cGx5[A-Za-z0-9+/]", "a PLY in base64", "decode it first: base64 -d"),
    (r"H4sI[A-Za-z0-9+/]|TkdTU[A-Za-z0-9+/]", "an SPZ in base64", "decode it first: base64 -d"),
    (r"(\xef\xbb\xbf|\xff\xfe|\xfe\xff)", "text with a byte order mark", "a PLY begins with 'ply'; export it again"),
    (r"\x93HDF|\x93NUMPY", "a data file of another kind", "export the splat as a PLY or SPZ"),
    (r"(#.*\n)*\s*v\s+-?\d|mtllib|# Blender", "a Wavefront OBJ mesh", "give a 3D Gaussian splat"),
    (r"solid ", "an STL mesh", "give a 3D Gaussian splat"),
    (r"\x80[\x02-\x05]", "a Python pickle", "pickles are never read; export the splat as a PLY"),
)
"""Pattern of the first bytes (Latin-1), what it is, what to do."""

KSPLAT_HEADER = 4_096
SPLAT_ROW = 32


def name_of(start: bytes, size: int) -> tuple[str, str] | None:
    """What a file that starts with these bytes is, and the remedy; None if it is unknown."""
    text = start[:4_096].decode("latin-1")
    for pattern, what, remedy in KNOWN:
        if re.match(pattern, text, re.IGNORECASE if pattern.isascii() and "<" in pattern else 0):
            return what, remedy
    if start[:2] in (b"\0\1", b"\0\0") and size >= KSPLAT_HEADER:
        return "probably a .ksplat", "convert it to PLY or SPZ"
    if size and size % SPLAT_ROW == 0 and not text.isascii():
        return "probably a .splat (rows of 32 bytes)", "convert it to PLY or SPZ"
    return None
