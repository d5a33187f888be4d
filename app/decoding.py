"""Decodes files from callers in a child process with limits on memory and processor time.

A few kilobytes of SPZ, PNG or JPEG can unpack to gigabytes or take minutes. That kills the child, not the service, and
the next file gets a new child. `python -m app.decoding FD LIMITS` is the child; FD is its end of a socket pair.
"""

from __future__ import annotations

import json
import math
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image

from app.config import LimitsConfig
from app.errors import BadFile
from app.splat.files import decode_splat
from app.splat.model import MAX_COORDINATE, Splat
from app.stages.picture import Picture, read_picture

FIELDS = ("means", "quats", "log_scales", "opacity_logits", "sh")
WALL_FACTOR = 6
"""The wall-clock timeout as a multiple of limits.decode_seconds; the machine may be busy."""

HEADER = struct.Struct("!II")  # bytes of JSON, bytes of data
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


class _Child:
    """The child process and our end of its socket; both None until it is started."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.socket: socket.socket | None = None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, limits: LimitsConfig) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.decoding", str(theirs.fileno()), limits.model_dump_json()],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **ONE_THREAD},
            )
        ours.settimeout(WALL_FACTOR * limits.decode_seconds + 30)  # includes the imports
        self.socket = ours

    def end(self) -> None:
        if self.socket:
            self.socket.close()
        if self.process:
            self.process.kill()
            self.process.wait()
        self.process = self.socket = None


class Decoder:
    """One child process, started for the first file and kept. Thread-safe; decodes one file at a time."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._child = _Child()
        weakref.finalize(self, self._child.end)

    def splat(self, data: bytes, name: str) -> Splat:
        """Decodes a splat of any registered format. name: what to call it in a message. Raises BadFile."""
        answer, arrays = self._ask({"kind": "splat", "name": name}, data)
        flat, found, start = np.frombuffer(arrays, np.float32), {}, 0
        for field in FIELDS:
            shape = answer[field]
            found[field] = flat[start : start + math.prod(shape)].reshape(shape)
            start += math.prod(shape)
        return Splat(**found, notes=tuple(answer["notes"]))

    def picture(self, data: bytes, formats: tuple[str, ...]) -> Picture:
        """Decodes a picture of one of the formats. Raises BadFile."""
        answer, pixels = self._ask({"kind": "picture", "formats": formats}, data)
        return Picture(Image.frombytes(answer["mode"], tuple(answer["size"]), pixels), None, "given")

    def check_splat(self, data: bytes, name: str) -> None:
        """Raises BadFile if the data are not a splat, or if no Gaussian has a position."""
        answer, _ = self._ask({"kind": "check splat", "name": name}, data)
        if not answer["placed"]:
            raise BadFile(f"{name}: no Gaussian has a position within {MAX_COORDINATE:g} units; export it again")

    def check_picture(self, data: bytes, formats: tuple[str, ...]) -> None:
        """Raises BadFile if the data are not a picture of one of the formats."""
        self._ask({"kind": "check picture", "formats": formats}, data)

    def start(self) -> None:
        """Starts the child, so that the first file does not wait for its imports."""
        with self._lock:
            self._connection()

    def close(self) -> None:
        """Ends the child."""
        with self._lock:
            self._child.end()

    def _ask(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        with self._lock:
            connection = self._connection()
            try:
                send(connection, request, data)
                answer, payload = receive(connection)
            except (EOFError, OSError):  # the child was killed, or exceeded the timeout of the socket
                self._child.end()
                raise BadFile(
                    f"{request.get('name', 'the picture')}: takes over {self._limits.decode_seconds:g} s of processor "
                    "time to decode (limits.decode_seconds); save it again with an ordinary tool"
                ) from None
            except BaseException:
                self._child.end()  # the rest of an answer may still arrive
                raise
        if "error" in answer:
            raise BadFile(str(answer["error"]))
        return answer, payload

    def _connection(self) -> socket.socket:
        if not self._child.is_running:
            self._child.end()
            self._child.start(self._limits)
        assert self._child.socket
        return self._child.socket


def serve(connection: socket.socket, limits: LimitsConfig) -> None:
    """Runs the child: decodes files until the parent closes its end of the socket."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            request, data = receive(connection)
            _limit(limits)
            try:
                answer, payload = _decode(request, data, limits)
            except BadFile as error:
                answer, payload = {"error": str(error)}, b""
            except MemoryError:
                name = request.get("name", "the picture")
                excess = f"over {limits.decode_memory_mb:,} MB of memory to decode (limits.decode_memory_mb)"
                answer, payload = {"error": f"{name}: takes {excess}; make it smaller"}, b""
            del data
            send(connection, answer, payload)
            del payload


def send(connection: socket.socket, message: dict[str, Any], data: bytes) -> None:
    """Sends a message and its data."""
    text = json.dumps(message).encode()
    connection.sendall(HEADER.pack(len(text), len(data)) + text)
    connection.sendall(data)


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytes]:
    """Receives the next message and its data. Raises EOFError if the other end was closed."""
    text_size, data_size = HEADER.unpack(_exactly(connection, HEADER.size))
    return json.loads(_exactly(connection, text_size)), _exactly(connection, data_size)


def _exactly(connection: socket.socket, size: int) -> bytes:
    found = bytearray(size)
    view, done = memoryview(found), 0
    while done < size:
        got = connection.recv_into(view[done:])
        if not got:
            raise EOFError
        done += got
    return bytes(found)


def _limit(limits: LimitsConfig) -> None:
    """Sets the limit for the next file: the kernel kills this process when it exceeds the processor time."""
    until = math.ceil(time.process_time() + limits.decode_seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))


def _decode(request: dict[str, Any], data: bytes, limits: LimitsConfig) -> tuple[dict[str, Any], bytes]:
    kind = request["kind"]
    if kind in ("splat", "check splat"):
        splat = decode_splat(data, limits.max_gaussians, request["name"])
        if kind == "check splat":
            return {"placed": bool((np.abs(splat.means) <= MAX_COORDINATE).all(axis=1).any())}, b""
        arrays = [getattr(splat, field) for field in FIELDS]
        shapes = {field: array.shape for field, array in zip(FIELDS, arrays, strict=True)}
        return shapes | {"notes": splat.notes}, b"".join(array.tobytes() for array in arrays)
    image = read_picture(data, limits, tuple(request["formats"])).image
    if kind == "check picture":
        return {}, b""
    return {"mode": image.mode, "size": image.size}, image.tobytes()


def _main() -> None:
    limits = LimitsConfig.model_validate_json(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = int(_first_word("/proc/self/statm")) * resource.getpagesize()
    most = used + limits.decode_memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    serve(socket.socket(fileno=int(sys.argv[1])), limits)


def _first_word(path: str) -> str:
    with open(path, encoding="ascii") as file:  # noqa: PTH123
        return file.read().split()[0]


if __name__ == "__main__":
    _main()
