"""Pages as a browser shows them: headless Chromium, from files."""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from xml.sax.saxutils import quoteattr

import pytest


@dataclasses.dataclass(frozen=True)
class Opened:
    """A page that Chromium opened.

    Attributes:
      dom: its document after loading, as HTML.
      console: messages on its console: errors, and whatever scripts print.
    """

    dom: str
    console: list[str]


def open_page(file: pathlib.Path) -> Opened:
    """Opens a file; skips the test without Chromium, or fails it where CI is set."""
    chromium = shutil.which("chromium")
    if chromium is None:
        reason = "chromium is not installed (Debian: apt install chromium)"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",  # as root
                "--disable-gpu",
                "--enable-logging=stderr",
                "--allow-file-access-from-files",
                f"--user-data-dir={profile}",
                "--dump-dom",
                file.resolve().as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Opened(done.stdout, console)


def least_width_px(file: pathlib.Path, width_px: int, folder: pathlib.Path) -> int:
    """Returns the width that a page needs where it gets `width_px`: more, if it must be scrolled.

    Args:
      file: the page.
      width_px: width of the frame that it is shown in.
      folder: folder for the page with the frame.
    """
    frame = folder / "frame.html"
    frame.write_text(
        f"<iframe src={quoteattr(file.resolve().as_uri())} width={width_px} "
        f'onload="document.title = contentDocument.documentElement.scrollWidth"></iframe>'
    )
    return int(re.search(r"<title>(\d+)</title>", open_page(frame).dom)[1])
