"""The command line: ``lpsphere ...``."""

from lpsphere.cli.app import main

__all__ = ["main"]
