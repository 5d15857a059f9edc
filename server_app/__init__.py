"""What runs on the server, and the only place that writes results."""
