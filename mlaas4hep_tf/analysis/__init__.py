"""Selections, object cuts and derived branches: what they say, what they mean, and how they are applied."""
