"""Training score networks: the loop, the monitor, ensembles and networks."""
