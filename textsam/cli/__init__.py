"""The command line. Importing it does not import torch."""

from textsam.cli.main import app

__all__ = ["app"]
