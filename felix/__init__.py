"""Felix: the per-host networking and security agent of an IP-per-container data centre."""
