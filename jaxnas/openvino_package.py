"""OpenVINO's Python package without its telemetry.

Its import would report to Intel in a thread of its own, look in the home folder for the user's
consent, and fail for a user without one. It uses its own stand-in where the package that reports is
missing.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if not installed

import openvino  # noqa: E402
from openvino import opset13  # noqa: E402

__all__ = ["openvino", "opset13"]
