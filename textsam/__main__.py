"""`python -m textsam`."""

from textsam.cli import app

app()
