"""felix-cni: the CNI plug-in. It is called by orchestrators; `felix-cni --help` says how it is configured."""

from __future__ import annotations

import os
import sys

from felix.plugins.cni.versions import SUPPORTED, render_answer

HELP = """\
felix-cni: CNI plug-in of Felix. It asks the agent of this host to attach a container: interface, addresses, routes,
and policy that is in force when the call returns. Runtimes call it with CNI_COMMAND and a configuration on stdin, as

  {"cniVersion": "1.0.0", "name": "net1", "type": "felix-cni",
   "ipam": {"type": "felix-ipam", "assign_ipv4": true, "assign_ipv6": false, "ipv4_pools": ["10.1.0.0/16"]}}

Try it by hand (as root, with an agent):
  ip netns add box
  CNI_COMMAND=ADD CNI_CONTAINERID=box CNI_NETNS=/run/netns/box CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin \\
    felix-cni < net1.conf

Exit code 0, or 1 with an error document {code, msg, details} on stdout. All settings: docs/cni.md.
"""


def main() -> int:
    """Does what CNI_COMMAND says; returns the exit code."""
    return enter(HELP, "felix-cni")


def enter(text: str, plugin: str) -> int:
    """Answers what needs no configuration; all else goes to the plug-in's verbs. Returns the exit code."""
    command = os.environ.get("CNI_COMMAND", "")
    if command == "VERSION":
        sys.stdout.write(render_answer())
        return 0
    spoken = f"CNI protocol versions supported: {', '.join(SUPPORTED)}\n"
    if {"--help", "-h", "--version"}.intersection(sys.argv[1:]):
        sys.stdout.write(f"{plugin}: {spoken}" if "--version" in sys.argv[1:] else text + spoken)
        return 0
    if not command:
        sys.stderr.write(text + spoken)
        return 0
    from felix.plugins.cni.driver import run  # VERSION and help do without what encodes JSON

    if plugin == "felix-ipam":
        from felix.plugins.cni.ipam.serve import VERBS
    else:
        from felix.plugins.cni.serve import VERBS
    return run(plugin, VERBS)


if __name__ == "__main__":
    sys.exit(main())
