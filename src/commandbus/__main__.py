"""`python -m commandbus`: the command line."""

from commandbus.cli import main

main(prog_name="commandbus")
