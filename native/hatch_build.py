"""Build hook: compiles c/fast.c with the compiler of the isolated build and adds it to the wheel.

It uses the stable ABI of Python 3.11, so one wheel serves every later version on this platform.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "touchstream_native/fast.abi3.so"
# `baseline`: the wheel may run on an older processor than the one that built it. `no-fast-math` is the default; said,
# because the last bit of every number counts.
FLAGS = [
    *("-std=c11", "-D_GNU_SOURCE", "-O2", "-mcpu=baseline", "-fno-fast-math", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=hidden", "-s"),
]


class CompileHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the library to the package and tags the wheel for this platform and every Python from 3.11 on."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; `build_data` is hatch's, changed in place."""
        if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
            raise RuntimeError("the stable ABI is that of CPython with its global lock")
        self.scratch = Path(tempfile.mkdtemp(prefix="touchstream-native-"))
        library = self.scratch / "fast.abi3.so"
        undefined = ["-Wl,-undefined,dynamic_lookup"] if sys.platform == "darwin" else []
        # A cache in the scratch folder: builds need no home directory, and leave nothing behind.
        env = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(self.scratch / "cache")}
        compiler = [sys.executable, "-m", "ziglang", "cc"]
        command = [*compiler, *FLAGS, *undefined, "c/fast.c", "-o", str(library), "-lm"]
        subprocess.run(command, cwd=self.root, env=env, check=True)
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{_platform_tag()}"
        build_data["force_include"][str(library)] = LIBRARY

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Drop the scratch directory; the wheel holds its own copy by now."""
        shutil.rmtree(self.scratch, ignore_errors=True)


def _platform_tag() -> str:
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
