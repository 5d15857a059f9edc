"""What only a simulation has: data dealt to nodes, an in-process grid, node memory on disk."""
