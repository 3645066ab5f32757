"""Numbers our own model computed, kept to notice when they change."""
