"""The IPAM plug-in felix-ipam, for networks whose interfaces are made by other plug-ins."""
