"""Writes the executables of the plug-ins, which start several times faster than those that pip makes.

    .venv/bin/python -m tools.launchers .venv/bin

They run this very interpreter without its site packages, which plug-ins do not need, and without looking at the
environment, which runtimes clear: so they may be linked or copied to where a runtime looks for plug-ins. They name
this folder; whoever moves it calls this again. All modules they need are compiled.
"""

from __future__ import annotations

import compileall
import os
import stat
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE_BY_NAME = {
    "felix-cni": "felix.plugins.cni.main",
    "felix-ipam": "felix.plugins.cni.ipam.main",
    "felix-mesos": "felix.plugins.mesos.main",
}
_LAUNCHER = """\
#!{python} -IS
import os
import sys

sys.path.append({root!r})
from {module} import main

code = main()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)  # there is nothing to tidy up, and tidying up takes milliseconds
"""


def render_launcher(module: str, python: str, root: str) -> str:
    """Returns the text of an executable that runs `main` of a module below `root`."""
    return _LAUNCHER.format(module=module, python=python, root=root)


def main(arguments: list[str]) -> int:
    """Every plug-in has an executable in the folder that the first argument names; returns the exit code."""
    folder = Path(arguments[0])
    python = os.path.realpath(sys.executable)
    for name, module in MODULE_BY_NAME.items():
        path, fresh = folder / name, folder / f".{name}.new"
        fresh.write_text(render_launcher(module, python, str(ROOT)), encoding="utf-8")
        fresh.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
        fresh.replace(path)
    is_compiled = compileall.compile_file(ROOT / "felix" / "__init__.py", quiet=1)
    is_compiled = compileall.compile_dir(ROOT / "felix" / "plugins", quiet=1) and is_compiled
    return 0 if is_compiled else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
