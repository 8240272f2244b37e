"""Ali-CCP in its official text files: reading them, and making some of the same format."""
