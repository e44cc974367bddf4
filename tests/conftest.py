"""Compiled programs of the command line are shared by the processes of a test session, and not kept."""

import os
import tempfile

os.environ.setdefault("XDG_CACHE_HOME", tempfile.mkdtemp(prefix="bilevel-rl-tests-"))
