"""Planted truth: sets in which it is known what was copied, and the self-check on them."""
