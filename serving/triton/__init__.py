"""Runs a Triton server as a child process, controls it and checks its health."""
