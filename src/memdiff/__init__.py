"""Memorisation in generative diffusion models: measure it, explain it, prevent it."""
