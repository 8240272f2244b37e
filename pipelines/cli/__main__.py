"""`python -m twotower.pipelines.cli`, the same as `twotower`."""

from twotower.pipelines.cli import main

main(prog_name="twotower")
