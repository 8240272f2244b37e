"""Events: what users do while a version answers, recorded, listed, and learned from."""
