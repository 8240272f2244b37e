"""Fault benchmark: kills and concurrent commands on a run folder, the served model's memory."""
