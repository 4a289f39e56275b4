"""Machinery of one notebook each, named after it."""
