"""The format of a picture by its first bytes. Needs no imaging library, so that the web process can use it."""

from __future__ import annotations

import re

START = 4_096
"""Bytes at the beginning of a file that are examined."""

FORMATS = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WebP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM....\0\0\0\0",
    "TIFF": rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
    "AVIF": rb"....ftypavi[fs]",
    "HEIC": rb"....ftyp(hei|hev|mif1|msf1)",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\0\0\0\x0cJXL ",
    "SVG": rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<svg",
    "PDF": rb"%PDF-",
}
"""Names of formats, and patterns of their first bytes."""


def format_of(data: bytes) -> str | None:
    """The name of the format; None if it is none of FORMATS."""
    start = data[:START]
    return next((name for name, pattern in FORMATS.items() if re.match(pattern, start, re.DOTALL)), None)
