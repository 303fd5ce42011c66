"""`python -m cli` is `nordmesh`."""

from cli.app import run

run()
