"""Checks that a file does only what its name and its folder allow.

A file under felix/ is *pure* unless its name, or its folder, says that it is *shell*: pure files neither wait, nor do
they touch files, sockets, processes, clocks or logs. Two folders live by themselves: star/ imports nothing else of
felix, and plugins/ imports the standard library only, because the time an interpreter needs to start is the user's.

    python -m tools.checks.purity        prints `file:line: reason` per finding; exit code 1 if there is one
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from tools.checks.sources import ROOT, list_files

SHELL_NAMES = frozenset(
    "agent ask clock load driver features read watch apply serve sweep main __main__ etcd lease report mailbox".split()
)
SHELL_FOLDERS = frozenset({"obs", "cli", "star", "lab"})
GENERATED_FOLDERS = frozenset({"felix/datastore/rpc"})

IMPURE_MODULES = frozenset(
    """asyncio os io socket subprocess time logging threading multiprocessing concurrent select selectors signal shutil
    tempfile fcntl mmap ctypes pty resource random secrets http urllib ssl sched contextvars
    uvloop grpc aiohttp pyroute2 nftables prometheus_client""".split()
)
IMPURE_NAMES = frozenset({("pathlib", "Path"), ("datetime", "now")})
IMPURE_CALLS = frozenset({"open", "print", "input", "exec", "eval", "breakpoint"})
CLOCK_METHODS = frozenset({"now", "utcnow", "today"})


class Finding(NamedTuple):
    """One line that its file may not contain. line counts from 1."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


class Import(NamedTuple):
    """One imported module or name: `import a.b` has no name, `from a import b` has."""

    line: int
    module: str
    name: str


def is_shell(path: str) -> bool:
    """Whether the file at `path` (felix/...) may wait and touch the world, by its name or a folder's."""
    parts = PurePosixPath(path)
    return parts.stem in SHELL_NAMES or not SHELL_FOLDERS.isdisjoint(parts.parts[:-1])


def find_impurities(path: str, source: str) -> list[Finding]:
    """Returns what the file at `path` does but may not do, in line order; empty for a good file.

    A file that is no Python is one finding.
    """
    try:
        tree = ast.parse(source, path)
    except SyntaxError as error:
        return [Finding(path, error.lineno or 0, f"is no Python: {error.msg}")]
    findings = [Finding(path, *lapse) for lapse in _folder_lapses(PurePosixPath(path).parts, tree)]
    if not is_shell(path):
        findings += [Finding(path, *lapse) for lapse in _pure_lapses(tree)]
    return sorted(findings, key=lambda finding: finding.line)


def _pure_lapses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for imported in _imports(tree):
        if imported.module.partition(".")[0] in IMPURE_MODULES:
            yield imported.line, f"a pure file may not import {imported.module}"
        elif (imported.module, imported.name) in IMPURE_NAMES:
            yield imported.line, f"a pure file may not import {imported.name} from {imported.module}"
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS:
                yield node.lineno, f"a pure file may not call {name}()"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="datetime" | "date"), attr=name)) if (
                name in CLOCK_METHODS
            ):
                yield node.lineno, f"a pure file gets the time as an argument, it may not call {name}()"
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                yield node.lineno, "a pure file may not wait"


def _folder_lapses(folders: tuple[str, ...], tree: ast.Module) -> Iterator[tuple[int, str]]:
    for imported in _imports(tree):
        top = imported.module.partition(".")[0]
        if folders[:2] == ("felix", "star") and top == "felix" and not imported.module.startswith("felix.star"):
            yield imported.line, f"star/ stands alone, it may not import {imported.module}"
        if folders[:2] == ("felix", "plugins"):
            is_own = imported.module.startswith("felix.plugins")
            if not is_own and top not in sys.stdlib_module_names:
                yield imported.line, f"plugins/ may only import the standard library, not {imported.module}"


def _imports(tree: ast.Module) -> Iterator[Import]:
    """Yields what is imported anywhere in the file, except for type checkers only."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                pending.extend(node.orelse)
                continue
            case ast.Import():
                yield from (Import(node.lineno, alias.name, "") for alias in node.names)
            case ast.ImportFrom(module=module, level=0) if module is not None:
                yield from (Import(node.lineno, module, alias.name) for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def main() -> int:
    """Prints what is wrong in the tree; returns the exit code."""
    paths = [path for path in list_files("felix/*.py") if not _is_generated(path.relative_to(ROOT).as_posix())]
    findings = [
        finding
        for path in paths
        for finding in find_impurities(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]
    print("\n".join(map(str, findings)) or f"{len(paths)} files do what their names allow")
    return 1 if findings else 0


def _is_generated(path: str) -> bool:
    return any(path.startswith(folder + "/") for folder in GENERATED_FOLDERS)


if __name__ == "__main__":
    sys.exit(main())
