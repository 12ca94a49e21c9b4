"""`python -m eager` is `eager`."""

from eager.cli import main

main(prog_name="eager")
