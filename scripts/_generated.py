"""The parts of pages that a script writes, between two marks."""

from __future__ import annotations

import sys

import _venv

END = "<!-- end -->"


def update(page: str, script: str, text: str, *, check: bool) -> None:
    """Writes `text` between the marks of a page. check: only exits with 1 if the page is out of date."""
    begin = f"<!-- made by scripts/{script}: begin -->"
    path = _venv.ROOT / page
    before = path.read_text(encoding="utf-8")
    head, found, rest = before.partition(begin)
    _, end, tail = rest.partition(END)
    if not found or not end:
        sys.exit(f"{page}: it must have the lines {begin} and {END}, between which the table is written")
    after = f"{head}{begin}\n{text}\n{END}{tail}"
    if after == before:
        return
    if check:
        sys.exit(f"{page}: not up to date: run scripts/{script}")
    path.write_text(after, encoding="utf-8")
    print(f"{page}: written")
