"""Whether a CNI plug-in does what the specification says: it is called as a runtime calls it, on the real kernel."""
