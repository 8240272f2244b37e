"""A Triton server as a child process: start, guard, control, health."""
