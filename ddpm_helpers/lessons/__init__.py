"""What one notebook each needs; the core knows nothing of it."""
