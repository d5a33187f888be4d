"""The path and flags with which scripts and tests start Debian's Chromium through playwright."""

from pathlib import Path

PATH = Path("/usr/bin/chromium")

FLAGS = [  # WebGL2 in software; no network access by the browser itself
    *("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--ignore-gpu-blocklist", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
