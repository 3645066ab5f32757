"""Boxes and points without labels: where an image is salient, made into geometric prompts."""
