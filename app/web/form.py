"""Forms from callers: text fields, and a picture as a file or in base64."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from flask import request
from werkzeug.datastructures import FileStorage, MultiDict

from app.config import Config
from app.encoded_picture import find
from app.errors import BadInput
from app.picture_format import START, format_of
from app.web.limits import acquire_upload_slot
from app.web.request_validation import decode_picture, validate_picture

PICTURE_FIELDS = ("image", "prompt_image_file")
"""Names of the field with a picture. The second one is that of a public worker protocol."""

EXAMPLES = '-F prompt="a blue rocket" or -F image=@chair.png'


def text_fields() -> MultiDict[str, str]:
    """The fields without files. Raises BadInput if the form is not UTF-8."""
    parsed = "form" in vars(request)
    if not parsed and request.content_length and request.mimetype == "application/x-www-form-urlencoded":
        stream = request.environ["wsgi.input"]
        if problem := utf8_problem(unquote_to_bytes(stream.read()), "form"):
            raise BadInput(problem)
        stream.seek(0)  # for the parser of Flask, which drops what it cannot decode
    return request.form


def utf8_problem(data: bytes, what: str) -> str:
    """The error message for bytes that are not UTF-8; empty if they are."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"the {what} is not UTF-8 (byte 0x{data[error.start]:02X}): encode it as UTF-8, not as Latin-1"
    return ""


def sent_picture(config: Config) -> bytes | None:
    """The picture of the form; None if there is none. It may also be in the field `prompt`.

    Raises BadInput for several pictures, or for one in another field; BadFile for a file that is no PNG or JPEG;
    TooBusy.
    """
    fields = text_fields()
    uploads = [(name, file) for name, file in request.files.items(multi=True) if file.filename]
    files = [(name, file) for name, file in uploads if name in (*PICTURE_FIELDS, "prompt")]
    for name, file in uploads:
        if (name, file) not in files and format_of(file.read(START)):
            raise BadInput(f"a picture in the field {name[:64]!r}: send it as the field image, e.g. curl {EXAMPLES}")
    texts = [(name, text) for name in PICTURE_FIELDS for text in fields.getlist(name) if text.strip()]
    texts += [("prompt", text) for text in fields.getlist("prompt") if find(text)]
    sent: list[tuple[str, str | FileStorage]] = [*texts, *files]
    if len(sent) > 1:
        raise BadInput(f"{len(sent)} pictures, in the fields {', '.join(name for name, _ in sent)}: send one")
    for name, picture in sent:
        return decode_picture(picture, config) if isinstance(picture, str) else _uploaded(name, picture, config)
    return None


def _uploaded(name: str, file: FileStorage, config: Config) -> bytes:
    acquire_upload_slot(config.limits)
    with file.stream:  # closing it removes its temporary file before the wait
        data = file.read()
    if format_of(data) is None and data.isascii() and find(data.decode()):
        return decode_picture(data.decode(), config)
    if name == "prompt" and format_of(data) is None:
        raise BadInput(f"the prompt is a file, and no picture: send text, e.g. curl {EXAMPLES}")
    validate_picture(data, config)
    return data
