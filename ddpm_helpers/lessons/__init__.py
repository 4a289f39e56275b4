"""Machinery of one notebook each, named after it; what several notebooks use is in the package itself."""
