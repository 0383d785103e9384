"""Selections, object cuts and derived branches: what they say, what they mean for some files, and how they are applied."""
