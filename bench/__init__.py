"""Measurements: ratios against the bare library, taken in one run. Not part of the tests."""
