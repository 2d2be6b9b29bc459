"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# a time limit per example would fail on a busy machine, not on a bug; in CI every run sees the same examples
settings.register_profile("backtrack", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("backtrack")
