"""Speed as ratios in one run, against the floor of the matrix products and against peers."""
