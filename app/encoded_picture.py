"""Pictures that callers send as text: base64 and data URLs, as they arrive from shells, forms and other programs.

Quotes, byte order marks, line breaks, the URL-safe alphabet, percent escapes and missing padding are accepted. So are
spaces in place of `+`, which URL-encoded forms make of it.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from urllib.parse import unquote

from app.errors import BadInput
from app.picture_format import format_of

SHORTEST = 64
"""This many base64 characters in a row are no prompt, whatever they encode. A slash does not count: it may be part of a
path."""

START = 80
"""Characters at the beginning by which a format is recognised."""

MARK = re.compile(
    r"data:\s*[a-z]+/[\w.+-]+[^,\s]{0,100},|(data:\s*)?;\s*base64\s*,|\bbase64\s*[,:](?=\s*[\w+/%\\-]{16})",
    re.IGNORECASE | re.ASCII,
)
"""The part of a data URL before the data, or what is left of it."""

MISREAD_MARK = "\xef\xbb\xbf"
"""UTF-8's byte order mark, read as Latin-1."""

NO_BASE64 = re.compile(r"[^A-Za-z0-9+/_=%\s\\-]")
LONG_RUN = re.compile(rf"[A-Za-z0-9+]{{{SHORTEST},}}")


@dataclass(frozen=True)
class EncodedPicture:
    """format: by the first bytes; None if unknown. data: base64. around: the text around it."""

    format: str | None
    data: str
    around: str = ""

    def __str__(self) -> str:
        return f"{self.format} data in base64" if self.format else "a file in base64"

    def decode(self) -> bytes:
        """The bytes. Raises BadInput if they are not base64."""
        return decode(self.data)


def find(text: str) -> EncodedPicture | None:
    """The picture that a text holds; None if it is a prompt."""
    if mark := MARK.search(text):
        data, rest = _until_other(text[mark.end() :])
        return EncodedPicture(_format(data), data, _words(text[: mark.start()] + " " + rest))
    data, rest = _until_other(_trimmed(text))
    if format := _format(data):
        return EncodedPicture(format, data, _words(rest))
    if run := next((run for run in LONG_RUN.finditer(text) if _is_mixed(run[0])), None):
        data, rest = _until_other(text[run.start() :])
        return EncodedPicture(None, data, _words(text[: run.start()] + " " + rest))
    return None


def decode(data: str) -> bytes:
    """Decodes base64 in any of its variants. Raises BadInput."""
    try:
        return base64.b64decode(_padded(_standard(data)), validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("the picture is not base64: encode the bytes of a PNG or JPEG file") from None


def _until_other(text: str) -> tuple[str, str]:
    """The text up to the first character that is not base64, and the rest."""
    other = NO_BASE64.search(text)
    return (text[: other.start()], text[other.start() :]) if other else (text, "")


def _trimmed(text: str) -> str:
    """Without leading quotes, byte order marks and blanks, or the b'' of a bytes literal."""
    return re.sub(r"^[^A-Za-z0-9+/_%-]+", "", re.sub(r"^[^A-Za-z0-9+/_%-]*b['\"]", "", text))


def _words(text: str) -> str:
    """The words of a text, without punctuation and invisible characters."""
    return " ".join(re.findall(r"\w+", text.replace(MISREAD_MARK, "")))


def _format(data: str) -> str | None:
    start = _standard(re.sub("%.?$", "", data[:START]))
    whole = start[:-1] if len(start) % 4 == 1 else start
    try:
        return format_of(base64.b64decode(_padded(whole), validate=True))
    except (binascii.Error, ValueError):
        return None


def _is_mixed(run: str) -> bool:
    """Whether it has lower-case and capital letters and digits; no word of this length does."""
    return bool(re.search("[a-z]", run) and re.search("[A-Z]", run) and re.search("[0-9]", run))


def _standard(data: str) -> str:
    """Base64 of the standard alphabet, without line breaks and padding."""
    text = unquote(unquote(data)) if "%" in data else data
    for escaped in ("\\r", "\\n", "\\"):  # JSON within JSON
        text = text.replace(escaped, "")
    text = _joined(text.strip()).translate(str.maketrans("-_", "+/"))
    return text.replace(" ", "" if _is_wrapped(text) else "+").rstrip("=")


def _joined(text: str) -> str:
    """The lines as one, without common indentation. Other spaces stay: they may have been `+`."""
    lines = text.splitlines()
    if len(lines) > 1 and all(line[:1].isspace() for line in lines[1:]):
        lines = [line.lstrip() for line in lines]
    if len(lines) > 1 and all(line[-1:].isspace() for line in lines[:-1]):
        lines = [line.rstrip() for line in lines]
    return "".join(lines).replace("\t", "")


def _is_wrapped(text: str) -> bool:
    """Whether spaces were line breaks: lines of base64 have equal lengths."""
    *lines, last = text.split(" ")
    length = len(lines[0]) if lines else 0
    equal = length % 4 == 0 < length and all(len(line) == length for line in lines) and len(last) <= length
    return equal and (len(lines) > 3 or len(text.replace(" ", "")) % 4 == 0 or length in (64, 76))


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)
