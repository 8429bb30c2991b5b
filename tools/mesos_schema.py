"""Takes the schema of NetworkInfo out of published packages `mesos.interface`, for tests to hold ours against.

    pip download --no-deps --no-binary :all: mesos.interface==1.7.2
    python -m tools.mesos_schema mesos.interface-1.7.2.tar.gz ...

The package cannot be installed beside Felix: it wants protobuf below 4. What it is, generated code, holds the schema
as bytes; those messages of it that say something of a container's network are written to tests/support/mesos_schema,
one file per version, in protobuf's text format.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

from tools.checks.sources import ROOT

TARGET = ROOT / "tests" / "support" / "mesos_schema"
ROOTS = ("ContainerStatus", "NetworkInfo", "Labels")
_MODULE = "mesos_pb2.py"


def main(packages: list[str]) -> int:
    """Writes the schema of each package; returns the exit code."""
    if not packages:
        sys.stderr.write(__doc__ or "")
        return 2
    for package in map(Path, packages):
        with tarfile.open(package) as archive:
            member = next(member for member in archive if member.name.endswith(_MODULE))
            stream = archive.extractfile(member)
            assert stream is not None
            schema = keep(find_schema(stream.read().decode()), ROOTS)
        version = package.name.removeprefix("mesos.interface-").removesuffix(".tar.gz")
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        head = (
            f"# From {member.name.partition('/')[2]} of {package.name} (PyPI, sha256 {digest}),\n"
            "# by tools/mesos_schema.py. Apache Mesos is licensed under the Apache License, Version 2.0.\n"
        )
        (TARGET / f"{version}.textproto").write_text(head + text_format.MessageToString(schema), encoding="utf-8")
    return 0


def find_schema(source: str) -> FileDescriptorProto:
    """Returns the schema that generated code carries. Raises StopIteration when there is none."""
    literals = (
        node.value
        for keyword in ast.walk(ast.parse(source))
        if isinstance(keyword, ast.keyword) and keyword.arg == "serialized_pb"
        for node in ast.walk(keyword.value)
        if isinstance(node, ast.Constant)
    )
    literal = next(value for value in literals if isinstance(value, str | bytes))
    return FileDescriptorProto.FromString(literal.encode("latin1") if isinstance(literal, str) else literal)


def keep(schema: FileDescriptorProto, roots: tuple[str, ...]) -> FileDescriptorProto:
    """Returns the schema with those messages alone that the roots need."""
    by_name = {message.name: message for message in schema.message_type}
    wanted: set[str] = set()
    pending = [name for name in roots if name in by_name]
    while pending:
        name = pending.pop()
        if name in by_name and name not in wanted:
            wanted.add(name)
            pending += [used.split(".")[2] for used in _types(by_name[name]) if used]  # of .mesos.Outer.Nested
    kept = FileDescriptorProto(name=schema.name, package=schema.package)
    kept.message_type.extend(message for message in schema.message_type if message.name in wanted)
    return kept


def _types(message: DescriptorProto) -> Iterator[str]:
    for field in message.field:
        yield field.type_name
    for nested in message.nested_type:
        yield from _types(nested)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
