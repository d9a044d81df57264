"""OpenVINO's Python package, also for a user without a home folder.

Its import looks there for the user's consent to telemetry, and fails where there is none: HOME is
unset and the user id has no name, as in some containers.
"""

import os
import pathlib
import tempfile

try:
    pathlib.Path.home()
except RuntimeError:
    os.environ["HOME"] = tempfile.gettempdir()

import openvino
from openvino import opset13

__all__ = ["openvino", "opset13"]
