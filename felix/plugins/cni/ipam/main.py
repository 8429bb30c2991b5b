"""felix-ipam: the CNI IPAM plug-in, for `bridge`, `ptp` and others that make interfaces themselves."""

from __future__ import annotations

import sys

from felix.plugins.cni.main import enter

HELP = """\
felix-ipam: CNI IPAM plug-in of Felix. It gives a container addresses of Felix's pools, under any plug-in that makes the
interface itself. (felix-cni does not run it: there the agent assigns addresses while it attaches.) Configured as

  {"cniVersion": "1.0.0", "name": "net1", "type": "bridge", "bridge": "br0", "isDefaultGateway": true,
   "ipam": {"type": "felix-ipam", "ipv4_pools": ["10.9.0.0/24"], "gateway": "10.9.0.1/24"}}

Exit code 0, or 1 with an error document {code, msg, details} on stdout. All settings: docs/cni.md.
"""


def main() -> int:
    """Does what CNI_COMMAND says; returns the exit code."""
    return enter(HELP, "felix-ipam")


if __name__ == "__main__":
    sys.exit(main())
