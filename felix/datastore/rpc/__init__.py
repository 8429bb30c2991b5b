"""The etcd v3 messages that Felix exchanges, and nothing else of etcd's interface."""
