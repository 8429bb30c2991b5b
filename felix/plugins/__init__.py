"""What orchestrators call: executables that ask the agent of their host. Standard library only, so they start fast."""
