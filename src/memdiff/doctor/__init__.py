"""What this installation has, and how fast it is."""
