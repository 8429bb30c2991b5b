"""Reads the settings that this host gives: environment and file. Those of the datastore come later, as resources."""

from __future__ import annotations

import configparser
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from felix.config.resolve import ENVIRONMENT_PREFIX, Kind, Resolved, Source, resolve
from felix.config.table import Settings
from felix.errors import DataError

DEFAULT_CONFIG_FILE = Path("/etc/calico/felix.cfg")


class _Parser(configparser.RawConfigParser):
    """Keeps names as they are spelled, for messages."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def load_local(config_file: Path | None = None, environ: Mapping[str, str] | None = None) -> tuple[Source, Source]:
    """Returns what environment and file say, in this order, the stronger first.

    config_file: None for the default one, which may be absent; one that is given must exist.
    environ: None for that of this process. Raises DataError when the file cannot be read; nothing was changed.
    """
    variables = os.environ if environ is None else environ
    given = {
        name: value
        for name, value in variables.items()
        if name.upper().startswith(ENVIRONMENT_PREFIX) and len(name) > len(ENVIRONMENT_PREFIX)
    }
    return Source(Kind.ENVIRONMENT, "environment", given), load_file(config_file)


def load_file(config_file: Path | None) -> Source:
    """Returns what the file says, all its sections as one; effects and errors as `load_local`."""
    path = config_file or DEFAULT_CONFIG_FILE
    parser = _Parser(interpolation=None, default_section="\0", allow_no_value=True)
    try:
        parser.read_string(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        if config_file is not None:
            raise DataError(f"settings file {path} does not exist; create it or leave the option away") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"settings file {path} cannot be read: {error}") from error
    except configparser.Error as error:
        reason = " ".join(str(error).split())
        raise DataError(f"settings file {path} is no INI file: {reason}") from error
    lines = {name: value or "" for section in parser.sections() for name, value in parser.items(section)}
    return Source(Kind.FILE, str(path), lines)


def load_settings(config_file: Path | None = None, environ: Mapping[str, str] | None = None) -> Resolved:
    """Returns the settings that this host gives by itself, with FelixHostname filled in and all files there.

    Raises DataError that names each setting, its value and its source when one cannot be used.
    """
    sources = load_local(config_file, environ)
    resolved = resolve((*sources, host_source()))
    faults = [str(problem) for problem in resolved.problems] + find_missing_files(resolved)
    if faults:
        raise DataError("\n".join(faults))
    return resolved


def host_source() -> Source:
    """Returns what the system itself says, weaker than any other source: the name of this host."""
    return Source(Kind.FILE, "system", {"FelixHostname": socket.gethostname().lower()})


def find_missing_files(resolved: Resolved) -> list[str]:
    """Returns one message per file that a setting names and this process cannot read; empty when there is none."""
    settings: Settings = resolved.settings
    messages = []
    for name, attribute, path in (
        ("EtcdCaFile", "etcd_ca_file", settings.etcd_ca_file),
        ("EtcdCertFile", "etcd_cert_file", settings.etcd_cert_file),
        ("EtcdKeyFile", "etcd_key_file", settings.etcd_key_file),
    ):
        if path and not os.access(path, os.R_OK):
            source = resolved.origin_by_attribute[attribute].source
            messages.append(f"{source}: {name}: give a file that exists and can be read (seen: {path})")
    return messages
