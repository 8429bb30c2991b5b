"""The CNI plug-ins felix-cni and felix-ipam, specification 0.1.0 to 1.1.0. Standard library only, few modules of it."""
