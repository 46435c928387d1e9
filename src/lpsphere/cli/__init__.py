"""The command line: ``lpsphere train | evaluate | report``."""

from lpsphere.cli.app import main

__all__ = ["main"]
