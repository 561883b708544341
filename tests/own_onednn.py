"""Where oneDNN's own library must be: requirements.txt has its package for no other system."""

import platform
import sys

import pytest

HAS_ONEDNN = sys.platform == "linux" and platform.machine() == "x86_64"
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="the package is for Linux on x86-64 alone")
