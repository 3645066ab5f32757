"""Training: setup, fit, validate, and the state that makes a run resumable."""
