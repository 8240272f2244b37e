"""`python -m twotower.pipelines.cli`, the same as `twotower`."""

from twotower.pipelines.cli import main

if __name__ == "__main__":
    main(prog_name="twotower")
