"""`felix-mesos`, the plug-in of net-modules in both its roles, and what Mesos calls a network. No packages needed."""
